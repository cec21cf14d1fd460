"""What the four scripts share: the corpus, its labels and text, metrics, the decision rule and the run directory.

Importing this module is light: torch and transformers stay out of it, scikit-learn is imported where it is used.
"""

import argparse
import array
import contextlib
import datetime
import errno
import hashlib
import importlib.metadata
import itertools
import json
import logging
import math
import os
import pickle
import platform
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
import time
import unicodedata
import warnings
import zipfile
from pathlib import Path

import numpy as np

EMOTIONS = ("joy", "anticipation", "trust", "surprise", "disgust", "fear", "anger", "sadness")
ROOT = Path(__file__).resolve().parent
SAMPLE = ROOT / "data" / "sample"
WINDOW = 4096  # lines that are read, sorted by length and scored before the next are read
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
CORPUS_PAGE = "https://kli.korean.go.kr/benchmark"
CORPUS_FILE = "data/nikluge-ea-2023-{}.jsonl"  # where it is looked for, by split

log = logging.getLogger("nikluge-ea")


class InputError(ValueError):
    """An argument or an input file is wrong; the message is one line: what, where, and how to mend it."""


class RunError(RuntimeError):
    """A run cannot go on, though nothing that it was given is wrong; the message is one line, as of InputError."""


# Corpus


def iter_corpus(path, labelled=None):
    """Yield the rows of a corpus file, each checked, exactly as they stand in the file.

    Args:
        path: JSON Lines in UTF-8, a row as `data/README.md` describes it.
        labelled: True: every row must have labels; None: all rows or none.

    Raises:
        InputError: at the first thing that is wrong, naming file, line, field and mend.
    """
    path = Path(path)
    if not os.path.exists(path):  # unlike the method, False for a name that no file can have
        raise InputError(f"{path}: no such file")
    if not path.is_file():
        raise InputError(f"{path}: is not a file; give a .jsonl file")
    hashes, blank_line, first_is_labelled = array.array("q"), None, None  # of the ids: 8 bytes a line
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    with file:
        for number, raw in enumerate(file, start=1):

            def refuse(what, mend, number=number):
                raise InputError(f"{path}: line {number}: {what}; {mend}")

            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                refuse(f"byte {error.start + 1} is not UTF-8", "save the file as UTF-8")
            if not line:
                blank_line = blank_line or number
                continue
            if blank_line:
                refuse("is blank", "delete it (blank lines may stand at the end alone)", blank_line)
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                refuse(f"is not JSON ({getattr(error, 'msg', error)})", "write one JSON object on each line")
            _check_row(row, refuse)
            hashes.append(hash(row["id"]))
            row_is_labelled = row.get("output") not in (None, "")
            if first_is_labelled is None:
                first_is_labelled = row_is_labelled
            if labelled and not row_is_labelled:
                refuse("output: has no labels", "label every line of a file to train or tune on")
            if row_is_labelled != first_is_labelled:
                refuse(f"output: {'has' if row_is_labelled else 'has no'} labels, unlike line 1", "label all lines or none")
            if row_is_labelled:
                _check_labels(row["output"], refuse)
            yield row
    if not hashes:
        raise InputError(f"{path}: is empty; put one JSON object on each line")
    by_hash = np.argsort(hashes, kind="stable")
    repeats = np.flatnonzero(np.diff(np.asarray(hashes)[by_hash]) == 0)
    if len(repeats):
        first, again = by_hash[repeats[0] : repeats[0] + 2]
        with path.open(encoding="utf-8-sig") as file:
            repeated = json.loads(next(itertools.islice(file, int(again), None)))["id"]
        message = f"id: {repeated!r} stands on line {first + 1} too; make every id unique"
        raise InputError(f"{path}: line {again + 1}: {message}")


def read_corpus(path, labelled=None):
    """The rows of `iter_corpus` as a list."""
    return list(iter_corpus(path, labelled))


def windows(path):
    """Yield the rows of `iter_corpus` in lists of WINDOW lines, so that a file of any size can be predicted."""
    rows = iter_corpus(path)
    while window := list(itertools.islice(rows, WINDOW)):
        yield window


def count_lines(path, labelled=None):
    """The number of rows of `iter_corpus`, each checked and none kept."""
    return sum(1 for _ in iter_corpus(path, labelled))


def _check_row(row, refuse):
    if not isinstance(row, dict):
        refuse(f"is a JSON {type(row).__name__}, not an object", "write one JSON object on each line")
    if not isinstance(row.get("id"), str) or not row["id"].strip():
        refuse("id: is missing or not a string", "give every line a string id of its own")
    form = row["input"].get("form") if isinstance(row.get("input"), dict) else None
    if not isinstance(form, str) or not form.strip():
        refuse("input.form: is missing, blank or not a string", "put the sentence there")
    target = row["input"].get("target")
    if target is not None and not isinstance(target, dict):
        refuse("input.target: is not an object", 'write {"form": ..., "begin": ..., "end": ...} or null')
    target = target or {}
    target_form = target.get("form")
    if target_form is not None and not (isinstance(target_form, str) and target_form.strip()):
        refuse("input.target.form: is blank or not a string", "put the target there, or null")
    for name in ("begin", "end"):
        if target.get(name) is not None and type(target[name]) is not int:
            refuse(f"input.target.{name}: is not an integer", "count characters of input.form from 0, or write null")
    begin, end = target.get("begin"), target.get("end")
    if (begin is None) != (end is None):
        refuse("input.target: has only one of begin and end", "give both, or null for both")
    if begin is not None and not 0 <= begin < end <= len(form):
        refuse(
            f"input.target: begin {begin}, end {end} is no span of the {len(form)} characters of input.form",
            "let 0 <= begin < end <= that length",
        )
    for name, text in (("id", row["id"]), ("input.form", form), ("input.target.form", target_form or "")):
        if any("\ud800" <= character <= "\udfff" for character in text):
            refuse(f"{name}: holds half of a surrogate pair", "replace the broken character")
        if "\0" in text:
            refuse(f"{name}: holds a NUL character", "delete it")


def _check_labels(output, refuse):
    if not isinstance(output, dict):
        refuse("output: is not an object", 'write {"joy": "True", ...}, or null for an unlabelled line')
    for name in output:
        if name not in EMOTIONS:
            refuse(f"output: {name!r} is no emotion of this corpus", f"use {', '.join(EMOTIONS)}")
    for name in EMOTIONS:
        if name not in output:
            refuse(f"output.{name}: is missing", 'write "True" or "False" for every emotion')
        if output[name] not in ("True", "False") and not isinstance(output[name], bool):
            refuse(f"output.{name}: is {output[name]!r}", 'write "True" or "False"')


def encode_labels(rows):
    """Labels of the rows as a float32 array of zeros and ones, shape [rows, 8], in the order of EMOTIONS."""
    return np.array([[row["output"][name] in ("True", True) for name in EMOTIONS] for row in rows], dtype=np.float32)


def decode_labels(decision):
    """One row of decisions, shape [8], as the corpus writes it: {"joy": "True", ...}."""
    return {name: str(bool(value)) for name, value in zip(EMOTIONS, decision, strict=True)}


ANONYMISED = re.compile(r"&[a-z][a-z-]+\d*&")
RUN = re.compile(r"([^\w\s]|_|[\u3131-\u3163])\1{2,}")


def normalise_text(text):
    """Text as the models read it.

    Anonymised names (`&name1&`) go; a run of one punctuation mark or of one Korean emoticon letter (ㅋ, ㅎ, ㅠ)
    becomes two; white space is folded to single spaces; Unicode is NFC. Applying it again changes nothing.
    A text that would be emptied keeps its original form.
    """

    def shorten(run):
        mark = run[1]
        is_letter = mark.isalpha()  # the pattern admits no letters but the Korean ones
        is_punctuation = mark in string.punctuation or unicodedata.category(mark).startswith("P")
        return mark * 2 if is_letter or is_punctuation else run[0]

    before, after = None, text
    while after != before:  # removing a name can join what stood around it
        before = after
        after = unicodedata.normalize("NFC", ANONYMISED.sub("", before))
        after = " ".join(RUN.sub(shorten, after).split())
    return after or text


def text_and_target(row):
    """The normalised sentence of a row, and its normalised target or None."""
    target = (row["input"].get("target") or {}).get("form")
    return normalise_text(row["input"]["form"]), target and normalise_text(target)


def longest_first(token_ids):
    """Indices of lines given as token ids, longest first: little padding, and the largest batch is tried first."""
    return sorted(range(len(token_ids)), key=lambda index: -len(token_ids[index]))


# Prompt of the GPT scripts

PROMPTS = {  # in the layout that KULLM was tuned with; answers in the order of EMOTIONS, the last one where there is none
    "ko": {
        "prefix": (
            "명령어와 입력을 읽고 알맞은 응답을 쓰세요.\n\n### 명령어:\n"
            "입력의 글쓴이가 대상에게 보이는 감정을 고르세요: 기쁨, 기대, 신뢰, 깜짝, 혐오, 공포, 분노, 슬픔. "
            "감정이 없으면 없음이라고 답하세요.\n\n### 입력:\n"
        ),
        "target": "\n대상: ",
        "response": "\n\n### 응답:\n",
        "answers": ("기쁨", "기대", "신뢰", "깜짝", "혐오", "공포", "분노", "슬픔", "없음"),
    },
    "en": {
        "prefix": (
            "Read the instruction and the input, then write the response.\n\n### Instruction:\n"
            "Which emotion does the writer of the input show towards the target: joy, anticipation, trust, surprise, "
            "disgust, fear, anger or sadness? If there is no emotion, answer none.\n\n### Input:\n"
        ),
        "target": "\nTarget: ",
        "response": "\n\n### Response:",
        "answers": (" joy", " anticipation", " trust", " surprise", " disgust", " fear", " anger", " sadness", " none"),
    },
}


OBJECTIVES = ("answer", "multilabel")  # of gpt_train.py


# Decision rule and metrics


def tune_threshold(labels, probabilities):
    """The one threshold that maximises micro-F1 on these lines.

    One value serves all emotions: the threshold that maximises the expected micro-F1 is the same for every label
    (Lipton et al. 2014, arXiv:1402.1892), and one for each of eight overfits where an emotion has few lines.

    Args:
        labels: zeros and ones, shape [lines, 8].
        probabilities: shape [lines, 8].

    Returns:
        The threshold: midway between the two probabilities that it separates; 0.5 where there is no positive label.
    """
    if not labels.sum():
        return 0.5
    descending = np.argsort(-probabilities, axis=None, kind="stable")
    cuts = probabilities.ravel()[descending].astype(np.float64)
    true_positives = labels.ravel()[descending].cumsum()
    micro_f1 = 2 * true_positives / (np.arange(1, len(cuts) + 1) + labels.sum())
    following = np.append(cuts[1:], -1.0)
    micro_f1[cuts == following] = -1.0  # a cut cannot part equal probabilities
    best = micro_f1.argmax()
    return max(0.0, float(cuts[best] + following[best]) / 2)


def decide(probabilities, threshold):
    """Which emotions are present: a boolean array of the shape of `probabilities`."""
    return probabilities >= threshold


def micro_f1(labels, decisions):
    """2 TP / (2 TP + FP + FN) over all lines and emotions; 0 where nothing is present and nothing is predicted."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels.astype(bool), decisions.astype(bool), average="micro", zero_division=0))


def micro_f1_by_rule(labels, probabilities):
    """Micro-F1 at the threshold that serves these lines best, and at 0.5: what the best checkpoint is chosen by."""
    thresholds = {"micro_f1": tune_threshold(labels, probabilities), "micro_f1_at_0.5": 0.5}
    return {name: micro_f1(labels, decide(probabilities, threshold)) for name, threshold in thresholds.items()}


def fit_threshold(labels, probabilities):
    """The decision rule of this project, tuned on these lines: a function from probabilities to decisions."""
    threshold = tune_threshold(labels, probabilities)
    return lambda others: decide(others, threshold)


def cross_fitted_decisions(labels, probabilities, fit=fit_threshold, folds=5, seed=0):
    """Decisions on each line by a rule that was tuned on others: the lines are parted at random, and each part decided by `fit`
    of the rest.

    Args:
        labels: [lines, 8]; probabilities: [lines, ...], whatever `fit` takes.
        fit: from labels and probabilities to a function from probabilities to decisions.
    """
    fold = np.random.default_rng(seed).permutation(len(labels)) % folds
    decisions = np.zeros(labels.shape, dtype=bool)
    for held_out in range(folds):
        inside = fold == held_out
        decisions[inside] = fit(labels[~inside], probabilities[~inside])(probabilities[inside])
    return decisions


def compute_metrics(labels, probabilities, decisions):
    """The metrics of a run.

    Args:
        labels, probabilities, decisions: shape [lines, 8].

    Returns:
        A dictionary for JSON: `micro_f1`, `micro_f1_at_0.5`, `macro_f1`, `exact_match`, `micro_roc_auc` (from the
        probabilities; None where the labels are all alike) and `per_emotion`.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support, roc_auc_score

    labels, decisions = labels.astype(int), decisions.astype(int)
    columns = precision_recall_fscore_support(labels, decisions, average=None, zero_division=0)
    per_emotion = {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for name, p, r, f, n in zip(EMOTIONS, *columns, strict=True)
    }
    return {
        "micro_f1": micro_f1(labels, decisions),
        "micro_f1_at_0.5": micro_f1(labels, decide(probabilities, 0.5)),
        "macro_f1": float(np.mean([scores["f1"] for scores in per_emotion.values()])),
        "exact_match": float(accuracy_score(labels, decisions)),
        "micro_roc_auc": float(roc_auc_score(labels, probabilities, average="micro")) if 0 < labels.mean() < 1 else None,
        "per_emotion": per_emotion,
    }


def majority_micro_f1(labels):
    """The trivial baseline: (micro-F1, emotion) of always answering the most frequent emotion of these lines alone."""
    column = int(labels.sum(0).argmax())
    answer = np.zeros(labels.shape, dtype=bool)
    answer[:, column] = True
    return micro_f1(labels, answer), EMOTIONS[column]


def choose_threshold(args, labels, scores):
    """The threshold of a run that trained: `--threshold`, or one tuned on dev; saved with its checkpoint.

    Args:
        labels, scores: of dev, shape [lines, 8].
    """
    tuned = args.threshold == "auto"
    threshold = tune_threshold(labels, scores) if tuned else args.threshold
    decision = {"emotions": EMOTIONS, "threshold": threshold, "tuned_on": "dev" if tuned else None}
    if tuned:
        decision["micro_f1"] = micro_f1(labels, decide(scores, threshold))
        decision["micro_f1_cross_fitted"] = micro_f1(labels, cross_fitted_decisions(labels, scores))
        decision["micro_f1_at_0.5"] = micro_f1(labels, decide(scores, 0.5))
        log.info(
            "threshold %.3f, tuned on dev: micro-F1 %.4f on the lines it was tuned on, %.4f cross-fitted, %.4f at 0.5",
            *(decision[key] for key in ("threshold", "micro_f1", "micro_f1_cross_fitted", "micro_f1_at_0.5")),
        )
    if is_main_process():
        best = args.output_dir / "best"
        best.mkdir(parents=True, exist_ok=True)  # where the run has no weights of its own
        write_json(best / "decision.json", decision | {"sha256": seal(decision)})
    return threshold


def seal(decision):
    """The SHA-256 of a decision rule without its own "sha256", so that a change by hand is noticed."""
    content = {name: value for name, value in decision.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def checkpoint_threshold(args):
    """`--threshold`, or that of the checkpoint. Raises InputError where there is none that can be used."""
    return load_threshold(args.model_ckpt_path) if args.threshold == "auto" else args.threshold


def load_threshold(directory):
    """The threshold of a checkpoint's `decision.json`. Raises InputError where there is none that can be used."""
    path = Path(directory) / "decision.json"
    try:
        decision = json.loads(path.read_text(encoding="utf-8"))
        threshold, emotions = decision["threshold"], tuple(decision["emotions"])
        sealed = decision["sha256"] == seal(decision)
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: is missing or broken; give a decision rule, as --threshold 0.5") from None
    if not sealed:
        raise InputError(f"{path}: was changed after the run that wrote it; give the rule that you want, as --threshold 0.5")
    if emotions != EMOTIONS:
        raise InputError(f"{path}: its emotions are not those of this version; train the checkpoint anew")
    if type(threshold) not in (int, float) or not 0 <= threshold <= 1:
        raise InputError(f"{path}: threshold is {threshold!r}, not a number from 0 to 1; give --threshold 0.5")
    return threshold


# Command line


class ArgumentParser(argparse.ArgumentParser):
    """Help shows the defaults; a wrong argument is told in one line."""

    def __init__(self, description):
        help_as_written = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=help_as_written, allow_abbrev=False)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def progress_bar(total, unit, name, **settings):
    """A tqdm bar, shown on a terminal and by the main process alone."""
    from tqdm import tqdm

    disable = None if is_main_process() else True  # None: where no terminal is
    return tqdm(total=total, unit=unit, desc=name, disable=disable, **settings)


def process_count():
    """How many processes torchrun or accelerate launched; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_process_count():
    """How many of these are on this machine, each with a GPU of its own."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main_process():
    """Whether this process writes the files of a run: the only one, or the first that torchrun or accelerate launched."""
    return os.environ.get("RANK", "0") == "0"


def number(kind, low, high=math.inf, low_open=False):
    """An argparse type: a finite number of `kind` from `low` (itself excluded if `low_open`) to `high`."""

    def parse(text):
        value = kind(text)
        if not (low < value if low_open else low <= value) or not value <= high or not math.isfinite(value):
            raise ValueError
        return value

    bounds = f"above {low}" if low_open else f"of at least {low}"
    parse.__name__ = f"{'whole ' if kind is int else ''}number {bounds}{'' if high == math.inf else f', at most {high}'}"
    return parse


def threshold_argument(text):
    """An argparse type: "auto" or a number from 0 to 1."""
    return text if text == "auto" else number(float, 0, 1)(text)


def add_threshold_argument(group):
    """Declare `--threshold`."""
    group.add_argument(
        "--threshold",
        metavar="auto|T",
        type=threshold_argument,
        default="auto",
        help="an emotion is present from this probability on; auto: tuned on dev and saved with the run",
    )


def add_output_argument(group, script):
    """Declare `--output-dir`."""
    group.add_argument("--output-dir", metavar="DIR", type=Path, default=Path("outputs", script), help="default: %(default)s")


def add_shared_arguments(parser, script, predicts=True):
    """Declare the arguments that the scripts share; return the groups for data and model.

    Args:
        predicts: whether the script can take a checkpoint to predict with.
    """
    data = parser.add_argument_group("data")
    for split, condition in (("dev", ""), ("test", ", if it exists")):
        default = f"default: {CORPUS_FILE.format(split)}{condition}"
        data.add_argument(f"--{split}-file", metavar="FILE", type=Path, help=default)
    data.add_argument("--sample", action="store_true", help="take corpus and model from data/sample/; offline, on a CPU")
    model = parser.add_argument_group("model and decision rule")
    if predicts:
        model.add_argument("--model-ckpt-path", metavar="DIR", type=Path, help="a checkpoint (best/ of a run) to predict with")
    else:
        parser.set_defaults(model_ckpt_path=None)
    add_threshold_argument(model)
    parser.set_defaults(sample_defaults={})
    add_output_argument(parser.add_argument_group("output"), script)
    return data, model


def add_training_arguments(parser, data, model, default_model, sample, lr):
    """Declare the arguments of the training scripts; `sample` maps names to what they default to under --sample."""

    def default(name, value):
        return f"default: {value}; with --sample: {sample[name]}" if name in sample else f"default: {value}"

    data.add_argument("--train-file", metavar="FILE", type=Path, help=f"default: {CORPUS_FILE.format('train')}")
    data.add_argument(
        "--folds", metavar="K", type=number(int, 2), help="pool train and dev and part them in K, emotions spread evenly"
    )
    data.add_argument(
        "--fold", metavar="I", type=number(int, 0), help="the part, from 0 to K - 1, to take for dev; train on the others"
    )
    model.add_argument("--model", default=default_model, help="a hub id or a from_pretrained directory; default: %(default)s")
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=number(int, 1), default=5, help=default("epochs", 5))
    training.add_argument("--lr", type=number(float, 0, low_open=True), default=lr, help=default("lr", lr))
    training.add_argument("--seed", type=number(int, 0, 2**32 - 1), default=42, help="default: %(default)s")
    training.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output directory")
    parser.set_defaults(sample_defaults=sample)
    return training


def bert_argument_parser(description, script, head_lr):
    """The arguments that `bert_plain.py` and `bert_GRU.py` share."""
    parser = ArgumentParser(description)
    data, model = add_shared_arguments(parser, script)
    sample = {"model": str(SAMPLE / "roberta-tiny"), "epochs": 8, "lr": 2e-3, "train_batch_size": 48}
    training = add_training_arguments(parser, data, model, "klue/roberta-large", sample, lr=2e-5)
    training.add_argument(
        "--head-lr",
        metavar="LR",
        type=number(float, 0, low_open=True),
        default=head_lr,
        help="learning rate of weights that the pretrained model lacks; default: %(default)s; the published run: 2e-5",
    )
    training.add_argument(
        "--train-batch-size", metavar="N", type=number(int, 1), default=24, help="default: 24; with --sample: 48"
    )
    training.add_argument("--val-batch-size", metavar="N", type=number(int, 1), default=48, help="default: %(default)s")
    training.add_argument("--weight-decay", metavar="W", type=number(float, 0), default=0.01, help="default: %(default)s")
    training.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="auto: bf16 where the hardware computes in it, fp16 on older GPUs, else fp32",
    )
    return parser


def parse_arguments(parser, check_checkpoint=None, argv=None):
    """Parse the command line and check all that can be checked without torch.

    Args:
        check_checkpoint: called with the arguments where a checkpoint is to predict; raises InputError if it cannot, and
            returns the name of the model that it needs besides, or None.

    Returns:
        (args, corpora): the arguments, and by split the rows of train, dev and, where there is one, test to train with; or the
        number of lines of dev or test, or both, for a checkpoint to predict.

    Exits with code 2 and one line on standard error where an argument or a file is wrong.
    """
    for number in STOP_SIGNALS:  # until `errors_for_people`: an exception would not get through the import of torch
        signal.signal(number, lambda *_: (os.write(2, b"interrupted; nothing was written\n"), os._exit(130)))
    args = parser.parse_args(argv)
    if args.sample:
        files = {f"{split}_file": SAMPLE / f"{split}.jsonl" for split in ("train", "dev", "test") if f"{split}_file" in args}
        parser.set_defaults(**files, **args.sample_defaults)
        args = parser.parse_args(argv)
    del args.sample_defaults
    predicting = "train_file" not in args or args.model_ckpt_path
    try:
        resume = getattr(args, "resume", False)
        if resume and predicting:
            raise InputError("--resume goes on with training, --model-ckpt-path only predicts; give one of them")
        check_folds(args, predicting)
        if is_main_process() and not getattr(args, "estimate", False):  # which writes nothing
            check_output_dir(args.output_dir, resume)
        model = check_checkpoint(args) if predicting else args.model
        corpora = read_corpora(args, predicting)
        if resume:
            check_same_run(args, corpora)
        if getattr(args, "folds", None):
            corpora |= split_fold(corpora["train"] + corpora["dev"], args.folds, args.fold)
        if model is not None:
            check_model(model)
    except InputError as error:
        if not is_main_process():
            parser.exit(2)
        parser.error(str(error))
    quiet_libraries()
    return args, corpora


@contextlib.contextmanager
def signals_handled_by(handler):
    """Inside, `handler` is called on Ctrl-C and SIGTERM."""
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def errors_for_people(parser, args):
    """Inside, a wrong input ends the script with one line and code 2, a run that cannot go on with 1, an interrupt with 130."""
    try:
        with signals_handled_by(signal.default_int_handler):
            yield
        for number in STOP_SIGNALS:  # all is done, and torch takes a moment to leave
            signal.signal(number, signal.SIG_IGN)
    except InputError as error:
        parser.error(str(error))
    except RunError as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted; {how_to_go_on(args)}\n")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's
            raise
        mend = "take smaller batches, or --resume when other programs have left the device"
        parser.exit(1, f"{parser.prog}: error: the memory of the GPU is full ({str(error).split('.')[0]}); {mend}\n")


def how_to_go_on(args):
    """What a user can do after an interrupt, in words."""
    if "resume" not in args or args.model_ckpt_path:
        return f"{args.output_dir} is not complete; delete it, or give another --output-dir, and start again"
    command = shlex.join(["python", *sys.argv, *["--resume"] * (not args.resume)])
    whole = last_whole_checkpoint(args.output_dir)
    where = f"the last whole checkpoint is {whole}; go on with" if whole else "there is no checkpoint yet; start again with"
    return f"{where}: {command}"


def check_output_dir(path, resume):
    """Raise InputError if the output directory cannot be made, or holds a run that is not to be resumed."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is no name for a directory ({error}); give another --output-dir") from None
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is not a directory; give another --output-dir")
    if path.is_dir() and any(path.iterdir()):
        if not resume:
            raise InputError(f"{path}: is not empty, and no run is overwritten; give another --output-dir, or --resume")
        begun = {file.name for file in path.iterdir()} <= {"run.json.partial"}  # and killed before it had written anything
        if not begun and not (path / "run.json").is_file():
            raise InputError(f"{path}: holds no run to resume (no run.json); give its directory, or an empty one")
    parent = path.absolute()
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"{path}: cannot be written; give another --output-dir")


def check_same_run(args, splits):
    """Raise InputError if the output directory holds a run of other arguments or data; a file may have moved.

    Args:
        splits: names of the corpus files that are read.
    """
    path = args.output_dir / "run.json"
    if not path.is_file():
        return
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        before, data = run["arguments"] | {"processes": run.get("processes", 1)}, run["data"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: is broken; start anew with another --output-dir") from None
    now = json.loads(json.dumps(vars(args), default=str)) | {"processes": process_count()}
    for name in sorted(now.keys() | before.keys()):
        if now.get(name) != before.get(name) and name not in ("output_dir", "resume") and not name.endswith("_file"):
            flag = "the number of processes" if name == "processes" else f"--{name.replace('_', '-')}"
            change = f"{flag} was {before.get(name)}, and is {now.get(name)}"
            raise InputError(f"--resume: {change}; give it as it was, or another --output-dir")
    for split in sorted(data.keys() | set(splits)):
        digest = identify(getattr(args, f"{split}_file"))["sha256"] if split in splits else None
        if digest != data.get(split, {}).get("sha256"):
            raise InputError(f"--resume: --{split}-file is not the file that the run began with (SHA-256); give that one")


def last_whole_checkpoint(output_dir):
    """The checkpoint of the latest step below `output_dir` that is whole, or None."""
    saved = [path for path in (output_dir / "checkpoints").glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    saved.sort(key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next(filter(is_whole, saved), None)


def is_whole(checkpoint):
    """Whether a directory that Trainer saved has all that resuming takes, and no file of it ends early."""
    needed = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state*.pth", "*.safetensors")
    return all(any(checkpoint.glob(pattern)) for pattern in needed) and all(map(_ends_well, checkpoint.iterdir()))


def _ends_well(file):
    if file.suffix == ".json":
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return False
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="numpy"):
                pass
        except SafetensorError:
            return False
    return file.suffix not in (".pt", ".pth", ".bin") or zipfile.is_zipfile(file)


def check_encoder(args, architectures):
    """Raise InputError if `--model-ckpt-path` is no checkpoint of a class whose name ends in one of `architectures`.

    So too if it has no decision rule where one is wanted.
    """
    path = args.model_ckpt_path
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        architecture, labels = config["architectures"][0], tuple(config["id2label"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise InputError(f"{path}: is no checkpoint (config.json is missing or broken); give best/ of a run") from None
    if (path / "adapter_config.json").exists():  # transformers would load the model that it names
        raise InputError(f"{path}: holds an adapter too (adapter_config.json); delete what this script did not write")
    if not any(path.glob("*.safetensors")):
        raise InputError(f"{path}: has no weights (model.safetensors); give best/ of a run")
    if not architecture.endswith(architectures):
        raise InputError(f"{path}: is a checkpoint of {architecture}; predict with the script that trained it")
    if labels != EMOTIONS:
        raise InputError(f"{path}: config.json names other labels than {', '.join(EMOTIONS)}; give best/ of a run")
    checkpoint_threshold(args)


def check_adapter(args):
    """Raise InputError if `--model-ckpt-path` is no checkpoint of gpt_train.py; return its base model.

    Where they are not given, `--model` becomes the base that the checkpoint names, and under --sample `--model-ckpt-path` the
    newest checkpoint of gpt_train.py --sample.
    """
    if args.model_ckpt_path is None and args.sample:
        args.model_ckpt_path = newest_sample_checkpoint()
    if args.model_ckpt_path is None:
        raise InputError("--model-ckpt-path is required (or --sample); give best/ of a run of gpt_train.py")
    path = args.model_ckpt_path
    try:
        base = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        settings = json.loads((path / "prompt.json").read_text(encoding="utf-8"))
        strings = settings["strings"]
        texts = [strings["prefix"], strings["target"], strings["response"], *strings["answers"]]
        fits = len(strings["answers"]) == len(EMOTIONS) + 1 and settings["objective"] in OBJECTIVES
        fits = fits and all(isinstance(text, str) for text in (base, *texts)) and type(settings["max_length"]) is int
        fits = fits and isinstance(settings["base"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise InputError(
            f"{path}: is no checkpoint of gpt_train.py (adapter_config.json or prompt.json is missing or broken); "
            "give best/ of a run"
        )
    checkpoint_threshold(args)
    if args.model is None and os.path.exists(base) and not trained_on(path, base):
        raise InputError(f"{path}: names as its base a path outside it, {base}; give --model {base} if that is what you want")
    args.model = args.model or base
    return args.model


def trained_on(checkpoint, base):
    """Whether `run.json`, where the checkpoint is still in its run's output directory, says that `--model` was `base`."""
    try:
        return json.loads((checkpoint.parent / "run.json").read_text(encoding="utf-8"))["arguments"]["model"] == base
    except (OSError, ValueError, KeyError, TypeError):
        return False


def newest_sample_checkpoint():
    """best/ of the newest finished run of gpt_train.py --sample below outputs/. Raises InputError if there is none."""
    runs = []
    for file in Path("outputs").glob("*/run.json"):
        run = json.loads(file.read_text(encoding="utf-8"))
        if run["script"] == "gpt_train.py" and run["arguments"]["sample"] and "seconds" in run:
            runs.append((run["started"], file.parent / "best"))
    if not runs:
        raise InputError("--sample: no finished run below outputs/; make one with python gpt_train.py --sample")
    return max(runs)[1]


def read_corpora(args, predicting):
    """Check the corpus files that `args` names: the rows of train, dev and test by split, or of dev and test the number."""
    training = not predicting
    read = read_corpus if training else count_lines
    corpora = {}
    for split in ("train", "dev", "test") if training else ("dev", "test"):
        name = f"{split}_file"
        given = getattr(args, name)
        path = given or Path(CORPUS_FILE.format(split))
        if given is None and not path.exists():
            if training and split != "test":
                raise InputError(
                    f"{path}: no such file; apply for the corpus at {CORPUS_PAGE} and put it there, "
                    f"name another with --{split}-file, or try --sample"
                )
            continue
        setattr(args, name, path)
        corpora[split] = read(path, labelled=True if training and split != "test" else None)
    if not corpora:
        raise InputError("nothing to predict: give --dev-file or --test-file")
    return corpora


def check_folds(args, predicting):
    """Raise InputError unless `--folds` and `--fold` are both left out, or fit each other and a run that trains."""
    folds, fold = getattr(args, "folds", None), getattr(args, "fold", None)
    if (folds is None) != (fold is None):
        raise InputError("--folds and --fold belong together; give both, as --folds 5 --fold 0")
    if folds is not None and predicting:
        raise InputError("--folds is for training, --model-ckpt-path only predicts; give one of them")
    if folds is not None and fold >= folds:
        raise InputError(f"--fold {fold}: with --folds {folds}, the parts are 0 to {folds - 1}")


def split_fold(rows, folds, fold):
    """One of the ways to part labelled rows in `folds`: {"train": the other parts, "dev": part `fold`}, in the order of `rows`.

    Each combination of emotions is spread evenly, and all lines of a sentence go to the same part. The same rows are parted
    alike on every machine, whatever `--seed` is.

    Raises:
        InputError: an id stands twice, or there are too few lines.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    ids = {row["id"] for row in rows}
    if len(ids) < len(rows):
        repeated = next(row["id"] for row in rows if row["id"] not in ids or ids.remove(row["id"]))
        raise InputError(f"--folds: id {repeated!r} stands in both --train-file and --dev-file; make every id unique")
    combinations = encode_labels(rows) @ 2 ** np.arange(len(EMOTIONS))
    sentences = [row["input"]["form"] for row in rows]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # rare combinations are spread as can be
        try:
            parts = list(StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(rows, combinations, sentences))
        except ValueError:
            raise InputError(f"--folds {folds}: {len(rows)} lines are too few for so many parts; give a smaller K") from None
    return {split: [rows[index] for index in part] for split, part in zip(("train", "dev"), parts[fold], strict=True)}


@contextlib.contextmanager
def loading(path):
    """Inside, what transformers raises over a model that it cannot load becomes an InputError."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: cannot be loaded: {str(error).splitlines()[0]}") from None


def check_model(name):
    """Raise InputError if `name` is neither a `from_pretrained` directory nor a model that the hub or its cache has."""
    if os.path.exists(name):
        if not (Path(name) / "config.json").is_file():
            raise InputError(f"--model {name}: is no model (no config.json); give a from_pretrained directory")
        return
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        HfApi().model_info(name, timeout=10)
    except (HFValidationError, RepositoryNotFoundError):
        raise InputError(f"--model {name}: neither a directory nor a model on the hub; check the name") from None
    except Exception as error:
        raise InputError(
            f"--model {name}: not on this machine, and the model hub cannot be reached ({type(error).__name__}); "
            "give a local directory with --model PATH, or try --sample"
        ) from None


# Run directory


@contextlib.contextmanager
def whole_file(path):
    """Open a text file to write that appears, whole, when the block has ended without an error."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno not in NO_ROOM:
            raise
        raise RunError(f"{path}: no room on the disk; make some and give --resume where the script has it") from None
    partial.replace(path)


@contextlib.contextmanager
def room_for(path, need):
    """Inside, `need` bytes are written to `path`. Raises RunError where the disk has no room for them."""
    parent = next(parent for parent in path.absolute().parents if parent.exists())

    def refuse():
        free = shutil.disk_usage(parent).free
        message = f"no room on the disk: {need / 2**20:,.0f} MiB are needed, {free / 2**20:,.0f} are free"
        raise RunError(f"{path}: {message}; what was saved before is whole; make room and go on with --resume") from None

    if shutil.disk_usage(parent).free < need:
        refuse()
    try:
        yield
    except Exception as error:  # each library has its own for this
        if getattr(error, "errno", None) in NO_ROOM or shutil.disk_usage(parent).free < need:
            refuse()
        raise


def write_json(path, value):
    """Write an object as indented JSON; Korean stays readable."""
    with whole_file(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def quiet_libraries():
    """Silence what libraries say in a healthy run that concerns nobody, each message by its own logger and wording."""
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft asks for it
    for name, message in (
        ("bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward"),  # optional kernels, for 4 bits on a CPU
        ("transformers.trainer_utils", "mtime may not be reliable"),  # small checkpoints a moment apart
        ("transformers.modeling_utils", "LOAD REPORT"),  # new weights: the scripts check and report them themselves
    ):
        logging.getLogger(name).addFilter(lambda record, message=message: message not in record.getMessage())


def check_devices():
    """Raise InputError where more processes were launched than there are GPUs; torch would fail without a word on why."""
    import torch

    processes, gpus = local_process_count(), torch.cuda.device_count()
    if 0 < gpus < processes:
        raise InputError(f"{processes} processes were launched, and there are {gpus} GPUs here; launch {gpus}")


def device_notes(device):
    """What a user should know of the devices of a run, a line each: no GPU, some that are not used, or of different kinds."""
    if str(device).startswith("cpu"):
        return ["no GPU was found: this runs on the CPU"]
    import torch

    gpus, used, notes = torch.cuda.device_count(), local_process_count(), []
    if used < gpus:
        notes.append(f"{gpus} GPUs are here, and {used} in use; to use all, start with torchrun --nproc_per_node {gpus}")
    kinds = sorted({torch.cuda.get_device_name(index) for index in range(min(used, gpus))})  # none on a GPU that is not CUDA's
    if len(kinds) > 1:
        notes.append(
            f"the GPUs differ ({', '.join(kinds)}): steps wait for the slowest, and batches have to fit the smallest; "
            "CUDA_VISIBLE_DEVICES says which to use"
        )
    return notes


def start_run(args, splits, device):
    """Make the output directory with its `train.log` and `run.json`; what `log.info` says goes to both screen and log.

    Of several processes, the main one alone does, and says anything.

    Args:
        splits: names of the corpus files that are read.

    Returns:
        The content of `run.json`, for `finish_run`; None in other processes.
    """
    if not is_main_process():
        return None
    packages = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "scikit-learn", "numpy", "matplotlib")
    run = {
        "script": Path(sys.argv[0]).name,
        "arguments": vars(args),
        "seed": getattr(args, "seed", None),  # nothing is drawn where nothing is trained
        "device": device,
        "processes": process_count(),
        "data": {split: identify(getattr(args, f"{split}_file")) for split in splits},
        "versions": {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages},
        "git_commit": git_commit(),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "start_time": time.time(),
    }
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_json(args.output_dir / "run.json", run)
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(args.output_dir / "train.log", encoding="utf-8")]
    if "model" in args and not args.sample:
        for note in device_notes(device):
            log.info(note)
    return run


def warn_of_repeats(corpora):
    """Warn where lines of train stand in dev or test too, by normalised text and target: their scores would be too good.

    Args:
        corpora: rows by split, with "train".
    """
    trained_on = set(map(text_and_target, corpora["train"]))
    for split in corpora.keys() - {"train"}:
        repeated = sum(text_and_target(row) in trained_on for row in corpora[split])
        if repeated:
            lines = f"all {repeated}" if repeated == len(corpora[split]) else f"{repeated} of the {len(corpora[split])}"
            log.warning(
                "warning: %s lines of %s stand in train too; scores on them say nothing about other lines", lines, split
            )


def identify(path):
    """What tells a corpus file from another: {"file", "lines", "sha256" (hexadecimal)}."""
    digest, lines = hashlib.sha256(), 0
    with open(path, "rb") as file:
        for line in file:
            digest.update(line)
            lines += bool(line.strip())
    return {"file": path, "lines": lines, "sha256": digest.hexdigest()}


def git_commit():
    """The commit of this repository, with "-dirty" where files differ from it; None outside git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], cwd=ROOT, capture_output=True, text=True
        )
    except OSError:
        return None
    return described.stdout.strip() or None


def finish_run(args, run):
    """Complete `run.json` with wall time and peak memory."""
    if not is_main_process():
        return
    run["seconds"] = round(time.time() - run.pop("start_time"), 1)
    run["peak_memory_gib"] = peak_memory_gib()
    write_json(args.output_dir / "run.json", run)
    memory = ", ".join(f"{gib} GiB on the {where}" for where, gib in run["peak_memory_gib"].items())
    log.info("\nDone in %.0f s; peak memory %s. Metrics and predictions: %s", run["seconds"], memory, args.output_dir)
    if "model_ckpt_path" in args:
        checkpoint = args.model_ckpt_path or args.output_dir / "best"
        script = run["script"].replace("gpt_train", "gpt_inference")
        log.info("To predict a file: python %s --model-ckpt-path %s --test-file FILE --output-dir DIR", script, checkpoint)


def peak_memory_gib():
    """Peak memory of this process so far, in GiB: {"host": resident, "gpu": allocated by torch, where there is one}."""
    try:
        import resource

        unit = 2**30 if sys.platform == "darwin" else 2**20
        peak = {"host": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 2)}
    except ImportError:  # Windows
        import psutil

        peak = {"host": round(psutil.Process().memory_info().peak_wset / 2**30, 2)}
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        peak["gpu"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return peak


def write_predictions(directory, split, chunks, threshold):
    """Write `<split>.jsonl`, the corpus with its `output` filled, and `<split>.scores.jsonl`, the probabilities.

    Args:
        chunks: iterable of (rows, probabilities [rows, 8]), in the order of the corpus; written as they come.

    Returns:
        (labels, probabilities) of all lines, [lines, 8]; None where the lines have no labels, and then none are kept.
    """
    labelled = []
    predictions, scores = (whole_file(Path(directory) / f"{split}{ending}") for ending in (".jsonl", ".scores.jsonl"))
    with predictions as predictions, scores as scores:
        for rows, probabilities in chunks:
            for row, line, decision in zip(rows, probabilities, decide(probabilities, threshold), strict=True):
                print(json.dumps(row | {"output": decode_labels(decision)}, ensure_ascii=False), file=predictions)
                named = dict(zip(EMOTIONS, map(float, line), strict=True))
                print(json.dumps({"id": row["id"], "scores": named}, ensure_ascii=False), file=scores)
            if rows[0].get("output"):
                labelled.append((encode_labels(rows), probabilities))
    return tuple(map(np.concatenate, zip(*labelled, strict=True))) if labelled else None


def evaluate_and_write(args, chunks, threshold):
    """Write predictions for every split scored, and the metrics of those that are labelled; print a table of each.

    Of several processes, each takes its part in scoring the chunks, and the main one writes.

    Args:
        chunks: by split, what `write_predictions` takes.
    """
    if not is_main_process():
        for _ in itertools.chain.from_iterable(chunks.values()):
            pass
        return
    metrics = {}
    for split, scored in chunks.items():
        written = write_predictions(args.output_dir, split, scored, threshold)
        if written:
            labels, probabilities = written
            metrics[split] = compute_metrics(labels, probabilities, decide(probabilities, threshold))
            log.info("\n%s", metrics_table(split, labels, metrics[split], threshold))
    write_json(args.output_dir / "metrics.json", metrics)


def metrics_table(split, labels, metrics, threshold):
    """The metrics of one split as text for the screen."""
    lines = [f"{split:<14}{'precision':>10}{'recall':>10}{'F1':>10}{'support':>10}"]
    for name, scores in metrics["per_emotion"].items():
        values = "".join(f"{scores[key]:>10.3f}" for key in ("precision", "recall", "f1"))
        lines.append(f"{name:<14}{values}{scores['support']:>10}")
    baseline, emotion = majority_micro_f1(labels)
    lines.append(f"micro-F1 {metrics['micro_f1']:.4f} at threshold {threshold:.3f}, {metrics['micro_f1_at_0.5']:.4f} at 0.5;")
    lines.append(f"macro-F1 {metrics['macro_f1']:.4f}; always {emotion!r}: micro-F1 {baseline:.4f}")
    return "\n".join(lines)
