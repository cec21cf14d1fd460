"""The linear model that the others are measured against: logistic regression on character n-grams,
or on what a frozen encoder makes of a line.

    python tests/benchmarks/linear.py --corpus DIR --output-dir DIR
    python tests/benchmarks/linear.py --corpus DIR --encoder DIR --output-dir DIR

One classifier for each label; their C is the one of five that dev prefers, by the F1 of --tune with
decisions cross-fitted.
The corpus holds train.jsonl, dev.jsonl and test.jsonl, all labelled. The encoder reads text and
target as bert_plain.py does; its features are the mean of its last hidden states, standardised.
The threshold is tuned on dev, as in the scripts, and the run directory is one like theirs, for
ensemble.py and results.py to compare.
"""

import argparse
import functools
import pickle
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import utils
from emotion import cli, data, ending, rules
from emotion.run import Run

Features = dict[str, Any]  # by split, [lines, features]


def count_ngrams(rows: data.Rows) -> tuple[Features, Any]:
    """What is counted of each split, and what counts."""
    texts = {
        split: [" ".join(filter(None, utils.text_and_target(row))) for row in lines]
        for split, lines in rows.items()
    }
    vectorizer = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(1, 5), min_df=2, sublinear_tf=True, dtype=np.float32
    ).fit(texts["train"])
    return {split: vectorizer.transform(texts[split]) for split in texts}, vectorizer


def encode(rows: data.Rows, labels: Sequence[str], path: str, run: Run) -> Features:
    """The mean of a frozen encoder's last hidden states for each line."""
    import torch

    from emotion import encoder, inputs, scoring

    tokenizer, model, _ = encoder.load_to_train(path, labels, "mean")
    reads = inputs.Inputs(model, tokenizer, scoring.resolve_precision("auto"))
    run.note(device=str(reads.device), precision=reads.precision)
    model.classifier = torch.nn.Identity()  # what goes into the head comes out
    model = model.to(reads.device).eval()
    features = {}
    for split, lines in rows.items():
        examples = inputs.encode(lines, tokenizer, model, split == "test")

        @torch.inference_mode()
        def encode_batch(batch: scoring.Batch, examples: Any = examples) -> np.ndarray:
            with reads.autocast():
                given = reads.batch([examples[index] for index in batch])
                return model(**given).logits.float().cpu().numpy()

        lengths = [len(each["input_ids"]) for each in examples]
        batches = scoring.batches_by_length(lengths, 48)
        features[split] = scoring.score(batches, encode_batch, lambda lines: None)
    return features


def cost_of(model: Any, vectorizer: Any, texts: Sequence[str]) -> dict[str, float]:
    """Milliseconds a text, one at a time, and MiB of the model as it would be saved."""
    took = []
    for text in texts[:200]:
        began = time.perf_counter()
        model.predict_proba(vectorizer.transform([text]))
        took.append(1000 * (time.perf_counter() - began))
    size = len(pickle.dumps((vectorizer, model))) / 2**20
    return {"milliseconds": round(statistics.median(took), 2), "mib": round(size, 1)}


def fit(args: argparse.Namespace, run: Run) -> None:
    """Data, model, decision rule, predictions."""
    for split in data.SPLITS:
        setattr(args, f"{split}_file", args.corpus / f"{split}.jsonl")
    corpora = data.read_to_train(args, run)
    strengths, steps, vectorizer = (0.5, 1.0, 2.0, 5.0, 10.0), [], None
    if args.encoder:
        vectors = encode(corpora.rows, corpora.labels, args.encoder, run)
        strengths, steps = (0.001, 0.003, 0.01, 0.03, 0.1), [StandardScaler()]
    else:
        vectors, vectorizer = count_ngrams(corpora.rows)
        run.note(device="cpu")
    dev, sentences = corpora.gold["dev"], data.sentences(corpora.rows["dev"])
    tried, count = [], len(corpora.labels)  # of one label, a column says that it is absent
    f1, tune = rules.F1[args.tune], functools.partial(rules.fit, average=args.tune)
    for strength in strengths:
        regression = LogisticRegression(C=strength, max_iter=1000)
        model = make_pipeline(*steps, OneVsRestClassifier(regression))
        model.fit(vectors["train"], corpora.gold["train"])
        scores = model.predict_proba(vectors["dev"])[:, -count:]
        decisions = rules.cross_fitted_decisions(dev, scores, sentences, tune)
        tried.append((f1(dev, decisions), strength, model))
        utils.log.info("C %g: dev %s-F1 %.4f cross-fitted", strength, args.tune, tried[-1][0])
    _, strength, model = max(tried, key=lambda each: each[0])
    run.note(C=strength)
    if vectorizer:
        texts = [row["input"]["form"] for row in corpora.rows["dev"]]
        run.note(**cost_of(model, vectorizer, texts))

    def score(split, after_batch):
        return model.predict_proba(vectors[split])[:, -count:].round(6)

    ending.conclude(run, corpora, score, [])


def main(argv: Sequence[str] | None = None) -> None:
    """Train and predict."""
    parser = cli.ArgumentParser("linear.py", __doc__)
    parser.add_argument("--corpus", metavar="DIR", type=Path, required=True)
    parser.add_argument("--encoder", metavar="DIR", help="a from_pretrained directory; frozen")
    cli.add_folds(parser)
    cli.add_run_arguments(parser, "linear")
    cli.add_tune(parser)
    cli.run_script(parser, fit, argv)


if __name__ == "__main__":
    main()
