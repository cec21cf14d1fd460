"""Turn a checkpoint of a BERT script into ONNX, in float32 and in int8.

    python export.py CHECKPOINT OUT           OUT/fp32 and OUT/int8, each a checkpoint of its own
    python predict.py OUT/int8 "오늘 공연 너무 좋았다"

Both are compared with the checkpoint, on the lines that it was tuned on or on those of --lines.
"""

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import utils
from emotion import checkpoint, classifier, cli, outputs, process


def argument_parser() -> cli.ArgumentParser:
    """The command line."""
    parser = cli.ArgumentParser("export.py", __doc__)
    told = "best/ of a run of a BERT script, or its output directory"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=told)
    parser.add_argument("output", metavar="OUT", type=Path, help="a directory; none is overwritten")
    told = "a corpus file to compare on; default: dev of the run, or of the sample"
    parser.add_argument("--lines", metavar="FILE", type=Path, help=told)
    return parser


def lines_of(path: Path, given: Path | None) -> list[utils.Row]:
    """The lines to compare on, of a checkpoint."""
    noted = (outputs.read_json(path.parent / "run.json") or {}).get("data", {}).get("dev", {})
    found = Path(noted["file"]) if noted and Path(noted["file"]).is_file() else None
    return utils.read_corpus(given or found or utils.SAMPLE / "dev.jsonl")


def export(args: argparse.Namespace) -> None:
    """Export, compare, and move what was made to where it is wanted."""
    if args.output.exists():
        raise utils.InputError(f"{args.output}: is there, and nothing is overwritten")
    if not args.output.absolute().parent.is_dir():
        raise utils.InputError(f"{args.output}: its directory is not there; make it")
    path = classifier.find(args.checkpoint)
    found = checkpoint.check_encoder(path, ("Classification", "Classifier"), "auto")
    rows = lines_of(path, args.lines)

    from emotion import encoder, inputs, onnx_model

    tokenizer, model = encoder.load(path)
    model.eval()
    tokenizer.model_max_length = inputs.longest_input(tokenizer, model)  # weights told it till now
    reader = inputs.Inputs(model, tokenizer, "fp32")
    reader.tells_lengths = False
    batch = reader.batch(inputs.encode(rows[:2] * 2, tokenizer, model, True))
    with tempfile.TemporaryDirectory(dir=args.output.absolute().parent) as scratch:
        made = Path(scratch, "out")
        for kind in onnx_model.KINDS:
            (made / kind).mkdir(parents=True)
            onnx_model.copy_beside(path, made / kind)
            tokenizer.save_pretrained(made / kind)
        onnx_model.write(model, batch, made)
        compare(path, made, rows, found)
        made.rename(args.output)


def compare(path: Path, made: Path, rows: list[utils.Row], found: checkpoint.Checkpoint) -> None:
    """Print how far the scores of what was made are from those of the checkpoint, in float32."""

    def scores(directory: Path) -> np.ndarray:
        return classifier.load(directory, 0.5, "fp32").score_rows(rows, lambda lines: None)

    expected = scores(path)
    print(f"against {path} in float32, on {len(rows)} lines of {len(found.labels)} labels:")
    for directory in sorted(made.iterdir()):
        given = scores(directory)
        off = np.abs(given - expected).max()
        changed = int((found.rule(given) != found.rule(expected)).sum())
        size = sum(file.stat().st_size for file in directory.glob("*.onnx")) / 2**20
        told = f"scores differ by {off:.1g} at most, {changed} of {given.size} decisions"
        print(f"  {directory.name}: {size:.0f} MiB; {told}")


def main(argv: Sequence[str] | None = None) -> None:
    """Export."""
    parser = argument_parser()
    args = parser.parse_args(argv)
    process.quiet_libraries()
    utils.log.handlers = [logging.StreamHandler(sys.stderr)]
    utils.log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            export(args)
    except (utils.InputError, RuntimeError, MemoryError, OSError) as error:
        code, told = cli.how_it_ended(error, args, "")
        if code is None:
            raise
        parser.exit(code, f"export.py: {told}\n")


if __name__ == "__main__":
    main()
