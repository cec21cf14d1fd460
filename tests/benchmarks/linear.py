"""The linear model that the others are measured against: logistic regression on character n-grams.

    python tests/benchmarks/linear.py --corpus DIR --output-dir DIR

One classifier for each label. The corpus holds train.jsonl, dev.jsonl and test.jsonl, all labelled.
The threshold is tuned on dev, as in the scripts, and the run directory is one like theirs, for
ensemble.py and results.py to compare.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

import utils
from emotion import cli, data, ending
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
    model = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), min_df=2, sublinear_tf=True),
        OneVsRestClassifier(LogisticRegression(C=5, max_iter=1000)),
    )
    model.fit(texts["train"], corpora.gold["train"])

    def score(split, after_batch):
        return model.predict_proba(texts[split]).round(6)

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
