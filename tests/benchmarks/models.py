"""Every layout of model that people bring, through the scripts, against the plain way.

    python tests/benchmarks/models.py [NAME ...] [--only encoders|causal]

Each layout of tests/encoder_layouts.py and tests/causal_layouts.py is built, trained on the first
lines of the sample and predicted with, as it comes (in a process of its own, as a user does) and
with --precision fp32. Scores of dev are compared with those of the plain way, in float32: best/
read as others read it (of a causal model on the base as the scripts load it), a line and an answer
at a time, no padding, the class's own forward. A row is a layout and a script; its columns:

    way          the class that reads; of a causal model also whether the fast or the slow way
    fp32         largest difference of a score from the plain way, with --precision fp32
    as comes     the same without it
    rounding     what the same precision does to the plain way itself
    reload       predicting with best/ against the run's own scores; fp32, and as it comes
    batch        one line at a time against as many as there are; fp32, and as it comes
    spread       the standard deviation of a label's scores: where it is tiny, the row says little
    code         exit codes of training, as it comes and in fp32; what was said first on stderr

A row is right below 1e-5 in float32 and 2e-3 as it comes; "rounded" if it is so in float32, and as
it comes not much farther off than the plain way in that precision; refused with code 2 and one line
before training; and else WRONG.
"""

import collections
import gc
import itertools
import json
import math
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import Outcome, call, run_script  # says that there is no network

from emotion import process

process.quiet_libraries()  # before the libraries are imported

import causal_layouts
import encoder_layouts
import numpy as np
import peft
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import utils
from emotion import causal, cli, scoring, targets

LINES = {"train": 64, "dev": 48}
BOUNDS = {"fp32": 1e-5, "auto": 2e-3}
SETTINGS = {  # weights are to move by more than the bounds
    "bert_plain": ("--epochs", 2, "--lr", 2e-3),
    "bert_GRU": ("--epochs", 1, "--lr", 2e-3, "--head-lr", 1e-4),
    "gpt_train": ("--epochs", 1, "--lr", 2e-3, "--rank", 4),
}
Pairs = list[tuple[str, str | None]]  # text and target


class Measured(NamedTuple):
    """What a layout and a script came to in one precision; differences are NaN where unknown."""

    code: int
    said: str
    way: str = ""
    plain: float = math.nan
    rounding: float = math.nan
    reload: float = math.nan
    batch: float = math.nan
    spread: float = math.nan

    @property
    def is_refused(self) -> bool:
        """Whether it ended before training, as it should if it cannot be right."""
        return self.code == 2 and self.said.count("\n") == 1

    def is_within(self, bound: float) -> bool:
        """Whether all differences are below a bound."""
        return self.code == 0 and all(n < bound for n in (self.plain, self.reload, self.batch))


def build(layouts: Any, name: str, directory: Path, lines: dict[str, int]) -> None:
    """Write the model of a layout into a directory, and so many lines of the sample."""
    for split, count in lines.items():
        read = (utils.SAMPLE / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(True)
        (directory / split).write_text("".join(read[:count]), encoding="utf-8")
    layouts.build(name, directory / "model")


# The scripts


def run(script: str, *arguments: Any, apart: bool = False) -> Outcome:
    """Run a script, in a process of its own or here; a fault has the code 1."""
    if apart:
        return run_script(f"{script}.py", *arguments)
    with warnings.catch_warnings():  # told once in a process, else
        try:
            return call(script, *arguments)
        except Exception as error:
            told = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}\n"
            return Outcome([script], 1, "", told)
        finally:
            gc.collect()


def read_scores(directory: Path) -> np.ndarray:
    """The scores of dev that a run wrote, [lines, labels]."""
    lines = (directory / "dev.scores.jsonl").read_text(encoding="utf-8").splitlines()
    return np.array([list(json.loads(line)["scores"].values()) for line in lines])


def far(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference."""
    return float(np.abs(one - other).max())


def way_of(told: str) -> str:
    """Which class reads, and how, of a training's or an inference's log."""
    found = re.search(r"^(\w+): (the fast way|[\d.]+ M parameters)(.*)", told, re.MULTILINE)
    if not found:
        return ""
    how = ("slow" if "of its own" in found[3] else "fast") if found[2] == "the fast way" else ""
    return f"{found[1].replace('ForSequenceClassification', 'ForSeq.')} {how}".strip()


def measure(script: str, more: Sequence[Any], files: Path, precision: str) -> Measured:
    """Train what `build` wrote to a directory, predict with it, and compare."""
    is_causal = script == "gpt_train"
    output = files / "-".join((script, *more, precision))
    flags = ("--precision", precision) if precision != "auto" else ()
    given = [x for each in ("train", "dev") for x in (f"--{each}-file", files / each)]
    given += ["--model", files / "model", *SETTINGS[script], *more, *flags, "--output-dir", output]
    trained = run(script, *given, apart=not flags)
    best = output / "best"
    if trained.returncode or not best.exists():  # a refusal comes before training
        return Measured(1 if best.exists() else trained.returncode, trained.stderr)
    scores, ways = [read_scores(output)], [way_of(trained.stdout)]
    flag, many = ("--batch-size", 16) if is_causal else ("--val-batch-size", LINES["dev"])
    for number, lines_at_once in enumerate(((), (flag, 1), (flag, many))):
        given = ("--model-ckpt-path", best, "--dev-file", files / "dev", *flags, *lines_at_once)
        predicts, here = "gpt_inference" if is_causal else script, output / str(number)
        found = run(predicts, *given, "--output-dir", here)
        if found.returncode:
            return Measured(1, f"predicting: {found.stderr}", ways[0])
        scores.append(read_scores(here))
        ways += [way_of(found.stdout)] * is_causal
    used = json.loads((output / "run.json").read_text(encoding="utf-8"))["precision"]
    try:
        plain, rounded = (plain_scores(best, files, each) for each in ("fp32", used))
    except Exception as error:  # what this cannot read, a stranger cannot
        return Measured(1, f"the plain way: {type(error).__name__}: {error}", ways[0])
    pairs = (scores[0], plain), (rounded, plain), scores[:2], scores[2:]
    way, spread = " / predicts ".join(dict.fromkeys(ways)), float(plain.std(0).max())
    return Measured(0, trained.stderr, way, *(far(*pair) for pair in pairs), spread)


# The plain way


def plain_scores(best: Path, files: Path, precision: str) -> np.ndarray:
    """Scores of dev as a stranger gets them from a checkpoint, [lines, labels]."""
    is_causal = (best / "prompt.json").exists()
    scored = score_causal if is_causal else score_encoder
    config = json.loads((best / ("prompt.json" if is_causal else "config.json")).read_text("utf-8"))
    reading = AutoTokenizer.from_pretrained(best), True, config["target_marks"]
    pairs = targets.read(utils.read_corpus(files / "dev"), *reading)
    products = scoring.autocast(scoring.device(), precision)
    with torch.inference_mode(), products, warnings.catch_warnings(action="ignore"):
        return np.array(list(scored(best, files / "model", pairs, precision)))


def score_encoder(best: Path, _: Path, pairs: Pairs, precision: str) -> Iterator[list[float]]:
    """Probabilities of the labels, a line at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(best, trust_remote_code=True)
    model = model.to(scoring.device()).eval()
    tokenizer = AutoTokenizer.from_pretrained(best)
    settings = {"truncation": "only_first", "return_tensors": "pt"}
    for text, target in pairs:
        inputs = tokenizer(text, target, **settings).to(model.device)
        yield model(**inputs).logits[0].double().sigmoid().tolist()


def score_causal(best: Path, base: Path, pairs: Pairs, precision: str) -> Iterator[list[float]]:
    """Probabilities of the labels' answers, a line and an answer at a time."""
    asked = json.loads((best / "prompt.json").read_text(encoding="utf-8"))
    model = causal.load_base(str(base), precision, scoring.device())
    model = peft.PeftModel.from_pretrained(model, best).eval()
    tokenizer = AutoTokenizer.from_pretrained(best)

    def tokens(text: str) -> list[int]:
        given = {"add_special_tokens": False, "split_special_tokens": True}
        return tokenizer(text, **given)["input_ids"]

    strings = asked["strings"]
    begins = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    prefix = [tokenizer.bos_token_id] * begins + tokens(strings["prefix"])
    answers = list(map(tokens, strings["answers"]))
    if any(one == other[: len(one)] for one, other in itertools.permutations(answers, 2)):
        answers = [[*ids, tokenizer.eos_token_id] for ids in answers]  # else one begins another
    for text, target in pairs:
        end = tokens(strings["target"] + target) if target else []
        end += tokens(strings["response"])
        room = asked["max_length"] - len(prefix) - max(map(len, answers)) - len(end)
        line = prefix + tokens(text)[:room] + end
        known: dict[tuple[int, ...], torch.Tensor] = {}  # what is read for several answers
        found = []
        for ids in answers[:-1]:  # the last is none of a label
            read = tuple(line + ids[:-1])
            if read not in known:
                input_ids = torch.tensor([read], device=model.device)
                known[read] = model(input_ids=input_ids).logits[0].double()
            told = known[read][len(line) - 1 :].log_softmax(-1)
            found.append(told[range(len(ids)), ids].sum())
        yield torch.stack(found).softmax(-1).tolist()


# Rows


def verdict(auto: Measured, fp32: Measured) -> str:
    """What a row came to."""
    if fp32.is_refused and auto.is_refused:
        return "refused"
    if not fp32.is_within(BOUNDS["fp32"]):
        return "WRONG"
    if auto.is_refused or auto.is_within(BOUNDS["auto"]):
        return "right"
    return "rounded" if auto.is_within(4 * auto.rounding) else "WRONG"


def print_row(*cells: str) -> None:
    """Print what was found, in columns."""
    widths = (8, 26, 17, 34, 7, 9, 9, 12, 12, 7, 5, 0)
    print(*map("{:<{}}".format, cells, widths), sep="", flush=True)


def measure_row(name: str, script: str, more: Sequence[Any], files: Path) -> str:
    """Measure a layout and a script, print what was found, and return the verdict."""
    auto, fp32 = (measure(script, more, files, each) for each in ("auto", "fp32"))
    said = (auto.said or fp32.said).strip().splitlines() or [""]
    first = said[-1 if said[0].startswith("Traceback") else 0]
    way = " | ".join(dict.fromkeys(each.way for each in (fp32, auto) if each.way))

    def cell(*numbers: float) -> str:
        return " ".join("-" if math.isnan(each) else f"{each:.0e}" for each in numbers)

    found = verdict(auto, fp32)
    print_row(
        *(found, name, " ".join([script, *more[1:]]), way),
        *map(cell, (fp32.plain, auto.plain, auto.rounding)),
        *(cell(fp32.reload, auto.reload), cell(fp32.batch, auto.batch), cell(fp32.spread)),
        *(f"{auto.code} {fp32.code}", first),
    )
    return found


def rows_of(kind: str, name: str, files: Path) -> Iterator[str]:
    """The verdicts of each script; of bert_plain.py the next pooling where one is refused."""
    if kind == "causal":
        yield measure_row(name, "gpt_train", (), files)
        return
    for pooling in ("cls", "mean", "last"):
        yield (found := measure_row(name, "bert_plain", ("--pooling", pooling), files))
        if found != "refused":
            break
    path = files / "model" / "config.json"  # a new head of three layers explodes with wide weights
    config = path.read_text(encoding="utf-8")
    path.write_text(config.replace(str(encoder_layouts.SPREAD), "0.02"), encoding="utf-8")
    yield measure_row(name, "bert_GRU", (), files)


def main() -> None:
    """Print a row for each layout and script; exit code 1 if one is wrong."""
    parser = cli.ArgumentParser("models.py", __doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help="of layouts; default: all")
    parser.add_argument("--only", choices=("encoders", "causal"))
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    counts: collections.Counter[str] = collections.Counter()
    columns = ("fp32", "as comes", "rounding", "reload", "batch", "spread", "code")
    print_row("", "layout", "script", "way", *columns)
    for kind, layouts in {"encoders": encoder_layouts, "causal": causal_layouts}.items():
        for name in layouts.LAYOUTS if options.only in (None, kind) else ():
            if not options.names or name in options.names:
                with tempfile.TemporaryDirectory() as scratch:
                    build(layouts, name, Path(scratch), LINES)
                    counts.update(rows_of(kind, name, Path(scratch)))
    print(", ".join(f"{number} {found}" for found, number in sorted(counts.items())))
    sys.exit(counts["WRONG"] > 0)


if __name__ == "__main__":
    main()
