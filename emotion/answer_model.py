"""A causal language model as a classifier, the fast way where it is right and the slow way else."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import DynamicCache

import utils
from emotion import process, scoring
from emotion.answers import (
    TOLERANCE,
    AnswerHead,
    HeadFunction,
    LabelHead,
    measure_head,
    text_decoder,
    to_scores,
    warn_unless_causal,
)
from emotion.memory import Layout
from emotion.prompt import Prompt, Suffix, attention_mask, row_length

WANTED = {"attention_mask", "position_ids", "past_key_values"}  # of a decoder, on the fast way


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
        keys, values = (each.expand(rows, -1, -1, -1) for each in (layer.keys, layer.values))
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


class AnswerModel(nn.Module):
    """From lines to the log-probabilities of the answers, or to the logits of a head of its own.

    The fast way packs lines into one row, or reads the shared beginning of their prompts once; it
    needs attention that takes a mask as it is. The slow way gives each line a row of its own, and
    takes what the model's own forward returns: it is right for every causal language model.

    Args:
        model: a causal language model, with or without adapters.
        precision: what products are made in; all else is in float32.
        labels: how many, of its own head, if the prompt's objective is "head".

    Attributes:
        is_fast: the way that is taken; `choose_way` finds out which is right.
        new_weights: names of the parameters of a head of its own, while nothing has taught them.
    """

    def __init__(self, model: Any, prompt: Prompt, precision: str, labels: int = 0) -> None:
        super().__init__()
        self.model, self.prompt, self.is_fast = model, prompt, True
        try:
            function = measure_head(self.causal, prompt.prefix_ids)
        except Exception as error:  # each class of models fails in its own way
            told = f"{type(self.causal).__name__} does not run in 4 bits here"
            told += f" ({process.cause(error)}); give another --model"
            raise utils.InputError(told) from error
        self.has_own_head = prompt.objective == "head"
        self.knows_head, self.head_function = self.has_own_head or function is not None, function
        size = self.causal.get_output_embeddings().weight.shape[-1]
        self.head: nn.Module = (
            LabelHead(size, labels)
            if self.has_own_head
            else AnswerHead(prompt.answer_ids, function or HeadFunction())
        )
        self.head.to(self.causal.device)
        self.new_weights = {f"head.{name}" for name, _ in self.head.named_parameters()}
        self.set_precision(precision)

    @property
    def causal(self) -> Any:
        """The causal language model, whatever wraps it."""
        return getattr(self.model, "get_base_model", lambda: self.model)()

    def set_precision(self, precision: str) -> None:
        """Let products be made in a precision."""
        self.precision = precision
        for module in self.model.modules():
            if isinstance(module, Linear4bit):
                module.compute_dtype = scoring.DTYPES[precision]

    def forward(self, suffixes: Sequence[Suffix], cache: PrefixCache | None = None) -> torch.Tensor:
        """Log-probabilities of the answers, [lines, answers], or logits [lines, labels].

        Args:
            suffixes: lines, as of `Prompt.encode`.
            cache: of `run_prefix`, to give each line a row of its own behind it; None packs them
                into one row.
        """
        if not self.is_fast:
            return self.plain(suffixes)
        inputs = self.prompt.batch(suffixes) if cache else self.prompt.pack(suffixes)
        inputs = scoring.to_device(inputs, self.causal.device)
        prefix = cache.get_seq_length() if cache else 0
        mask = attention_mask(inputs.pop("line"), inputs.pop("branch"), prefix)
        mask = mask.to(scoring.DTYPES[self.precision])  # else each layer makes, and keeps, a copy
        kept = inputs.pop("kept")
        cached = {"past_key_values": cache, "use_cache": True} if cache else {}
        with scoring.autocast(self.causal.device, self.precision):
            decoder = text_decoder(self.causal)
            hidden = decoder(**inputs, **cached, attention_mask=mask).last_hidden_state
        row = torch.arange(len(hidden), device=hidden.device)[:, None]
        return self.head(hidden[row, kept], self.causal.get_output_embeddings())

    def plain(self, suffixes: Sequence[Suffix], pads: bool = True) -> torch.Tensor:
        """The same by the model's own forward.

        Args:
            pads: rows to a `row_length`.
        """
        inputs, where = self.prompt.rows(suffixes, pads), self.causal.device
        kept = inputs["kept"]
        if self.has_own_head:
            return self.head(self.last_hidden(inputs).flatten(0, 1))
        if self.keeps_few_logits():
            inputs["logits_to_keep"], kept = kept.unique(return_inverse=True)
        row, _ = inputs.pop("row"), inputs.pop("kept")
        with scoring.autocast(where, self.precision):
            logits = self.model(**scoring.to_device(inputs, where)).logits
        log_probabilities = logits.float().log_softmax(-1)
        return self.head.of_rows(log_probabilities, row.to(where), kept.to(where))

    def last_hidden(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The hidden states at the kept positions [lines, 1, size], by the model's own forward."""
        row, kept = inputs.pop("row"), inputs.pop("kept")[:, :, 0]
        given: dict[str, Any] = scoring.to_device(inputs, self.causal.device)
        if self.keeps_few_logits():
            given["logits_to_keep"] = 1  # none is wanted
        seen: list[Any] = []
        hook = text_decoder(self.causal).register_forward_hook(
            lambda module, args, output: seen.append(getattr(output, "last_hidden_state", None))
        )
        try:
            with scoring.autocast(self.causal.device, self.precision):
                self.model(**given)
        finally:
            hook.remove()
        if not seen or seen[0] is None:
            told = f"{type(self.causal).__name__} shows no hidden states to put a head on"
            raise utils.InputError(f"--objective head: {told}; take another objective")
        return seen[0][row, kept]

    @torch.inference_mode()
    def run_prefix(self) -> PrefixCache | None:
        """Keys and values of the shared beginning, to give to every batch; None on the slow way."""
        if not self.is_fast:
            return None
        cache = PrefixCache()
        input_ids = torch.tensor([self.prompt.prefix_ids], device=self.causal.device)
        with scoring.autocast(self.causal.device, self.precision):
            decoder = text_decoder(self.causal)
            decoder(input_ids=input_ids, past_key_values=cache, use_cache=True)
        cache.filled = True
        return cache

    @torch.inference_mode()
    def choose_way(self, suffixes: Sequence[Suffix]) -> str:
        """Take the fast way if it is right for this model, and else the slow one.

        Lines are scored by the model's own forward, one at a time, and by each way, in float32.

        Args:
            suffixes: a short line, and one as long as there are.

        Returns:
            What was found, as one line for the log.

        Raises:
            utils.InputError: neither way gives what the model's own forward gives.
        """
        precision, was_training = self.precision, self.training
        self.set_precision("fp32")
        self.eval()
        warn_unless_causal(self.causal, (self.prompt.prefix_ids + suffixes[0])[:8])
        self.head.train()  # it normalises
        plain = torch.cat([self.plain([suffix], pads=False) for suffix in suffixes])
        found = self.distance_of_fast_way(plain, suffixes)
        if isinstance(found, float) and found <= TOLERANCE:
            told = f"the fast way gives what the model's own forward gives, within {found:.0e}"
        else:
            self.is_fast = False
            off = float((self(suffixes) - plain).abs().max())
            if not off <= TOLERANCE:
                told = f"a line's scores move by {off:.1g} with what stands beside it in a batch"
                told = told if math.isfinite(off) else "the logits are not finite"
                told = f"{type(self.causal).__name__}: {told}; take another --model"
                raise utils.InputError(told)
            why = f"differs by {found:.1g}" if isinstance(found, float) else f"fails ({found})"
            more = sum(map(self.tokens, suffixes)) / sum(map(self.prompt.length, suffixes))
            told = f"the fast way {why}; each line is read in a row of its own, which is right and "
            told += f"takes {more:.1f} times the tokens"
        if process.process_count() > 1:  # which have to take the same steps
            self.is_fast = all(gather_object([self.is_fast]))
        self.set_precision(precision)
        self.train(was_training)
        return f"{type(self.causal).__name__}: {told}"

    def distance_of_fast_way(self, plain: torch.Tensor, suffixes: Sequence[Suffix]) -> float | str:
        """The largest difference from what is right, or why it cannot be taken."""
        takes = inspect.signature(text_decoder(self.causal).forward).parameters
        if lacks := sorted(WANTED - set(takes)):
            return f"{' and '.join(lacks)} not taken"
        if not self.knows_head:
            return "what its class does with the head's logits is not known"
        if not self.has_own_head and isinstance(self.causal.get_output_embeddings(), LoraLayer):
            return "the adapter is on its head too"
        try:
            ways = (self(suffixes), self(suffixes, self.run_prefix()))
            return max(float((way - plain).abs().nan_to_num(torch.inf).max()) for way in ways)
        except Exception as error:  # each class of models fails in its own way
            return process.cause(error)

    def try_step(self, suffixes: Sequence[Suffix]) -> None:
        """One pass forward and back, which leaves no trace.

        Raises:
            utils.InputError: the model does not train.
        """
        devices = [self.causal.device] if self.causal.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices):
                self.train()
                self(suffixes).sum().backward()
        except Exception as error:
            told = f"{type(self.causal).__name__} cannot be trained so ({process.cause(error)})"
            mend = "give other --target-modules, or another --model"
            raise utils.InputError(f"{told}; {mend}") from error
        self.zero_grad()

    def layout(self) -> Layout:
        """How the lines of a batch lie on the slow way."""
        answers = [len(ids) for ids in self.prompt.answer_ids]
        rows = max(1, sum(tokens > 1 for tokens in answers))
        logits = 0 if self.has_own_head else max(answers)
        return Layout(None, rows, logits if self.keeps_few_logits() else None)

    def length(self, suffix: Suffix) -> int:
        """How many tokens a row of a line holds without its padding, on the slow way."""
        prompt = self.prompt
        return len(prompt.prefix_ids) + len(suffix) + max(map(len, prompt.answer_ids)) - 1

    def keeps_few_logits(self) -> bool:
        """Whether its class makes the logits of chosen tokens alone."""
        return "logits_to_keep" in inspect.signature(self.causal.forward).parameters

    def tokens(self, suffix: Suffix) -> int:
        """Tokens of a line in rows of its own, padded; on the fast way without the beginning."""
        if self.is_fast:
            return row_length(self.prompt.length(suffix))
        return self.prompt.rows([suffix])["input_ids"].numel()


@torch.inference_mode()
def score(
    model: AnswerModel,
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
    known = cache or model.run_prefix()

    def score_batch(batch: scoring.Batch) -> np.ndarray:
        found = model([suffixes[index] for index in batch], known)
        return to_scores(found.float().cpu().double(), model.prompt.objective).numpy()

    lengths = list(map(model.tokens, suffixes))
    batches = scoring.batches_by_length(lengths, lines, tokens, padding=0)
    return scoring.score(batches, score_batch, after_batch)
