"""Tell which emotion a Korean sentence shows with a model fine-tuned by gpt_train.py.

The presence of each is decided from the probability that the model goes on from the prompt to its
answer, or with --objective head in training from that of the trained head.

    python gpt_inference.py --model-ckpt-path outputs/gpt_train/best
                                     predict the dev file, and the test file if there is one
    python gpt_inference.py --model-ckpt-path outputs/gpt_train/best --test-file FILE
    python gpt_inference.py --sample
                                     predict the sample with what gpt_train.py --sample trained
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import utils
from emotion import checkpoint, cli, data, ending
from emotion.run import Run


def argument_parser() -> cli.ArgumentParser:
    """The command line."""
    parser = cli.ArgumentParser("gpt_inference.py", __doc__)
    _, model = cli.add_model_arguments(parser, "gpt_inference")
    told = "best/ of a run of gpt_train.py; required, but with --sample: outputs/gpt_train/best"
    model.add_argument("--model-ckpt-path", metavar="DIR", type=Path, help=told)
    told = "the base that the adapter belongs on; default: the one that the checkpoint names"
    model.add_argument("--model", help=told)
    told = "lines scored at once; default: as many as fill 4,096 tokens"
    cli.count(model, "--batch-size", None, told)
    cli.set_sample_defaults(parser, model_ckpt_path=Path("outputs", "gpt_train", "best"))
    return parser


def predict(args: argparse.Namespace, run: Run) -> None:
    """Model, scores, decision rule, predictions."""
    path = args.model_ckpt_path
    if path is None:
        told = "give best/ of a run of gpt_train.py"
        raise utils.InputError(f"--model-ckpt-path is required (or --sample); {told}")
    if args.sample and not path.exists():
        mend = "make one with python gpt_train.py --sample"
        raise utils.InputError(f"{path}: there is no such checkpoint; {mend}")
    found, base = checkpoint.check_adapter(path, args.threshold, args.model)
    files = data.check_to_predict(args, run, found.labels)
    utils.log.info(checkpoint.describe_model(base))

    from emotion import causal, scoring

    scoring.check_devices()
    score, facts = causal.load_scorer(path, base, found, args.precision, args.batch_size)
    run.note(checkpoint=path.resolve(), **facts)
    ending.predict_files(run, found, files, score)


def main(argv: Sequence[str] | None = None) -> None:
    """Predict."""
    cli.run_script(argument_parser(), predict, argv)


if __name__ == "__main__":
    main()
