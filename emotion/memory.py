"""What a training step of a 4-bit model with adapters needs, told before anything is loaded."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import accelerate
import peft
import psutil
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

import utils
from emotion import scoring
from emotion.answers import text_decoder
from emotion.checkpoint import loading
from emotion.encoder import quiet_loading
from emotion.task import in_parts, in_random_order

CUDA_RESERVE = 0.8  # GiB of a GPU for its context and what the allocator cannot use; an assumption
PROBE = 257  # tokens whose activations are counted; a prime, so that no size of a model equals it
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)  # batch sizes that are tried
Bytes = dict[str, float]  # by purpose


class Estimate(NamedTuple):
    """What training needs, in bytes.

    Attributes:
        held: throughout.
        training: from the tokens of a batch, and whether activations are computed again in the
            backward pass, to what comes and goes.
        scoring: from the tokens of a batch to what scoring it takes.
        vocabulary: how many tokens the model has, no bytes.
    """

    held: Bytes
    training: Callable[[int, bool], Bytes]
    scoring: Callable[[int], float]
    vocabulary: int


def estimate(name: str, adapter: Any, max_length: int, precision: str) -> Estimate:
    """Count what a model holds, and what its layers keep for the backward pass: they are run on
    PyTorch's meta device, which has sizes and no numbers.

    Args:
        adapter: from the model to its `peft.LoraConfig`.

    Raises:
        utils.InputError: the model has no such layers to adapt, or takes fewer tokens.
    """
    quiet_loading()
    with loading(name), torch.device("meta"):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=False
        )
    text = config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None)
    if longest and 0 < longest < max_length:
        told = f"{name} takes {longest} tokens; give that or less"
        raise utils.InputError(f"--max-length {max_length}: {told}")
    head, lora = model.get_output_embeddings(), adapter(model)
    in_4_bits = {nn.Linear, Conv1D}  # subclasses stay as they are
    linears = [m.weight for m in model.modules() if type(m) in in_4_bits and m is not head]
    weights = sum(weight.numel() for weight in linears)
    largest = max((weight.numel() for weight in linears), default=0)
    widest = max((max(weight.shape) for weight in linears), default=text.hidden_size)
    stored = {
        id(p): p.numel() for m in (head, model.get_input_embeddings()) for p in m.parameters()
    }
    others = sum(p.numel() for p in model.parameters()) - weights - sum(stored.values())
    adapted = adapt(model, lora)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    layers, hidden = text.num_hidden_layers, text.hidden_size
    product = scoring.DTYPES[precision].itemsize
    of_attention = product * hidden * layers  # the output that fused kernels keep
    try:
        kept = count_kept_bytes(adapted, scoring.DTYPES[precision]) / PROBE + of_attention
    except Exception:  # a class whose layers do not run without numbers; Korthikanti et al. 2022
        kept = 2 * 34 * hidden * layers  # bytes of a token, for 32 bits and not 16
    unpacked = product * largest
    held = {
        "weights in 4 bits": weights / 2 + weights / 64 * (1 + 4 / 256),  # 1 for 64, 4 for 256
        "all else: embeddings, head, norms, experts": 2 * sum(stored.values()) + 4 * others,
        "adapter, its gradients, optimiser state": 16 * trained,
    }

    def training(tokens: int, again: bool) -> Bytes:
        # a weight and its transpose, a gradient, the mask while it is made
        coming = 2 * unpacked + 8 * tokens * widest + 8 * tokens**2
        if again:
            one_layer = kept / layers * tokens
            kept_inputs = 4 * tokens * hidden * layers
            return {"inputs of every layer, kept": kept_inputs, WORKING: one_layer + coming}
        return {"activations of every layer, kept": kept * tokens, WORKING: coming}

    def scoring_takes(tokens: int) -> float:
        return unpacked + tokens * (8 * widest + 16 * hidden)

    return Estimate(held, training, scoring_takes, text.vocab_size)


def adapt(model: Any, lora: Any) -> Any:
    """Put adapters on a model on the meta device.

    Raises:
        utils.InputError: it has no such layers, or peft does not know them.
    """
    try:
        with torch.device("meta"):
            return peft.get_peft_model(model, lora)
    except ValueError as error:
        names, reason = " ".join(lora.target_modules), str(error).partition(". ")[0]
        told = f"--target-modules {names}: {type(model).__name__}: {reason}"
        raise utils.InputError(f"{told}; name others") from None


WORKING = "one layer's work, a weight unpacked"


class Products(TorchFunctionMode):
    """What torch.autocast does, which does not reach the meta device: products are made in `dtype`.

    Those with frozen weights take the place of products in 4 bits, which give back float32 and
    keep nothing.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.copies: set[torch.UntypedStorage] = set()  # of weights

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch."""
        if function not in PRODUCTS or any(is_frozen(each) for each in args):
            return function(*args, **(kwargs or {}))
        cast = {name: self.cast(value) for name, value in (kwargs or {}).items()}
        return function(*map(self.cast, args), **cast)

    def cast(self, value: Any) -> Any:
        """A tensor of float32 in `dtype`; anything else as it is."""
        if not torch.is_tensor(value) or value.dtype != torch.float32:
            return value
        cast = value.to(self.dtype)
        if isinstance(value, nn.Parameter):
            self.copies.add(cast.untyped_storage())
        return cast


PRODUCTS = {
    *(nn.functional.linear, nn.functional.scaled_dot_product_attention, torch.matmul, torch.bmm),
    *(torch.Tensor.matmul, torch.Tensor.__matmul__, torch.baddbmm, torch.addmm),
}


def is_frozen(value: Any) -> bool:
    """Whether something is a weight that is not trained."""
    return isinstance(value, nn.Parameter) and not value.requires_grad


def count_kept_bytes(model: Any, dtype: torch.dtype) -> int:
    """Bytes that a pass over PROBE tokens keeps for the backward pass, on the meta device.

    Args:
        dtype: what products are made in.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        is_attention = tensor.shape[-2:] == (PROBE, PROBE)  # fused kernels keep none
        if not is_attention:
            kept[id(tensor.untyped_storage())] = tensor.untyped_storage()
        return tensor

    model.train()
    ids = torch.zeros((1, PROBE), dtype=torch.long, device="meta")
    mask = torch.zeros((1, 1, PROBE, PROBE), device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        decoder = text_decoder(model.get_base_model())
        with Products(dtype) as products:
            output = decoder(input_ids=ids, position_ids=ids, attention_mask=mask, use_cache=False)
        own = {id(parameter.untyped_storage()) for parameter in model.parameters()}
        own |= set(map(id, products.copies))
        total = sum(storage.nbytes() for key, storage in kept.items() if key not in own)
    del output
    return total


def longest_batch(
    lengths: Sequence[int], prefix: int | None, batch_size: int, epochs: int, seed: int
) -> int:
    """Tokens of the longest batch of a training, by one process; see `plan`."""
    batches = itertools.chain.from_iterable(
        in_random_order(len(lengths), batch_size, seed, epoch) for epoch in range(epochs)
    )
    if prefix is not None:
        return prefix + max(sum(lengths[index] for index in batch) for batch in batches)
    parts = itertools.chain.from_iterable(in_parts(each, batch_size, lengths) for each in batches)
    return max(len(part) * max(lengths[index] for index in part) for part in parts)


class Plan(NamedTuple):
    """How training fits: the table, whether to compute activations again, tokens to score."""

    table: str
    again: bool
    tokens_to_score: int
    advice: str | None  # where it does not fit


def plan(
    need: Estimate,
    lengths: Sequence[int],
    prefix: int | None,
    batch_size: int,
    epochs: int,
    seed: int,
) -> Plan:
    """Compare what training needs with what the device has.

    Args:
        lengths: tokens of each line, without the shared beginning.
        prefix: tokens of the beginning that the lines of a batch share, packed into one row; None
            where they share nothing, and are padded.
    """
    device = scoring.device()
    held = sum(need.held.values())

    @functools.cache
    def longest(size: int) -> int:
        return longest_batch(lengths, prefix, size, epochs, seed)

    def needed(size: int, again: bool) -> float:
        return held + sum(need.training(longest(size), again).values())

    def largest(room: float, again: bool) -> int:
        return max((size for size in SIZES if needed(size, again) <= room), default=0)

    free: float = psutil.virtual_memory().available
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    free = min(accelerate.utils.gather_object([free]))  # of several devices, the fullest
    again = needed(batch_size, False) > free
    tokens = longest(batch_size)
    total = needed(batch_size, again)
    rows = need.held | need.training(tokens, again) | {"in all": total, f"free on {device}": free}
    lines = [f"MiB that training needs, batches of up to {tokens} tokens ({batch_size} lines):"]
    lines += [f"  {purpose:<44}{size / 2**20:>10,.1f}" for purpose, size in rows.items()]
    lines.append("activations are " + ("computed again to save memory" if again else "kept"))
    for card in (24, 16, 12):
        room = (card - CUDA_RESERVE) * 2**30
        sizes = largest(room, False), largest(room, True)
        told = "--batch-size up to {}, up to {} with activations computed again".format(*sizes)
        lines.append(f"a GPU of {card} GB: {told if sizes[1] else 'too small'}")
    advice = None
    if total > free:
        size = largest(free, True)
        mend = f"take --batch-size {size}" if size else "take a smaller --model or a larger device"
        has = f"{device} has {free / 2**30:.1f} free"
        advice = f"training needs {total / 2**30:.1f} GiB and {has}; {mend}"
    tokens_to_score = scoring.TOKENS
    while tokens_to_score > 256 and held + need.scoring(tokens_to_score) > free:
        tokens_to_score //= 2
    return Plan("\n".join(lines), again, tokens_to_score, advice)
