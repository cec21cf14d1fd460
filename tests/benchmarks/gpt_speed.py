"""Speed of the GPT scripts against another checkout of this repository, all in one run.

    git worktree add ../before COMMIT
    python tests/benchmarks/gpt_speed.py --before ../before --corpus DIR [--lines 500] [--runs 3]

On the first lines of DIR/dev.jsonl, with a GPT-NeoX of 33 M random weights (hidden 512, 8 layers)
in 4 bits. Each side is run as a user runs it, in turn: training for one epoch, its time by the
run's own log, as it comes and with activations computed again in the backward pass (which the other
checkout always does, if it is old); and inference as it comes, its time as a whole process less
that of a single line. Times are this machine's; read the ratio.
"""

import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import gpt_memory
import speed
import torch
from transformers import AutoTokenizer, GPTNeoXForCausalLM

from emotion import cli

AGAIN = """
import sys
import gpt_train
from emotion import memory_plan
make = memory_plan.make
memory_plan.make = lambda *arguments: make(*arguments)._replace(again=True)
gpt_train.main(sys.argv[1:])
"""


def build(directory: Path) -> None:
    """A model with random weights, and the tokenizer of the sample's."""
    torch.manual_seed(0)
    size = gpt_memory.config(8, 512, head=64, vocabulary=7680)
    GPTNeoXForCausalLM(size).save_pretrained(directory)
    sample = ROOT / "data" / "sample" / "gpt-neox-tiny"
    AutoTokenizer.from_pretrained(sample).save_pretrained(directory)


def predict(where: Path, best: Path, lines: Path, output: Path) -> float:
    """Lines a second of inference, loading left out."""
    script = [where / "gpt_inference.py", "--model-ckpt-path", best]
    seconds = [
        speed.run(where, script, "--test-file", file, "--output-dir", f"{output}-{file.stem}")
        for file in (lines.with_name("one.jsonl"), lines)
    ]
    return (len(lines.read_text(encoding="utf-8").splitlines()) - 1) / (seconds[1] - seconds[0])


def main() -> None:
    """Print a row for each measurement, from medians."""
    parser = speed.argument_parser("gpt_speed.py", __doc__)
    cli.count(parser, "--lines", 500, "of dev.jsonl")
    options = parser.parse_args()
    before = options.before.resolve()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        model, lines = scratch / "model", scratch / "lines.jsonl"
        build(model)
        rows = (options.corpus / "dev.jsonl").read_text(encoding="utf-8").splitlines(True)
        lines.write_text("".join(rows[: options.lines]), encoding="utf-8")
        one = lines.with_name("one.jsonl")
        one.write_text(rows[0], encoding="utf-8")
        flags = ["--model", model, "--train-file", lines, "--dev-file", one]
        for number in range(options.runs):
            for side, where, program in (
                ("training, before", before, [before / "gpt_train.py"]),
                ("training, activations computed again", ROOT, ["-c", AGAIN]),
                ("training, as it comes", ROOT, [ROOT / "gpt_train.py"]),
            ):
                output = scratch / f"{side}-{number}"
                found.setdefault(side, []).append(speed.train(where, program, output, *flags))
            for side, where, trained in (
                ("inference, before", before, "training, before"),
                ("inference, as it comes", ROOT, "training, as it comes"),
            ):
                best, output = scratch / f"{trained}-{number}/best", scratch / f"{side}-{number}"
                found.setdefault(side, []).append(predict(where, best, lines, output))
            print({side: round(speeds[-1], 1) for side, speeds in found.items()}, flush=True)
    print(f"\n{'':<40}{'lines/s':>10}{'ratio':>8}")
    medians = {side: statistics.median(speeds) for side, speeds in found.items()}
    for side, median in medians.items():
        ratio = median / medians[f"{side.partition(',')[0]}, before"]
        print(f"{side:<40}{median:>10.1f}{ratio:>8.2f}")


if __name__ == "__main__":
    main()
