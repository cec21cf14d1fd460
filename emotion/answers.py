"""From hidden states to the log-probabilities of answers, and from these to losses and scores."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import utils
from emotion.prompt import padded

BASE_LOGIT = -1.7  # of a label that one line in six shows, which is about what the corpora have
TOLERANCE = 1e-3  # of a log-probability in float32, between two ways
VOCABULARY_CHUNK = 8192  # rows of the head that are held in float32 at a time


class HeadFunction(NamedTuple):
    """What a model's class does to the input of its head, and to the logits that come of it.

    Attributes:
        before: what hidden states are multiplied by.
        scale: what logits are multiplied by.
        cap: c of c * tanh(logits / c), or None.
    """

    before: float = 1.0
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits as the class gives them."""
        logits = logits * self.scale
        return logits if self.cap is None else self.cap * (logits / self.cap).tanh()


def text_decoder(model: Any) -> Any:
    """What gives the hidden states that the head of a causal language model reads."""
    decoder = model.get_decoder()
    return model.base_model if decoder is model.get_output_embeddings() else decoder


@torch.no_grad()
def warn_unless_causal(model: Any, input_ids: list[int]) -> None:
    """Warn where what some tokens foretell hangs on the last of them."""
    last = next((each for each in input_ids if each != input_ids[-1]), input_ids[-1])
    rows = torch.tensor([input_ids, [*input_ids[:-1], last]], device=model.device)
    one, other = model(input_ids=rows).logits[:, :-1].float().log_softmax(-1)
    if float((one - other).abs().max()) > TOLERANCE:  # what is not finite is told of elsewhere
        told = "a token sees those behind it, as in an encoder, which bert_plain.py trains"
        utils.log.warning("warning: %s: %s", type(model).__name__, told)


def measure_head(model: Any, input_ids: list[int]) -> HeadFunction | None:
    """Find out what a causal language model's class does before and behind its head.

    Some tokens are run with logits from tiny to huge put in the place of the head's own.

    Returns:
        None where it is nothing that a HeadFunction can do.
    """
    head = model.get_output_embeddings()
    probe = torch.logspace(-3, 6, len(head.weight), device=head.weight.device)
    hidden, given, logits = run_with_logits(model, input_ids, probe)
    if hidden is None or logits.shape != probe.shape or hidden.shape != given.shape:
        return None
    largest = hidden.abs().argmax()
    before, scale = float(given[largest] / hidden[largest]), float(logits[0] / probe[0])
    capped = abs(float(logits[-1] / probe[-1]) / scale - 1) > 1e-3
    found = HeadFunction(before, scale, float(logits[-1]) if capped else None)
    fits = torch.allclose(hidden * before, given, rtol=1e-4, atol=1e-6)
    return found if fits and torch.allclose(found(probe), logits, rtol=1e-3) else None


@torch.no_grad()
def run_with_logits(
    model: Any, input_ids: list[int], probe: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Run a causal language model, what its head gives replaced by `probe` [vocabulary].

    Returns:
        Of the last token: the decoder's hidden state, what the head was given, the model's logits.
    """
    seen: dict[str, Any] = {}

    def see_hidden(module: Any, args: Any, output: Any) -> None:
        seen["hidden"] = getattr(output, "last_hidden_state", None)

    def replace(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        seen["given"] = args[0]
        return probe.expand(output.shape)

    hooks = [
        text_decoder(model).register_forward_hook(see_hidden),
        model.get_output_embeddings().register_forward_hook(replace),
    ]
    try:
        logits = model(input_ids=torch.tensor([input_ids], device=probe.device)).logits
    finally:
        for hook in hooks:
            hook.remove()
    hidden = seen.get("hidden")
    last = (None if each is None else each[0, -1].float() for each in (hidden, seen["given"]))
    return *last, logits[0, -1].float()


class AnswerHead(nn.Module):
    """Gives the log-probabilities of the answers alone, by the weights of a causal model's head.

    The product with the vocabulary, which the normalisation needs, is made in float32 a part at a
    time and never kept. In evaluation it is left out where each answer is one token: it then adds
    the same to all answers, and no score depends on that.

    Args:
        answer_ids: the token ids of each answer.
        function: of the model's class.
    """

    def __init__(self, answer_ids: Sequence[list[int]], function: HeadFunction) -> None:
        super().__init__()
        self.function = function
        slots, first_free = [], 1  # slot 0, the end of the line, foretells every first token
        for ids in answer_ids:
            slots.append([0, *range(first_free, first_free + len(ids) - 1)])
            first_free += len(ids) - 1
        self.slots_of_a_line = first_free
        is_token = [[1.0] * len(ids) for ids in answer_ids]
        self.answer_ids = nn.Buffer(padded(answer_ids), persistent=False)  # [answers, longest]
        self.slots = nn.Buffer(padded(slots), persistent=False)
        self.is_token = nn.Buffer(padded(is_token), persistent=False)

    def forward(self, hidden: torch.Tensor, head: Any) -> torch.Tensor:
        """Hidden states at the kept positions [.., lines * slots, hidden] to [lines, answers].

        Args:
            head: the model's own, `weight` [vocabulary, hidden].
        """
        hidden = hidden.float().view(-1, self.slots_of_a_line, hidden.shape[-1])
        hidden = hidden * self.function.before
        rows = head.weight[self.answer_ids].float()
        logits = torch.einsum("latx,atx->lat", hidden[:, self.slots], rows)
        if getattr(head, "bias", None) is not None:
            logits = logits + head.bias[self.answer_ids].float()
        logits = self.function(logits)
        if self.training or self.slots_of_a_line > 1:
            logits = logits - self.log_normaliser(hidden, head)[:, self.slots]
        return (logits * self.is_token).sum(-1)

    def log_normaliser(self, hidden: torch.Tensor, head: Any) -> torch.Tensor:
        """log of the sum over the vocabulary of exp(logit), shape [lines, slots]."""

        def part(rows: slice) -> torch.Tensor:
            bias = None if getattr(head, "bias", None) is None else head.bias[rows].float()
            logits = nn.functional.linear(hidden, head.weight[rows].float(), bias)
            return self.function(logits).logsumexp(-1)

        chunk = VOCABULARY_CHUNK
        starts = range(0, len(head.weight), chunk)
        parts = [checkpoint(part, slice(n, n + chunk), use_reentrant=False) for n in starts]
        return torch.stack(parts).logsumexp(0)

    def of_rows(
        self, log_probabilities: torch.Tensor, row: torch.Tensor, kept: torch.Tensor
    ) -> torch.Tensor:
        """Log-probabilities of the vocabulary [rows, positions, vocabulary] to [lines, answers].

        Args:
            row: that an answer of a line is read in, [lines, answers].
            kept: positions that foretell its tokens, [lines, answers, longest].
        """
        found = log_probabilities[row[:, :, None], kept, self.answer_ids]
        return (found * self.is_token).sum(-1)


class LabelHead(nn.Module):
    """A linear layer on the hidden state of a line's last token, in float32.

    Args:
        size: of a hidden state.
        labels: how many.
    """

    def __init__(self, size: int, labels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, labels)
        nn.init.normal_(self.linear.weight, std=0.02)  # as transformers begins a head
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: torch.Tensor, head: Any = None) -> torch.Tensor:
        """Hidden states [.., lines, size] to logits [lines, labels].

        Args:
            head: the model's own, which is not used.
        """
        return self.linear(hidden.float().view(-1, hidden.shape[-1]))


def label_logits(log_probabilities: torch.Tensor) -> torch.Tensor:
    """A logit for each label, [lines, answers] to [lines, labels].

    That of its answer above the mean of all, from a base rate on. The answer that there is none,
    the last, counts in the mean, so that all labels can be low.
    """
    mean = log_probabilities.mean(-1, keepdim=True)
    return (log_probabilities - mean)[:, :-1] + BASE_LOGIT


def answer_loss(log_probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy on the answer, its target spread evenly over the answers of a line.

    Args:
        log_probabilities: of the answers, [lines, labels + 1]; the last is that there is none.
        labels: zeros and ones, [lines, labels].
    """
    none = (labels.sum(-1, keepdim=True) == 0).float()
    target = torch.cat([labels, none], dim=-1)
    return -(target / target.sum(-1, keepdim=True) * log_probabilities).sum(-1).mean()


def multilabel_loss(log_probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of each label's logit. Shapes as in `answer_loss`."""
    logits = label_logits(log_probabilities)
    return nn.functional.binary_cross_entropy_with_logits(logits, labels)


def to_scores(found: torch.Tensor, objective: str) -> torch.Tensor:
    """What an AnswerModel gives, to scores of the labels [lines, labels].

    answer: the probabilities of the labels' answers, normalised. multilabel, head: a sigmoid for
    each.
    """
    if objective == "answer":
        return found[:, :-1].softmax(-1)
    return (found if objective == "head" else label_logits(found)).sigmoid()


LOSSES = {
    "answer": answer_loss,
    "multilabel": multilabel_loss,
    "head": nn.functional.binary_cross_entropy_with_logits,
}
