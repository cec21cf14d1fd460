"""The linear model that the others are measured against: logistic regression on character n-grams.

    python tests/benchmarks/linear.py --corpus DIR --output-dir DIR

One classifier for each label; its C is the one of 0.5 to 10 that dev prefers, decisions
cross-fitted. The corpus holds train.jsonl, dev.jsonl and test.jsonl, all labelled.
The threshold is tuned on dev, as in the scripts, and the run directory is one like theirs, for
ensemble.py and results.py to compare.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

import utils
from emotion import cli, data, ending, rules
from emotion.run import Run


def fit(args: argparse.Namespace, run: Run) -> None:
    """Data, model, decision rule, predictions."""
    for split in data.SPLITS:
        setattr(args, f"{split}_file", args.corpus / f"{split}.jsonl")
    corpora = data.read_to_train(args, run)
    run.note(device="cpu")
    texts = {
        split: [" ".join(filter(None, utils.text_and_target(row))) for row in rows]
        for split, rows in corpora.rows.items()
    }
    vectorizer = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(1, 5), min_df=2, sublinear_tf=True, dtype=np.float32
    )
    vectors = {"train": vectorizer.fit_transform(texts["train"])}
    vectors |= {split: vectorizer.transform(texts[split]) for split in texts if split != "train"}
    dev, sentences = corpora.gold["dev"], data.sentences(corpora.rows["dev"])
    tried = []
    for strength in (0.5, 1, 2, 5, 10):
        model = OneVsRestClassifier(LogisticRegression(C=strength, max_iter=1000))
        model.fit(vectors["train"], corpora.gold["train"])
        scores = model.predict_proba(vectors["dev"])
        decisions = rules.cross_fitted_decisions(dev, scores, sentences)
        tried.append((utils.micro_f1(dev, decisions), strength, model))
        utils.log.info("C %g: dev micro-F1 %.4f cross-fitted", strength, tried[-1][0])
    _, strength, model = max(tried, key=lambda each: each[0])
    run.note(C=strength)

    def score(split, after_batch):
        return model.predict_proba(vectors[split]).round(6)

    ending.conclude(run, corpora, score, [])


def main(argv: Sequence[str] | None = None) -> None:
    """Train and predict."""
    parser = cli.ArgumentParser("linear.py", __doc__)
    parser.add_argument("--corpus", metavar="DIR", type=Path, required=True)
    parser.set_defaults(folds=None, fold=None)
    cli.add_run_arguments(parser, "linear")
    cli.add_tune(parser)
    cli.run_script(parser, fit, argv)


if __name__ == "__main__":
    main()
