"""Fine-tune an encoder to tell which of eight emotions a Korean sentence shows towards its target.

A fully-connected head on the encoder's [CLS], a sigmoid for each emotion, binary cross-entropy.

    python bert_plain.py             klue/roberta-large on the national corpus, on one GPU
    python bert_plain.py --sample    a tiny model on the sample corpus: offline, on a CPU
    python bert_plain.py --model-ckpt-path outputs/bert_plain/best --test-file FILE --output-dir DIR
                                     predict a file with a trained checkpoint
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import utils
from emotion import checkpoint, cli, data, ending, systems
from emotion.run import Run

SAMPLE = {"model": utils.SAMPLE / "roberta-tiny", "epochs": 8, "lr": 2e-3, "train_batch_size": 48}
PREDICTS_WITH = {"model_ckpt_path", "dev_file", "test_file", "sample", "precision", "threshold"}
PREDICTS_WITH |= {"val_batch_size", "output_dir"}  # flags of use without a training


def argument_parser(script: str, description: str | None) -> cli.ArgumentParser:
    """The command line that both BERT scripts share."""
    parser = cli.ArgumentParser(f"{script}.py", description)
    files, model = cli.add_model_arguments(parser, script)
    told = "a checkpoint (best/ of a run) to predict with, instead of training"
    model.add_argument("--model-ckpt-path", metavar="DIR", type=Path, help=told)
    defaults = {"model": "klue/roberta-large", "lr": 2e-5, "save_steps": None}
    training = cli.add_training_arguments(parser, files, model, defaults)
    cli.count(training, "--train-batch-size", 24, "lines of a step, in each process")
    cli.count(training, "--val-batch-size", 48, "lines scored at once")
    decay = cli.number(float, 0)
    told = "not on biases and layer norms; default: %(default)s"
    training.add_argument("--weight-decay", metavar="W", type=decay, default=0.01, help=told)
    told = "an average of the runs of all folds, whose scores of train are learnt as much as the "
    told += "labels"
    training.add_argument("--soft-labels", metavar="RUN", type=Path, help=told)
    cli.set_sample_defaults(parser, **SAMPLE)
    return parser


class EncoderTask:
    """An encoder under a head, reading sentence and target as a pair; binary cross-entropy.

    Args:
        head: a key of `emotion.modeling.HEADS`.
        taught: what is learnt of train, [lines, labels].
        processes: that part a batch.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        corpora: data.Corpora,
        head: str,
        taught: np.ndarray,
        processes: int,
    ) -> None:
        from emotion import encoder, scoring, targets, task, vocabulary
        from emotion.inputs import Inputs, encode, longest_input

        self.args, self.gold, self.labels = args, corpora.gold, corpora.labels
        self.taught = taught
        loaded = encoder.load_to_train(args.model, corpora.labels, head)
        self.tokenizer, self.model, self.new_weights = loaded
        config = self.model.config  # both are saved with it
        config.normalise_text, config.target_marks = targets.reading(args)
        self.examples = {
            split: encode(rows, self.tokenizer, self.model, split == "test")
            for split, rows in targets.unplace_some(corpora.rows).items()
        }
        train = [example["input_ids"] for example in self.examples["train"]]
        self.lengths = [len(input_ids) for input_ids in train]
        vocabulary.check_unknown(self.tokenizer, train)
        self.precision = scoring.resolve_precision(args.precision)
        self.inputs = Inputs(self.model, self.tokenizer, self.precision)
        self.tokenizer.model_max_length = longest_input(self.tokenizer, self.model)
        every = list(itertools.chain.from_iterable(self.examples.values()))
        self.inputs.check(self.model, every, reads_cls=head in ("cls", "gru"))
        rates = args.lr, args.head_lr, args.weight_decay
        self.parameters = task.parameter_groups(self.model, self.new_weights, *rates)
        self.lines_at_once = getattr(args, "lines_at_once", args.train_batch_size)
        self.lines = args.train_batch_size * processes

    def describe(self) -> str:
        """What was resolved and derived, and an example as the model reads it, for the log."""
        args, model = self.args, self.model
        new = sum(p.numel() for name, p in model.named_parameters() if name in self.new_weights)
        first = self.tokenizer.decode(self.examples["train"][0]["input_ids"])
        present = [name for name, it in zip(self.labels, self.gold["train"][0], strict=True) if it]
        return (
            f"{type(model).__name__}: {model.num_parameters() / 1e6:.1f} M parameters on "
            f"{self.inputs.device}, {self.precision}\n"
            f"{args.epochs} epochs in steps of {self.lines} lines; learning rate {args.lr:g}, "
            f"{args.head_lr:g} for the {new:,} new weights\n"
            f"first example: {first} -> {', '.join(present) or 'no emotion'}"
        )

    def batches(self, epoch: int) -> list[list[int]]:
        """The lines of each step of an epoch, by index."""
        from emotion import task

        return task.like_length(self.lengths, self.lines, self.args.seed, epoch)

    def loss(self, model: Any, batch: Sequence[int]) -> Any:
        """The mean loss of lines of train, given by index."""
        chosen = [self.examples["train"][index] for index in batch]
        with self.inputs.autocast():
            return model(**self.inputs.batch(chosen, self.taught[list(batch)])).loss

    def score(self, model: Any, split: str, after_batch: Callable[[int], object]) -> np.ndarray:
        """Probabilities of the labels, [lines, labels]."""
        lines = self.args.val_batch_size
        return self.inputs.score(model, self.examples[split], lines, after_batch)

    def save(self, model: Any, path: Path, weights: dict[str, Any] | None) -> None:
        """Write a checkpoint; with its weights, where processes share them."""
        model.save_pretrained(path, state_dict=weights)
        self.tokenizer.save_pretrained(path)

    def load_best(self, path: Path) -> Any:
        """The model of a checkpoint, to predict with."""
        from emotion import encoder

        return encoder.load(path)[1].to(self.inputs.device).eval()


def train(args: argparse.Namespace, run: Run, head: str) -> None:
    """Data, model, training, decision rule, predictions: the recipe of both BERT approaches."""
    corpora = data.read_to_train(args, run)
    if corpora is None:
        return
    taught = corpora.gold["train"]
    if args.soft_labels:
        given = args.soft_labels, corpora, run.record["data"]["train"]["sha256"]
        taught = (taught + systems.soft_labels(*given)) / 2
        utils.log.info("soft labels: its teachers have learnt dev, so figures of dev are hopeful")
    utils.log.info(checkpoint.describe_model(args.model))

    from emotion import training

    accelerator = training.begin(run, args)
    task = EncoderTask(args, corpora, head, taught, accelerator.num_processes)
    accelerator.ddp_handler.find_unused_parameters = task.inputs.leaves_some_out
    run.note(device=str(accelerator.device), precision=task.precision)
    utils.log.info(task.describe())
    training.fit(run, args, accelerator, corpora, task)


def predict(
    args: argparse.Namespace, run: Run, parser: Any, architectures: tuple[str, ...]
) -> None:
    """Predict the files that `args`, as `parser` read them, name with a trained checkpoint.

    Args:
        architectures: what the name of its class may end in.
    """
    given = {"--resume": args.resume, "--folds": args.folds, "--soft-labels": args.soft_labels}
    if flag := next((name for name, value in given.items() if value), None):
        message = f"{flag} is for training, --model-ckpt-path only predicts; give one of them"
        raise utils.InputError(message)
    for name, default in vars(cli.parse_arguments(parser, ["--sample"] * args.sample)).items():
        if getattr(args, name) != default and name not in PREDICTS_WITH:
            told = "warning: --%s is for training; what the checkpoint was trained with is taken"
            utils.log.warning(told, name.replace("_", "-"))
    path = args.model_ckpt_path
    found = checkpoint.check_encoder(path, architectures, args.threshold)
    files = data.check_to_predict(args, run, found.labels)
    utils.log.info(checkpoint.describe_model(str(path)))

    from emotion import inputs, scoring

    scoring.check_devices()
    score, facts = inputs.load_scorer(path, args.precision, args.val_batch_size)
    run.note(checkpoint=path.resolve(), **facts)
    ending.predict_files(run, found, files, score)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, or predict with what was trained."""
    parser = argument_parser("bert_plain", __doc__)
    told = "what the head reads: the first token (the published model), the mean of all, or the "
    told += "last (of decoders); default: %(default)s"
    kinds = ("cls", "mean", "last")
    parser.add_argument("--pooling", choices=kinds, default="cls", help=told)

    def recipe(args: argparse.Namespace, run: Run) -> None:
        if args.model_ckpt_path:
            ours = (f"{name}Classifier" for name in ("MeanPooling", "FirstToken", "LastToken"))
            predict(args, run, parser, ("ForSequenceClassification", *ours))
        else:
            train(args, run, args.pooling)

    cli.run_script(parser, recipe, argv)


if __name__ == "__main__":
    main()
