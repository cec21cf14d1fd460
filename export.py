"""Turn a checkpoint into what other engines take.

    python export.py CHECKPOINT OUT
                    of a BERT script: ONNX, OUT/fp32 and OUT/int8, each a checkpoint of its own
                    of gpt_train.py: adapter and base as one classifier of sequences
    python predict.py OUT/int8 "오늘 공연 너무 좋았다"

ONNX is compared with the checkpoint, on the lines that it was tuned on or on those of --lines.
"""

import argparse
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
    told = "best/ of a run, or its output directory"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=told)
    parser.add_argument("output", metavar="OUT", type=Path, help="a directory; none is overwritten")
    told = "a corpus file to compare on; default: dev of the run, or of the sample"
    parser.add_argument("--lines", metavar="FILE", type=Path, help=told)
    cli.add_threshold(parser)
    adapter = parser.add_argument_group("adapters")
    told = "where the base is, if not where the checkpoint says"
    adapter.add_argument("--model", metavar="DIR", help=told)
    told = "what the weights are written in; default: %(default)s"
    kinds = ("bf16", "fp16", "fp32")
    adapter.add_argument("--dtype", choices=kinds, default="bf16", help=told)
    return parser


def file_of_lines(path: Path, given: Path | None) -> Path:
    """The file of the lines to compare on, of a checkpoint."""
    noted = (outputs.read_json(path.parent / "run.json") or {}).get("data", {}).get("dev", {})
    found = Path(noted.get("file", ""))
    is_there = found.is_file() and outputs.identify(found)["sha256"] == noted["sha256"]
    return given or (found if is_there else utils.SAMPLE / "dev.jsonl")


def export(args: argparse.Namespace) -> None:
    """Export, compare, and move what was made to where it is wanted."""
    outputs.check_new(args.output)
    path = classifier.find(args.checkpoint)
    with tempfile.TemporaryDirectory(dir=args.output.absolute().parent) as scratch:
        made = Path(scratch, "out")
        made.mkdir()
        write = merge_adapter if (path / "prompt.json").exists() else export_encoder
        told = write(args, path, made)
        outputs.make_readable(made)
        made.rename(args.output)
    process.tell(told)


def merge_adapter(args: argparse.Namespace, path: Path, made: Path) -> str:
    """Write an adapter and its base as one classifier; returns what to tell of it."""
    found, base = checkpoint.check_adapter(path, args.threshold, args.model)
    file = file_of_lines(path, args.lines)
    rows = utils.read_corpus(file)

    from safetensors import SafetensorError

    from emotion import merge, scoring

    merged = merge.Merged(path, base, found)
    try:
        merged.write(made, scoring.DTYPES[args.dtype])
    except SafetensorError as error:  # is no OSError, of a full disk too
        told = f"cannot be written ({error}); make room, and start again"
        raise utils.RunError(f"{args.output}: {told}") from error
    alike = merged.tokenized_alike(rows)
    told = f"{merged.kind.__name__} in {args.dtype}; README.md in it says how it is asked\n"
    told += f"{alike} of {len(rows)} lines give as one text the tokens they give in parts"
    return f"{told} ({file})"


def export_encoder(args: argparse.Namespace, path: Path, made: Path) -> str:
    """Write an encoder as ONNX, and compare; returns what to tell of it."""
    found = checkpoint.check_encoder(path, checkpoint.CLASSIFIERS, args.threshold)
    if not any(path.glob("*.safetensors")):  # else these are read
        told = "is ONNX already; give the checkpoint that it was made from"
        raise utils.InputError(f"{path}: {told}")
    if args.model:
        raise utils.InputError(f"--model: {path} is no adapter, and has no base; leave it out")
    file = file_of_lines(path, args.lines)
    rows = utils.read_corpus(file)

    from emotion import encoder, inputs, onnx_model

    tokenizer, model = encoder.load(path)
    model.eval()
    # ONNX has no position embeddings to look at
    tokenizer.model_max_length = inputs.longest_input(tokenizer, model)
    reader = inputs.Inputs(model, tokenizer, "fp32")
    reader.tells_lengths = False
    batch = reader.batch(inputs.encode(rows[:2] * 2, tokenizer, model, True))
    for kind in onnx_model.KINDS:
        (made / kind).mkdir()
        onnx_model.copy_beside(path, made / kind)
        if args.threshold != "auto":
            rule = {"labels": found.labels} | found.rule._asdict()
            outputs.write_json(made / kind / "decision.json", rule)
        tokenizer.save_pretrained(made / kind)
    few = {name: each[:, :4].cpu() for name, each in batch.items()}  # a GRU is traced by the token
    onnx_model.write(model, few, made)
    return f"{compare(path, made, rows, found)}\n  lines: {file}"


def compare(path: Path, made: Path, rows: list[utils.Row], found: checkpoint.Checkpoint) -> str:
    """How far the scores of what was made are from those of the checkpoint, in float32."""

    def scores(directory: Path) -> np.ndarray:
        return classifier.load(directory, 0.5, "fp32").score_rows(rows, lambda lines: None)

    expected = scores(path)
    lines = [f"against {path} in float32, on {len(rows)} lines of {len(found.labels)} labels:"]
    for directory in sorted(made.iterdir()):
        given = scores(directory)
        off = np.abs(given - expected).max()
        changed = int((found.rule(given) != found.rule(expected)).sum())
        size = sum(file.stat().st_size for file in directory.glob("*.onnx")) / 2**20
        told = f"scores differ by {off:.1g} at most, {changed} of {given.size} decisions"
        lines.append(f"  {directory.name}: {size:.0f} MiB; {told}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Export."""
    process.quiet_libraries()
    with warnings.catch_warnings(action="ignore"):
        cli.run_tool(argument_parser(), export, argv)


if __name__ == "__main__":
    main()
