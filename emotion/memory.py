"""What a training step of a 4-bit model with adapters needs, told before anything is loaded."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import peft
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
from emotion.prompt import row_length

PROBE = 257  # tokens whose activations are counted; a prime, so that no size of a model equals it
OF_A_LOGIT = 16  # bytes: 4 each for itself, its log-probability, and the gradient of either
Bytes = dict[str, float]  # by purpose


class Batch(NamedTuple):
    """What is counted of a batch: tokens with their padding, places of the attention mask, tokens
    whose logits over the vocabulary are kept.
    """

    tokens: int
    mask: int
    logits: int = 0


class Layout(NamedTuple):
    """How lines lie in a batch.

    Attributes:
        prefix: tokens of the beginning that the lines share, packed into one row; None where each
            line has rows of its own, padded.
        rows: of a line, then.
        logits: tokens at the end of a row whose logits over the vocabulary are kept, in all rows
            of the batch; None: of all tokens.
    """

    prefix: int | None
    rows: int = 1
    logits: int | None = 0

    def batch(self, lengths: Sequence[int]) -> Batch:
        """A batch of lines, by the tokens of each, or of a row of each."""
        if self.prefix is not None:
            tokens = self.prefix + sum(lengths)
            return Batch(tokens, tokens**2)
        rows, length = self.rows * len(lengths), row_length(max(lengths))
        kept = length
        if self.logits is not None:
            kept = len({each - n for each in lengths for n in range(self.logits)})
        return Batch(rows * length, rows * length**2, rows * kept)


class Estimate(NamedTuple):
    """What training needs, in bytes.

    Attributes:
        held: throughout.
        head: what its copy in float32 takes, where lines have rows of their own.
        training: from a batch, and whether activations are computed again in the backward pass,
            to what comes and goes.
        scoring: from the tokens of a batch to what scoring it takes.
        vocabulary: how many tokens the model has, no bytes.
        computes_again: whether its class can compute activations again.
    """

    held: Bytes
    head: Bytes
    training: Callable[[Batch, bool], Bytes]
    scoring: Callable[[int], float]
    vocabulary: int
    computes_again: bool


def check_config(name: str, config: Any, max_length: int) -> None:
    """Raise utils.InputError where a model takes fewer tokens, or is quantised otherwise than here.

    Args:
        config: of the model.
    """
    text = config.get_text_config()
    already = (getattr(each, "quantization_config", None) for each in (config, text))
    found = next(filter(None, already), {"quant_method": "bitsandbytes"})
    if found.get("quant_method", "bitsandbytes") != "bitsandbytes" or found.get("load_in_8bit"):
        told = f"its weights are quantised ({found.get('quant_method')}), and not in 4 bits of NF4"
        raise utils.InputError(f"{name}: {told}; give a copy of it in bfloat16")
    longest = getattr(text, "max_position_embeddings", None)
    if longest and 0 < longest < max_length:
        told = f"{name} takes {longest} tokens; give that or less"
        raise utils.InputError(f"--max-length {max_length}: {told}")


def estimate(name: str, adapter: Any, max_length: int, precision: str) -> Estimate:
    """Count what a model holds, and what its layers keep for the backward pass: they are run on
    PyTorch's meta device, which has sizes and no numbers.

    Args:
        adapter: from the model to its `peft.LoraConfig`.

    Raises:
        utils.InputError: the model has no such layers to adapt; as `check_config`.
    """
    quiet_loading()
    with loading(name), torch.device("meta"):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        check_config(name, config, max_length)
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=False
        )
    text = config.get_text_config()
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
    layers, hidden, dtype = text.num_hidden_layers, text.hidden_size, scoring.DTYPES[precision]
    try:
        kept = count_kept_bytes(adapted, dtype) / PROBE
        kept += dtype.itemsize * hidden * layers  # what attention gives, which fused kernels keep
    except Exception:  # a class whose layers do not run without numbers; Korthikanti et al. 2022
        kept = 2 * 34 * hidden * layers  # bytes of a token, for 32 bits and not 16
    unpacked = dtype.itemsize * largest
    held = {
        "weights in 4 bits": weights / 2 + weights / 64 * (1 + 4 / 256),  # 1 for 64, 4 for 256
        "all else: embeddings, head, norms, experts": 2 * sum(stored.values()) + 4 * others,
        "adapter, its gradients, optimiser state": 16 * trained,
    }

    def training(batch: Batch, again: bool) -> Bytes:
        # a weight and its transpose, a gradient, the mask while it is made
        tokens, coming = batch.tokens, 2 * unpacked + 8 * batch.tokens * widest + 8 * batch.mask
        coming += OF_A_LOGIT * batch.logits * text.vocab_size
        if again:
            coming += kept / layers * tokens
            return {"inputs of every layer, kept": 4 * tokens * hidden * layers, WORKING: coming}
        return {"activations of every layer, kept": kept * tokens, WORKING: coming}

    def scoring_takes(tokens: int) -> float:
        return unpacked + tokens * (8 * widest + 16 * hidden)

    of_head, again = {COPIED: 4 * head.weight.numel()}, model.supports_gradient_checkpointing
    return Estimate(held, of_head, training, scoring_takes, text.vocab_size, again)


def adapt(model: Any, lora: Any) -> Any:
    """Put adapters on a model on the meta device.

    Raises:
        utils.InputError: it has no such layers, or peft does not know them.
    """
    own = lora.base_model_name_or_path  # of --adapter's; else get_peft_model writes it
    try:
        with torch.device("meta"):
            return peft.get_peft_model(model, lora)
    except ValueError as error:
        names, reason = " ".join(lora.target_modules), str(error).partition(". ")[0]
        told, mend = f"{type(model).__name__}: {reason}", "name others"
        if own:
            mend = f"give another, or --model {own}, that it was trained on"
        flag = "--adapter" if own else f"--target-modules {names}"
        raise utils.InputError(f"{flag}: {told}; {mend}") from None


WORKING, COPIED = "one layer's work, a weight unpacked", "head in float32"


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
        if tensor.shape[-2:] != (PROBE, PROBE):  # attention's, of which fused kernels keep none
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
