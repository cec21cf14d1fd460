"""An encoder under a head, and its tokenizer: loading."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
)

import utils
from emotion import onnx_model
from emotion.checkpoint import loading
from emotion.modeling import HEADS, EncoderClassifier, FormerGRUClassifier, GRUClassifier
from emotion.vocabulary import read_tokenizer

OURS = {each.__name__: each for each in HEADS.values()}
for each in OURS.values():
    each.register_for_auto_class("AutoModelForSequenceClassification")  # checkpoints carry the code


def quiet_loading() -> None:
    """No bar while weights are read from the disk; those of a download stay."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # new weights are reported by the scripts
    from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
    from huggingface_hub.utils import enable_progress_bars

    if not HF_HUB_DISABLE_PROGRESS_BARS:
        enable_progress_bars()


def load(path: Path | str) -> tuple[Any, Any]:
    """The tokenizer and the model of a checkpoint.

    Raises:
        utils.InputError: it cannot be loaded.
    """
    quiet_loading()
    with loading(path):
        config = load_config(path)
        tokenizer, text = load_tokenizer(path, config), config.get_text_config()
        if getattr(text, "pad_token_id", None) is None:  # of a decoder, by which it finds the end
            text.pad_token_id = tokenizer.pad_token_id
        if (Path(path) / onnx_model.FILE).exists() and not any(Path(path).glob("*.safetensors")):
            return tokenizer, onnx_model.OnnxClassifier(Path(path), config)
        found = OURS.get(config.architectures[0], AutoModelForSequenceClassification)
        return tokenizer, head_in_float32(from_pretrained(found, path, config)[0])


def load_to_train(path: Path | str, labels: Sequence[str], head: str) -> tuple[Any, Any, set[str]]:
    """The tokenizer of a pretrained model or of a checkpoint, and its encoder under a head.

    The head of a checkpoint is kept where it has the same labels and is of the same kind.

    Args:
        head: a key of `modeling.HEADS`; for "cls" the class that transformers has is taken, where
            that reads the first token.

    Returns:
        (tokenizer, model, new_weights): the names of parameters that are not read from the path.

    Raises:
        utils.InputError: the model cannot be loaded, is no encoder, or lacks more than a head.
    """
    quiet_loading()
    ids = {name: index for index, name in enumerate(labels)}
    settings: dict[str, Any] = {"id2label": dict(enumerate(labels)), "label2id": ids}
    settings |= {"problem_type": "multi_label_classification"}
    with loading(path):
        before, config = load_config(path), load_config(path, **settings)
        for name in ("auto_map", "threshold", "at_least_one"):  # of the training before
            vars(config).pop(name, None)
        tokenizer = part_by_a_token(load_tokenizer(path, config))
        architecture = (before.architectures or [""])[0]
        is_checkpoint = architecture.endswith("ForSequenceClassification") or architecture in OURS
        names = [name for _, name in sorted(before.id2label.items())]
        keeps_head = is_checkpoint and names == list(labels)
        by_itself = head == "cls" and type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
        if keeps_head and OURS.get(architecture) is HEADS[head]:
            return tokenizer, *from_pretrained(HEADS[head], path, config)
        if by_itself and architecture not in OURS and (keeps_head or not is_checkpoint):
            found = from_pretrained(AutoModelForSequenceClassification, path, config, whole=False)
            if reads_first_token(found[0], tokenizer):
                return tokenizer, head_in_float32(found[0]), found[1]
        if architecture in OURS:
            encoder = from_pretrained(OURS[architecture], path, before)[0].encoder
        else:
            encoder = from_pretrained(AutoModel, path, config, whole=False)[0]
    if by_itself and is_checkpoint:
        given = {"dtype": torch.float32, "trust_remote_code": False}  # else the type of its file
        model = AutoModelForSequenceClassification.from_config(config, **given)
        prefix = f"{model.base_model_prefix}."
        lost = model.base_model.load_state_dict(encoder.state_dict(), strict=False).missing_keys
        if reads_first_token(model, tokenizer):  # what is lost is a pooler
            lost = {f"{prefix}{each}" for each in lost}
            return tokenizer, head_in_float32(model), parameters_outside(model, prefix) | lost
    model = HEADS[head](config)
    if hasattr(encoder, "pooler"):
        encoder.pooler = nn.Identity()
    model.encoder = encoder
    return tokenizer, model, parameters_outside(model, "encoder.")


def head_in_float32(model: Any) -> Any:
    """A classifier of transformers' own whose head computes in float32, as those of `modeling` do:
    of logits in bfloat16 many are alike.
    """
    if not isinstance(model, EncoderClassifier) and model.base_model is not model:
        for child in model.children():
            if child is not model.base_model:
                kind = type(child)
                child.__class__ = type(kind.__name__, (InFloat32, kind), {})
    return model


class InFloat32(nn.Module):
    """Put before the class of a part of a model, lets that compute in float32, in autocast too."""

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """What it makes of hidden states [batch, ..., features] of any precision."""
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.float(), *args, **kwargs)


def parameters_outside(model: Any, prefix: str) -> set[str]:
    """The names of a model's parameters that do not begin with a prefix."""
    return {name for name, _ in model.named_parameters() if not name.startswith(prefix)}


def load_config(path: Path | str, **settings: Any) -> Any:
    """The config of an encoder, settings added.

    Raises:
        utils.InputError: it is one with a decoder, or has no hidden_size.
    """
    config = AutoConfig.from_pretrained(path, trust_remote_code=False, **settings)
    if config.is_encoder_decoder:
        told = f"is an encoder with a decoder ({config.model_type}); give an encoder alone"
        raise utils.InputError(f"{path}: {told}")
    if not hasattr(config.get_text_config(), "hidden_size"):
        told = f"{config.model_type} does not tell how wide its hidden states are"
        raise utils.InputError(f"{path}: {told}; give another model")
    if getattr(config, "attention_type", "") == "block_sparse":  # else the first batch decides
        config.attention_type = "original_full"
    config.get_text_config().use_cache = False
    return config


def from_pretrained(
    model_class: Any, path: Path | str, config: Any, whole: bool = True
) -> tuple[Any, set[str]]:
    """A model in float32, and the names of its parameters that the file lacks.

    Args:
        whole: whether it may lack nothing; else a head and a pooler.

    Raises:
        utils.InputError: it lacks more.
    """
    settings = {"config": config, "dtype": torch.float32, "trust_remote_code": False}
    model, report = model_class.from_pretrained(path, output_loading_info=True, **settings)
    if model_class is GRUClassifier and gru_names(report["unexpected_keys"]):
        if gru_names(report["missing_keys"]):
            former, report = FormerGRUClassifier.from_pretrained(
                path, output_loading_info=True, **settings
            )
            model.load_state_dict(former.state_dict())  # which gives weights their present names
        if surplus := gru_names(report["unexpected_keys"]):
            told = f"has weights that a GRU of two layers has not, as {surplus[0]}"
            raise utils.InputError(f"{path}: {told}; give another model")
    lacks = set(report["missing_keys"])
    body = "" if model_class is AutoModel else f"{model.base_model_prefix}."
    may_lack = {name for name in lacks if not name.startswith(body) or "pooler" in name}
    lost = sorted(lacks if whole else lacks - may_lack)
    if lost:
        told = f"lacks {len(lost)} weights of {type(model).__name__}, as {lost[0]}"
        raise utils.InputError(f"{path}: {told}; give another model")
    return model, lacks


def gru_names(names: Iterable[str]) -> list[str]:
    """Those of a GRU, in order."""
    return sorted(name for name in names if name.startswith("gru."))


def load_tokenizer(path: Path | str, config: Any) -> Any:
    """The tokenizer of a model: pads on the right, names the inputs that the model takes, and has
    a pad token.

    Raises:
        utils.InputError: there is none, or it has no token to pad with.
    """
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = read_tokenizer(path)
    kinds = getattr(config, "type_vocab_size", 1) or 1
    pair = tokenizer("a", "b", return_token_type_ids=True)
    if kinds == 1 or max(pair["token_type_ids"]) >= kinds:
        names.remove("token_type_ids")
    tokenizer = read_tokenizer(path, padding_side="right", model_input_names=names)
    end = tokenizer.sep_token or tokenizer.eos_token
    if tokenizer.pad_token is None and end is None:
        told = "its tokenizer has no pad_token; name it in tokenizer_config.json"
        raise utils.InputError(f"{path}: {told}, or give another model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = end
    return tokenizer


def part_by_a_token(tokenizer: Any) -> Any:
    """A tokenizer that puts something between text and target, which are a pair.

    It is saved with it, so that plain use of a checkpoint reads what was trained.
    """
    end = tokenizer.sep_token or tokenizer.eos_token
    single, double = (tokenizer.num_special_tokens_to_add(pair=pair) for pair in (False, True))
    if single == double and end:
        first = tokenizer("a")["input_ids"][: single * (tokenizer.bos_token is not None)]
        begins = first == [tokenizer.bos_token_id] and first != []
        begin = f"{tokenizer.bos_token} " if begins else ""
        special = {each: tokenizer.convert_tokens_to_ids(each) for each in (*begin.split(), end)}
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{begin}$A {end}",
            pair=f"{begin}$A {end} $B {end}",
            special_tokens=list(special.items()),
        )
    return tokenizer


def reads_first_token(model: Any, tokenizer: Any) -> bool:
    """Whether a classifier's logits come of the encoder's first hidden state alone."""
    seen = []

    def see(module: Any, args: Any, output: Any) -> None:
        hidden = output[0]
        if hidden.requires_grad:
            hidden.retain_grad()
        seen.append(hidden)

    hook = model.base_model.register_forward_hook(see)
    try:
        inputs = tokenizer("a b c", "d e f", return_tensors="pt")
        model.eval()(**inputs).logits.sum().backward()
    except (TypeError, ValueError, RuntimeError, IndexError):
        return True  # the check of a batch tells what is wrong
    finally:
        hook.remove()
    model.zero_grad()
    gradient = seen[0].grad
    return gradient is None or not gradient[0, 1:].any()
