"""What lies in a checkpoint, and how large a model is: looked at before torch is imported."""

import contextlib
import errno
import importlib.metadata
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

from safetensors import SafetensorError

import utils
from emotion import outputs, process
from emotion.rules import Rule

WEIGHTS = (".safetensors", ".bin")
NEEDED_BY_TOKENIZERS = ("sentencepiece", "tiktoken", "protobuf")
INSTALL = "pip install -r requirements-extra.txt"
LEFT_ON_THE_HUB = ("*.bin", "*.pt", "*.h5", "*.msgpack", "*.ot")  # weights that are not read
CLASSIFIERS = ("ForSequenceClassification", "Classifier")  # the ends of their names
OF_LIBRARIES = ("httpx", "httpx2", "huggingface_hub.errors")  # modules of errors of other kinds
LOADING_ERRORS = (OSError, ValueError, RuntimeError, ImportError, UnpicklingError, SafetensorError)


class Checkpoint(NamedTuple):
    """What was looked at of a checkpoint; `settings` is its prompt.json, where it has one."""

    labels: list[str]
    rule: Rule
    constant_answer: list[str]
    settings: dict[str, Any]


def check_encoder(path: Path, architectures: tuple[str, ...], threshold: str | float) -> Checkpoint:
    """Look at a checkpoint of a BERT script.

    Args:
        architectures: what the name of its class may end in.
        threshold: that to decide by, or "auto" for that of the checkpoint.

    Raises:
        utils.InputError: it is none, or has no decision rule where one is wanted.
    """
    config = outputs.read_json(path / "config.json")
    try:
        architecture = str(config["architectures"][0])
        if architecture.endswith(architectures):  # transformers does not write two default names
            config.setdefault("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
        named = config["id2label"]
        labels = [named[number] for number in sorted(named, key=int)]
    except (KeyError, TypeError, ValueError, IndexError):
        told = f"{path}: is no checkpoint (config.json is missing or broken); give best/ of a run"
        if os.path.exists(path / "prompt.json"):  # which no name is too long for
            told = f"{path}: is a checkpoint of gpt_train.py; predict with gpt_inference.py"
        elif os.path.exists(path / "decision.json") and not has_weights(path):
            told = f"{path}: holds a decision rule and no model, as of an average or a linear model"
            told += "; give best/ of a run that trained one, and average such alone to predict"
        elif os.path.exists(path / "fp32" / "config.json"):
            told = f"{path}: was made by export.py; give {path / 'fp32'} or {path / 'int8'}"
        elif isinstance(config, dict) and "model_type" in config:
            told = f"{path}: knows no labels, as a base model; give best/ of a run that trained it"
        raise utils.InputError(told) from None
    if "prompt" in config:
        told = "was made by export.py for other engines, and is asked as its README.md says"
        raise utils.InputError(f"{path}: {told}; give the checkpoint that it was made from")
    if (path / "adapter_config.json").exists():  # transformers would load the model that it names
        told = "holds an adapter too (adapter_config.json); delete what this script did not write"
        raise utils.InputError(f"{path}: {told}")
    if not has_weights(path):
        told = f"{path}: has no weights (model.safetensors); give best/ of a run"
        raise utils.InputError(told)
    if not architecture.endswith(architectures):
        told = f"{path}: is a checkpoint of {architecture}; predict with the script that trained it"
        raise utils.InputError(told)
    if config.get("problem_type") != "multi_label_classification":  # which those of here name
        told = "config.json does not say that each label has a sigmoid of its own (problem_type)"
        utils.log.warning("warning: %s: %s: scores may be no probabilities", path, told)
    return Checkpoint(labels, *read_decision(path, labels, threshold), {})


def has_weights(path: Path) -> bool:
    """Whether a checkpoint of an encoder has weights that are read."""
    return any(path.glob("*.safetensors")) or any(path.glob("*.onnx"))


def check_adapter(
    path: Path, threshold: str | float, model: str | None = None
) -> tuple[Checkpoint, str]:
    """Look at a checkpoint of gpt_train.py; returns it and the base: `model`, or what it names.

    Raises:
        utils.InputError: it is none, or has no decision rule where one is wanted, or its base is a
            directory that is gone.
    """
    settings = outputs.read_json(path / "prompt.json")
    try:
        base = outputs.read_json(path / "adapter_config.json")["base_model_name_or_path"]
        strings, labels = settings["strings"], settings["labels"]
        texts = [strings["prefix"], strings["target"], strings["response"], *strings["answers"]]
        fits = len(strings["answers"]) == len(labels) + 1
        fits = fits and all(isinstance(text, str) for text in (base, *texts, *labels))
        fits = fits and settings["objective"] in OBJECTIVES
        fits = fits and type(settings["max_length"]) is int and isinstance(settings["base"], dict)
    except (KeyError, TypeError):
        fits = False
    if not fits:
        told = "is no checkpoint of gpt_train.py (adapter_config.json or prompt.json is missing or"
        raise utils.InputError(f"{path}: {told} broken); give best/ of a run")
    if settings["objective"] == "head" and not (path / HEAD_FILE).exists():
        raise utils.InputError(f"{path}: has no head ({HEAD_FILE}); give best/ of a run")
    if not model and os.path.isabs(base) and not os.path.isdir(base):
        file = path / "adapter_config.json"
        told = f"its base {base} is not there; put it there again, or write into {file} where it is"
        told += ", or say so with --model, which gpt_inference.py and export.py take"
        raise utils.InputError(f"{path}: {told}")
    check_base(path, base, model or base)
    return Checkpoint(labels, *read_decision(path, labels, threshold), settings), model or base


def check_base(adapter: Path, own: str, given: str) -> None:
    """Warn where an adapter is put on a base of another name than its own: it may be another."""
    if os.path.realpath(own) != os.path.realpath(given):
        told = f"was trained on {own}, and is put on {given}; right only if their weights are alike"
        utils.log.warning("warning: %s: %s", adapter, told)


def measures(config: Any) -> dict[str, Any]:
    """What an adapter's base has to agree in."""
    names, text = ("vocab_size", "hidden_size", "num_hidden_layers"), config.get_text_config()
    return {"model_type": text.model_type} | {name: getattr(text, name, None) for name in names}


def check_measures(adapter: Path, trained_on: dict[str, Any], base: str, config: Any) -> None:
    """Raise utils.InputError where a base has not the `measures` of that of an adapter."""
    for name, value in measures(config).items():
        if value != trained_on.get(name):
            told = f"fits a base with {name} {trained_on.get(name)}, and {base} has {value}"
            raise utils.InputError(f"{adapter}: {told}; give another --model")


OBJECTIVES = ("answer", "multilabel", "head")  # of gpt_train.py
HEAD_FILE = "head.safetensors"  # beside the adapter, with the last of them


# Decision rule


def read_decision(
    path: Path, labels: Sequence[str], threshold: str | float
) -> tuple[Rule, list[str]]:
    """The decision rule, `threshold` or where it is "auto" that of a checkpoint's decision.json,
    and the constant answer that is noted there.

    Raises:
        utils.InputError: there is none that can be used.
    """
    decision = outputs.read_json(path / "decision.json")
    noted = (decision or {}).get("constant_answer")
    constant = [each for each in noted if each in labels] if isinstance(noted, list) else []
    if threshold != "auto":
        return Rule(float(threshold)), constant
    config = outputs.read_json(path / "config.json") or {}
    if "threshold" in config and not (path / "decision.json").exists():
        decision = {"labels": list(labels)}
        decision |= {name: config[name] for name in Rule._fields if name in config}
    file, mend = path / "decision.json", "give a decision rule, as --threshold 0.5"
    try:
        found, known = decision["threshold"], list(decision["labels"])
    except (KeyError, TypeError):
        record = outputs.read_json(path.parent / "run.json")
        if record and "seconds" not in record:
            mend = f"let its run end (--resume), or, to predict, {mend}"
        raise utils.InputError(f"{file}: is missing or broken; {mend}") from None
    if known != list(labels):
        raise utils.InputError(f"{file}: its labels are not those of the model; {mend}")
    several = found if isinstance(found, list) and len(found) == len(known) else [found]
    if any(type(each) not in (int, float) or not 0 <= each <= 1 for each in several):
        raise utils.InputError(f"{file}: threshold is {found!r}, not a number from 0 to 1; {mend}")
    at_least_one = decision.get("at_least_one", False)
    if type(at_least_one) is not bool:
        told = f"at_least_one is {at_least_one!r}, neither true nor false"
        raise utils.InputError(f"{file}: {told}; {mend}")
    return Rule(found if isinstance(found, list) else float(found), at_least_one), constant


# Models


ADAPTER = "adapter_config.json"
HOLDS_ADAPTER = (  # which transformers would put on the base that it names, unasked
    f"holds an adapter ({ADAPTER}); give a model without one, which gpt_train.py takes as --adapter"
)


def describe_model(name: str, flag: str = "--model ") -> str:
    """What is to be loaded, from where, and how large it is, as one line.

    Args:
        flag: what named it, for messages.

    Raises:
        utils.InputError: it is neither a `from_pretrained` directory nor a model that the hub or
            its cache has.
    """
    if os.path.exists(name):
        if not (Path(name) / "config.json").is_file():
            mend = "give a from_pretrained directory"
            raise utils.InputError(f"{flag}{name}: is no model (no config.json); {mend}")
        if (Path(name) / ADAPTER).exists():
            raise utils.InputError(f"{flag}{name}: {HOLDS_ADAPTER}")
        return f"loading {name}, {size_of(Path(name)) / 2**20:,.0f} MiB of weights"
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        found = {each: try_to_load_from_cache(name, each) for each in ("config.json", ADAPTER)}
        if flag and isinstance(found[ADAPTER], str):
            raise utils.InputError(f"{flag}{name}: {HOLDS_ADAPTER}")
        cached = next((each for each in found.values() if isinstance(each, str)), None)
        if cached and size_of(Path(cached).parent):
            size = size_of(Path(cached).parent) / 2**20
            return f"loading {name} from the cache of the hub, {size:,.0f} MiB of weights"
        info = HfApi().model_info(name, files_metadata=True, timeout=10)
    except utils.InputError:
        raise
    except (HFValidationError, RepositoryNotFoundError):
        told = "neither a directory nor a model on the hub; check the name"
        raise utils.InputError(f"{flag}{name}: {told}") from None
    except Exception as error:
        told = f"not on this machine, and the model hub cannot be reached ({type(error).__name__})"
        mend = "give a local directory" + f" with {flag}PATH, or try --sample" * bool(flag)
        raise utils.InputError(f"{flag}{name}: {told}; {mend}") from None
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    if flag and ADAPTER in sizes:
        raise utils.InputError(f"{flag}{name}: {HOLDS_ADAPTER}")
    kinds = [{n: s for n, s in sizes.items() if n.endswith(kind)} for kind in WEIGHTS]
    size = sum((kinds[0] or kinds[1]).values())
    return f"downloading {name} from the hub, {size / 2**20:,.0f} MiB of weights"


def size_of(directory: Path) -> int:
    """Bytes of the weights in a directory."""
    kinds = [sum(f.stat().st_size for f in directory.glob(f"*{kind}")) for kind in WEIGHTS]
    return kinds[0] or kinds[1]


@contextlib.contextmanager
def loading(path: Path | str) -> Iterator[None]:
    """Inside, what transformers raises over a model that it cannot load is a utils.InputError."""
    try:
        yield
    except utils.InputError:
        raise
    except Exception as error:
        is_known = isinstance(error, LOADING_ERRORS) or type(error).__module__ in OF_LIBRARIES
        is_known |= type(error) is Exception  # of tokenizers, over a file that it cannot read
        if process.is_out_of_memory(error) or not is_known:
            raise
        if getattr(error, "errno", None) == errno.ENOSPC:
            told = f"{path}: cannot be loaded: the disk is full"
            raise utils.RunError(f"{told}; make room and start again") from error
        if any(name in str(error).lower() for name in NEEDED_BY_TOKENIZERS):
            told = "has no tokenizer (tokenizer.json), or one that cannot be read; put it there"
            installed = {each.name for each in importlib.metadata.distributions()}
            if not installed.issuperset(NEEDED_BY_TOKENIZERS):
                told = f"its tokenizer needs packages that are not installed; mend that: {INSTALL}"
            raise utils.InputError(f"{path}: {told}") from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        mend = "give another model or checkpoint"
        raise utils.InputError(f"{path}: cannot be loaded: {reason}; {mend}") from error
