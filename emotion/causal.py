"""Loading a causal language model in 4 bits, and the adapters on it.

One arithmetic in training, evaluation and inference, that of QLoRA (Dettmers et al. 2023,
arXiv:2305.14314): residual stream, norms and the embeddings' output in float32, products in the
compute type of the 4-bit layers, the answers' head in float32.
"""

import argparse
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from accelerate import Accelerator
from bitsandbytes.nn import Linear4bit, Params4bit
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

import utils
from emotion import answer_model, outputs, process, scoring
from emotion.answer_model import AnswerModel
from emotion.answers import text_decoder
from emotion.checkpoint import HEAD_FILE, Checkpoint, check_base, check_measures, loading
from emotion.encoder import quiet_loading
from emotion.prompt import Prompt
from emotion.vocabulary import read_tokenizer

LINEAR = (nn.Linear, Conv1D)
ATTENTION = {  # what is adapted by default, by architecture; in_proj: of recurrent layers
    *("query_key_value", "q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "Wqkv"),
    *("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "Wq", "Wk", "Wv"),
    *("query", "key", "value", "receptance", "in_proj"),
}


INITIALISED_APART = ("gaussian", "eva", "orthogonal")  # of peft: these leave the base as it is


def load_base(path: str, precision: str, where: torch.device, reads_head: bool = True) -> Any:
    """The causal language model at `path` in 4 bits (NF4, double quantisation).

    Args:
        precision: what the products of its layers are made in.
        reads_head: whether its head is of use; else its files may lack that.

    Raises:
        utils.InputError: the model cannot be loaded, or its files lack weights.
    """
    quiet_loading()
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=scoring.DTYPES[precision],
    )
    with loading(path):
        model, report = AutoModelForCausalLM.from_pretrained(
            os.path.abspath(path) if os.path.isdir(path) else path,  # as an adapter names it
            quantization_config=quantization,
            dtype=torch.bfloat16,
            device_map={"": where},
            trust_remote_code=False,
            output_loading_info=True,
        )
    head = next(n for n, each in model.named_modules() if each is model.get_output_embeddings())
    lacks = (n for n in report["missing_keys"] if reads_head or not n.startswith(f"{head}."))
    if lost := sorted(lacks):  # which transformers draws at random, anew at each loading
        told = f"lacks {len(lost)} weights of {type(model).__name__}, as {lost[0]}"
        raise utils.InputError(f"{path}: {told}; give another model")
    for config in (model.config, model.config.get_text_config()):
        config.use_cache = False  # a cache is given where one is wanted
    return compute_in_float32(model, scoring.DTYPES[precision])


def compute_in_float32(model: Any, products: torch.dtype) -> Any:
    """Let all that is not a product of 4-bit layers compute in float32, unless autocast is on.

    Embeddings and head stay stored in the type that they were loaded in.

    Args:
        products: what those are made in, whatever a model that came in 4 bits says.
    """
    head = model.get_output_embeddings()
    stored = {id(model.get_input_embeddings().weight), id(head.weight)}
    for parameter in model.parameters():
        in_4_bits = isinstance(parameter, Params4bit)  # which may be stored as bfloat16
        if parameter.is_floating_point() and id(parameter) not in stored and not in_4_bits:
            parameter.data = parameter.data.float()
    for module in model.modules():
        if isinstance(module, Linear4bit):  # else it repacks its weights in evaluation, for a
            module.support_avx512bf16_for_cpu = False  # kernel slower on a batch, without gradients
            module.compute_dtype = products
    model.get_input_embeddings().register_forward_hook(lambda *args: args[-1].float())
    head.forward = functools.partial(float32_logits, head)
    return model


def float32_logits(head: Any, hidden: torch.Tensor) -> torch.Tensor:
    """What a head makes of hidden states, in float32 whatever it is stored in."""
    bias = None if getattr(head, "bias", None) is None else head.bias.float()
    with torch.autocast(hidden.device.type, enabled=False):
        return nn.functional.linear(hidden.float(), head.weight.float(), bias)


def lora_config(args: argparse.Namespace, model: Any) -> Any:
    """The adapter that `args` describe, for a model: of its text decoder alone, and not its head.

    With `--adapter` as that is.

    Raises:
        utils.InputError: which layers to adapt is neither told nor known.
    """
    if args.adapter:
        if not (args.adapter / "adapter_config.json").is_file():  # else it is looked for on the hub
            told = "cannot be loaded: no adapter_config.json; give best/ of a run of gpt_train.py"
            raise utils.InputError(f"--adapter {args.adapter}: {told}")
        with loading(args.adapter):
            config = peft.PeftConfig.from_pretrained(str(args.adapter))
        begins = getattr(config, "init_lora_weights", True)
        if isinstance(begins, str) and begins not in INITIALISED_APART:
            told = f"begins as {begins} does, which 4 bits do not allow; give one of plain LoRA"
            raise utils.InputError(f"--adapter {args.adapter}: {told}")
        config.inference_mode = False
        return config
    inside, head = set(text_decoder(model).modules()), model.get_output_embeddings()
    linears: dict[str, str] = {}  # of the decoder: from a name to its last part
    outside: set[str] = set()
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if module not in inside and module is not head:
            outside |= {last, "all-linear"} if isinstance(module, LINEAR) else {last}
        elif isinstance(module, LINEAR) and module is not head:
            linears[name] = last
    targets = args.target_modules or sorted(ATTENTION & set(linears.values()))
    if not targets:
        told = f"say which of {', '.join(sorted(set(linears.values())))} to adapt, or all-linear"
        raise utils.InputError(f"--target-modules: {told}")
    names = [f".{name}" for name, module in model.named_modules() if module in inside | {head}]
    asked, every = set(targets) - {"all-linear"}, "all-linear" in targets
    for each in asked:  # peft passes over one that is not there
        if not any(name.endswith(f".{each}") for name in names):
            told = "is not found in the base model, whose layers are "
            told += f"{', '.join(sorted(set(linears.values())))}; name these"
            raise utils.InputError(f"--target-modules {each}: {told}")
    # a vision tower has such layers too, and all-linear beside others is a name like them to peft
    if outside & set(targets) or (every and asked):
        ends = tuple(f".{each}" for each in asked)
        targets = [n[1:] for n in names if n.endswith(ends) or (every and n[1:] in linears)]
    return peft.LoraConfig(
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in inside),
        task_type="CAUSAL_LM",
    )


def checkpoint_adapters_alone(accelerator: Accelerator) -> None:
    """Let checkpoints of `accelerator` hold the adapters of an AnswerModel: the base stays."""

    def save(models: list[Any], weights: list[Any], path: str) -> None:
        weights.clear()
        if accelerator.is_main_process:
            save_trained(accelerator.unwrap_model(models[0]), Path(path))

    def load(models: list[Any], path: str) -> None:
        load_trained(accelerator.unwrap_model(models.pop()), Path(path))  # accelerate: none

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def save_trained(
    model: AnswerModel, path: Path, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Write the adapters of a model, and its head where it has one of its own.

    Args:
        weights: of the model, where processes share them.
    """
    named = weights and {name.removeprefix("model."): each for name, each in weights.items()}
    model.model.save_pretrained(path, state_dict=named, save_embedding_layers=False)
    if model.has_own_head:
        kept = {f"head.{name}": each for name, each in model.head.state_dict().items()}
        head = {name: each.cpu() for name, each in (weights or kept).items() if name in kept}
        save_file(
            {name.removeprefix("head."): each for name, each in head.items()}, path / HEAD_FILE
        )


def load_trained(model: AnswerModel, path: Path) -> None:
    """Read what `save_trained` wrote into a model.

    Raises:
        utils.InputError: it does not fit.
    """
    load_adapters(model.model, path)
    if model.has_own_head:
        with loading(path):
            model.head.load_state_dict(load_file(path / HEAD_FILE))
        model.new_weights = set()


def load_adapters(model: Any, path: Path | str) -> None:
    """Read the adapters of a directory that peft wrote into a model that has such.

    Raises:
        utils.InputError: they do not fit.
    """
    with loading(path):
        found = peft.load_peft_weights(str(path), device="cpu")
        report = peft.set_peft_model_state_dict(model, found)
    lost = [f"lacks {name}" for name in report.missing_keys if "lora_" in name]
    if strange := [f"has {name}" for name in report.unexpected_keys] + lost:
        raise utils.InputError(f"{path}: is of another model (it {strange[0]}); give another")


def adapt(
    args: argparse.Namespace, base: Any, prompt: Prompt, labels: Sequence[str]
) -> AnswerModel:
    """Put the adapters that `args` describe on a base, with the weights of `--adapter`, and the
    head of that where labels and objective are the same.

    Raises:
        utils.InputError: as `lora_config` and `load_adapters`.
    """
    config = lora_config(args, base)
    if args.adapter:
        check_base(args.adapter, config.base_model_name_or_path or args.model, args.model)
    adapted = peft.get_peft_model(base, config)
    model = AnswerModel(adapted, prompt, scoring.resolve_precision(args.precision), len(labels))
    if args.adapter:
        before = outputs.read_json(args.adapter / "prompt.json") or {}
        same = (before.get("labels"), before.get("objective")) == (list(labels), prompt.objective)
        load_trained(model, args.adapter) if same else load_adapters(adapted, args.adapter)
    return model


def load_checkpoint(
    directory: Path, base: str, found: Checkpoint, precision: str, where: torch.device
) -> AnswerModel:
    """The adapter of a checkpoint of gpt_train.py on the model that it belongs on.

    Raises:
        utils.InputError: the checkpoint does not fit the base, or one of them cannot be loaded.
    """
    with loading(directory):
        tokenizer = read_tokenizer(directory)
    with loading(base):
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    check_measures(directory, found.settings["base"], base, config)
    size = config.get_text_config().vocab_size
    prompt = Prompt.of_checkpoint(found.settings, tokenizer, size)
    adapted = load_base(base, precision, where, prompt.objective != "head")
    with loading(directory):
        adapted = peft.get_peft_model(adapted, peft.PeftConfig.from_pretrained(directory))
    model = AnswerModel(adapted, prompt, precision, len(found.labels))
    load_trained(model, directory)
    return model.eval()


def load_scorer(
    path: Path, base: str, found: Checkpoint, precision: str, lines: int | None
) -> tuple[process.ScoreRows, dict[str, str]]:
    """What scores rows with a checkpoint of gpt_train.py, and the facts that a run notes of it.

    Args:
        precision: as of `--precision`.
        lines: of a batch; None: as many as fill `scoring.TOKENS` tokens.

    Raises:
        utils.InputError: as `load_checkpoint`.
    """
    precision, where = scoring.resolve_precision(precision), scoring.device()
    model = load_checkpoint(path, base, found, precision, where)
    utils.log.info(model.choose_way(model.prompt.shortest_and_longest()))
    cache = model.run_prefix()

    def score(rows: Sequence[utils.Row], after_batch: scoring.AfterBatch) -> np.ndarray:
        asked = model.prompt.encode(rows, predicts=True)
        return answer_model.score(model, asked, after_batch, lines, cache=cache)

    return score, {"device": str(where), "precision": precision}
