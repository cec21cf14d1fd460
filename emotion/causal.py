"""A causal language model in 4 bits as a classifier: loading, answers' head, scores.

One arithmetic in training, evaluation and inference, that of QLoRA (Dettmers et al. 2023,
arXiv:2305.14314): residual stream, norms and the embeddings' output in float32, products in the
compute type of the 4-bit layers, the answers' head in float32.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from bitsandbytes.nn import Linear4bit
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DynamicCache,
)

import utils
from emotion import scoring
from emotion.answers import to_scores, with_answer_head
from emotion.checkpoint import Checkpoint, loading
from emotion.encoder import quiet_loading
from emotion.prompt import Prompt, Suffix, attention_mask, measures, row_length

QUERY_KEY_VALUE = {  # by architecture
    *("query_key_value", "q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "Wqkv")
}


class PrefixCache(DynamicCache):
    """Keys and values of the shared beginning, filled by the first pass and only read later."""

    filled = False

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [lines, heads, length, size] with those of the beginning before them."""
        if not self.filled:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        layer, rows = self.layers[layer_idx], len(key_states)
        shared = (each.expand(rows, -1, -1, -1) for each in (layer.keys, layer.values))
        keys, values = shared
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def load_base(path: str, precision: str, where: torch.device) -> Any:
    """The causal language model at `path` in 4 bits (NF4, double quantisation).

    Args:
        precision: what the products of its layers are made in.

    Raises:
        utils.InputError: the model cannot be loaded.
    """
    quiet_loading()
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=scoring.DTYPES[precision],
    )
    with loading(path):
        model = AutoModelForCausalLM.from_pretrained(
            path,
            quantization_config=quantization,
            dtype=torch.bfloat16,
            device_map={"": where},
            trust_remote_code=False,
        )
    model.config.use_cache = False  # PrefixCache is given where one is wanted
    return compute_in(precision, model)


def compute_in(precision: str, model: Any) -> Any:
    """Let the decoder's products be made in `precision`, and all else in float32.

    Embeddings and head stay stored in the type that they were loaded in.
    """
    decoder = model.base_model
    decoder.forward = scoring.autocast(model.device, precision)(decoder.forward)
    stored = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    for parameter in model.parameters():
        if parameter.is_floating_point() and id(parameter) not in stored:
            parameter.data = parameter.data.float()
    for module in model.modules():
        if isinstance(module, Linear4bit):  # else it repacks its weights in evaluation, for a
            module.support_avx512bf16_for_cpu = False  # kernel slower on a batch, without gradients
    model.get_input_embeddings().register_forward_hook(lambda *args: args[-1].float())
    return model


def lora_config(args: argparse.Namespace, model: Any) -> Any:
    """The adapter that `args` describe, for a model.

    Raises:
        utils.InputError: which layers to adapt is neither told nor known.
    """
    targets = args.target_modules
    if targets is None:
        linears = [name for name, each in model.named_modules() if isinstance(each, nn.Linear)]
        names = {name.rpartition(".")[2] for name in linears}
        targets = sorted(names & QUERY_KEY_VALUE)
        if not targets:
            told = f"say which of {', '.join(sorted(names))} to adapt, or all-linear"
            raise utils.InputError(f"--target-modules: {told}")
    return peft.LoraConfig(
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        task_type="CAUSAL_LM",
    )


def load_checkpoint(
    directory: Path, base: str, found: Checkpoint, precision: str, where: torch.device
) -> tuple[Any, Prompt]:
    """The adapter of a checkpoint of gpt_train.py on the model that it belongs on, and its prompt.

    Raises:
        utils.InputError: the checkpoint does not fit the base, or one of them cannot be loaded.
    """
    with loading(directory):
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    with loading(base):
        has = measures(AutoConfig.from_pretrained(base, trust_remote_code=False))
    for name, value in has.items():
        wanted = found.settings["base"].get(name)
        if value != wanted:
            told = f"fits a base with {name} {wanted}, and {base} has {value}"
            raise utils.InputError(f"{directory}: {told}; give another --model")
    if len(tokenizer) > has["vocab_size"]:
        told = f"its tokenizer has {len(tokenizer)} tokens, {base} {has['vocab_size']}"
        raise utils.InputError(f"{directory}: {told}; give best/ of a run")
    prompt = Prompt(found.settings["strings"], tokenizer, found.settings["max_length"])
    model = with_answer_head(load_base(base, precision, where), prompt.answer_ids)
    with loading(directory):
        model = peft.PeftModel.from_pretrained(model, directory)
    return model, prompt


def answer_log_probabilities(
    model: Any, inputs: dict[str, torch.Tensor], cache: PrefixCache | None = None
) -> torch.Tensor:
    """One pass over a packed row, or over rows behind a shared beginning: [lines, answers].

    Args:
        inputs: of `Prompt.pack`, or of `Prompt.batch` with a cache, on the device.
    """
    inputs = dict(inputs)
    prefix = cache.get_seq_length() if cache else 0
    mask = attention_mask(inputs.pop("line"), inputs.pop("branch"), prefix)
    cached = {"past_key_values": cache, "use_cache": True} if cache else {}
    return model(**inputs, **cached, attention_mask=mask).logits


@torch.inference_mode()
def run_prefix(model: Any, prompt: Prompt) -> PrefixCache:
    """The keys and values of the prompt's shared beginning, to give to every batch."""
    cache = PrefixCache()
    decoder = getattr(model, "get_base_model", lambda: model)().base_model
    input_ids = torch.tensor([prompt.prefix_ids], device=model.device)
    decoder(input_ids=input_ids, past_key_values=cache, use_cache=True)
    cache.filled = True
    return cache


@torch.inference_mode()
def score(
    model: Any,
    prompt: Prompt,
    objective: str,
    suffixes: Sequence[Suffix],
    after_batch: scoring.AfterBatch,
    lines: int | None = None,
    tokens: int = scoring.TOKENS,
    cache: PrefixCache | None = None,
) -> np.ndarray:
    """Scores of the labels for lines given as token ids, float64 [lines, labels], in their order.

    Args:
        model: in evaluation mode.
        lines: of a batch; None: as many as fill up `tokens` tokens.
        cache: of `run_prefix`, where it is at hand.
    """
    known = cache or run_prefix(model, prompt)

    def score_batch(batch: scoring.Batch) -> np.ndarray:
        inputs = prompt.batch([suffixes[index] for index in batch])
        inputs = scoring.to_device(inputs, model.device)
        found = answer_log_probabilities(model, inputs, known)
        return to_scores(found.float().cpu().double(), objective).numpy()

    lengths = [row_length(prompt.length(suffix)) for suffix in suffixes]
    batches = scoring.batches_to_score(lengths, lines, tokens, padding=0)
    return scoring.score(batches, score_batch, after_batch)
