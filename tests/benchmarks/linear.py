"""The linear model that the others are measured against: one-vs-rest logistic regression on character n-grams.

    python tests/benchmarks/linear.py --corpus DIR

DIR holds train.jsonl, dev.jsonl and test.jsonl, all labelled. The threshold is tuned on dev, as in the scripts.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

import utils


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    args = parser.parse_args()
    model = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), min_df=2, sublinear_tf=True),
        OneVsRestClassifier(LogisticRegression(C=5, max_iter=1000)),
    )
    texts, labels = {}, {}
    for split in ("train", "dev", "test"):
        rows = utils.read_corpus(args.corpus / f"{split}.jsonl", labelled=True)
        texts[split] = [" ".join(filter(None, utils.text_and_target(row))) for row in rows]
        labels[split] = utils.encode_labels(rows)
    model.fit(texts["train"], labels["train"])
    threshold = utils.tune_threshold(labels["dev"], model.predict_proba(texts["dev"]))
    print(f"{'':<8}{'micro-F1':>10}{'at 0.5':>10}{'always one emotion':>22}")
    for split in ("dev", "test"):
        scores = model.predict_proba(texts[split])
        tuned, half = (utils.micro_f1(labels[split], utils.decide(scores, value)) for value in (threshold, 0.5))
        baseline, emotion = utils.majority_micro_f1(labels[split])
        print(f"{split:<8}{tuned:>10.3f}{half:>10.3f}{baseline:>14.3f} {emotion}")


if __name__ == "__main__":
    main()
