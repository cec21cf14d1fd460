"""Training speed of bert_plain.py against the plain recipe: float32, batches in random order. Both sides in one run.

    python tests/benchmarks/speed.py --model DIR --corpus DIR

DIR of the corpus holds train.jsonl and dev.jsonl. Each side trains one epoch of the same model with the same batch size
and seed; the loss on dev afterwards shows that nothing was lost. Times are this machine's; read the ratio.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import utils

utils.quiet_libraries()  # before the libraries are imported

import transformers

import bert_plain

SIDES = {"plain: fp32, random order": ("fp32", "random"), "bert_plain.py": ("auto", "group_by_length")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a from_pretrained directory")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--lines", type=int, help="take the first so many lines of train.jsonl; default: all")
    parser.add_argument("--lr", default="1e-4")
    parser.add_argument("--head-lr", default="1e-2")
    parser.add_argument("--pooling", choices=("cls", "mean"), default="mean")
    options = parser.parse_args()

    rows = {split: utils.read_corpus(options.corpus / f"{split}.jsonl", labelled=True) for split in ("train", "dev")}
    rows["train"] = rows["train"][: options.lines]
    speeds = []
    print(f"{'':<28}{'lines/s':>10}{'seconds':>10}{'dev loss':>10}{'dev micro-F1':>14}")
    for name, (precision, order) in SIDES.items():
        with tempfile.TemporaryDirectory() as directory:
            rates = ["--lr", options.lr, "--head-lr", options.head_lr]
            args = bert_plain.parser.parse_args(["--model", options.model, "--epochs", "1", *rates, "--output-dir", directory])
            transformers.set_seed(args.seed)
            pooled = bert_plain.MeanPoolingClassifier
            model_class = pooled if options.pooling == "mean" else bert_plain.AutoModelForSequenceClassification
            tokenizer, model, new_weights = bert_plain.load_model(args, model_class)
            datasets = {split: bert_plain.tokenize(part, tokenizer, model.config) for split, part in rows.items()}
            precision = bert_plain.resolve_precision(precision)
            trainer = bert_plain.make_trainer(args, model, tokenizer, new_weights, datasets, precision)
            trainer.args.train_sampling_strategy = order
            trainer.args.load_best_model_at_end = False
            trainer.args.eval_strategy = trainer.args.save_strategy = "no"
            started = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - started
            speeds.append(len(rows["train"]) / seconds)
            scores = trainer.evaluate()
        print(
            f"{name:<28}{speeds[-1]:>10.1f}{seconds:>10.1f}{scores['eval_loss']:>10.4f}{scores['eval_micro_f1']:>14.4f}",
            flush=True,
        )
    print(f"{'ratio':<28}{speeds[1] / speeds[0]:>10.2f}")


if __name__ == "__main__":
    main()
