"""The linear model that the others are measured against: one-vs-rest logistic regression on character n-grams.

    python tests/benchmarks/linear.py --corpus DIR --output-dir DIR

The corpus holds train.jsonl, dev.jsonl and test.jsonl, all labelled. The threshold is tuned on dev, as in the scripts, and the
run directory is one like theirs, for ensemble.py and results.py to compare.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

import utils


def main(args):
    model = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), min_df=2, sublinear_tf=True),
        OneVsRestClassifier(LogisticRegression(C=5, max_iter=1000)),
    )
    texts, labels, corpora = {}, {}, {}
    for split in ("train", "dev", "test"):
        setattr(args, f"{split}_file", args.corpus / f"{split}.jsonl")
        corpora[split] = utils.read_corpus(args.corpus / f"{split}.jsonl", labelled=True)
        texts[split] = [" ".join(filter(None, utils.text_and_target(row))) for row in corpora[split]]
        labels[split] = utils.encode_labels(corpora[split])
    run = utils.start_run(args, corpora, "cpu")
    model.fit(texts["train"], labels["train"])
    scores = {split: model.predict_proba(texts[split]).round(6) for split in ("dev", "test")}
    threshold = utils.choose_threshold(args, labels["dev"], scores["dev"])
    utils.evaluate_and_write(args, {split: [(corpora[split], values)] for split, values in scores.items()}, threshold)
    utils.finish_run(args, run)


if __name__ == "__main__":
    parser = utils.ArgumentParser(__doc__)
    parser.add_argument("--corpus", metavar="DIR", type=Path, required=True)
    utils.add_threshold_argument(parser)
    utils.add_output_argument(parser, "linear")
    args = parser.parse_args()
    with utils.errors_for_people(parser, args):
        utils.check_output_dir(args.output_dir, resume=False)
        main(args)
