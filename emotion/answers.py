"""From hidden states to the log-probabilities of answers, and from these to losses and scores."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from emotion.prompt import padded

BASE_LOGIT = -1.7  # of a label that one line in six shows, which is about what the corpora have
VOCABULARY_CHUNK = 8192  # rows of the head that are held in float32 at a time


class AnswerHead(nn.Module):
    """Takes the place of a causal model's head; gives the log-probabilities of the answers alone.

    The product with the vocabulary, which the normalisation needs, is made in float32 a part at a
    time and never kept. In evaluation it is left out where each answer is one token: it then adds
    the same to all answers, and no score depends on that.

    Args:
        head: the model's own, `weight` [vocabulary, hidden]; it stays in the type that it has.
        answer_ids: the token ids of each answer.
    """

    def __init__(self, head: Any, answer_ids: Sequence[list[int]]) -> None:
        super().__init__()
        self.weight, self.bias = head.weight, getattr(head, "bias", None)
        slots, first_free = [], 1  # slot 0, the end of the line, foretells every first token
        for ids in answer_ids:
            slots.append([0, *range(first_free, first_free + len(ids) - 1)])
            first_free += len(ids) - 1
        self.slots_of_a_line = first_free
        is_token = [[1.0] * len(ids) for ids in answer_ids]
        self.answer_ids = nn.Buffer(padded(answer_ids), persistent=False)  # [answers, longest]
        self.slots = nn.Buffer(padded(slots), persistent=False)
        self.is_token = nn.Buffer(padded(is_token), persistent=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states at the kept positions [.., lines * slots, hidden] to [lines, answers]."""
        hidden = hidden.float().view(-1, self.slots_of_a_line, hidden.shape[-1])
        rows = self.weight[self.answer_ids].float()
        logits = torch.einsum("latx,atx->lat", hidden[:, self.slots], rows)
        if self.bias is not None:
            logits = logits + self.bias[self.answer_ids].float()
        if self.training or self.slots_of_a_line > 1:
            logits = logits - self.log_normaliser(hidden)[:, self.slots]
        return (logits * self.is_token).sum(-1)

    def log_normaliser(self, hidden: torch.Tensor) -> torch.Tensor:
        """log of the sum over the vocabulary of exp(logit), shape [lines, slots]."""

        def part(rows: slice) -> torch.Tensor:
            bias = None if self.bias is None else self.bias[rows].float()
            return nn.functional.linear(hidden, self.weight[rows].float(), bias).logsumexp(-1)

        chunk = VOCABULARY_CHUNK
        starts = range(0, len(self.weight), chunk)
        parts = [checkpoint(part, slice(n, n + chunk), use_reentrant=False) for n in starts]
        return torch.stack(parts).logsumexp(0)


def with_answer_head(model: Any, answer_ids: Sequence[list[int]]) -> Any:
    """Put an AnswerHead in the place of the head of a causal language model."""
    head = model.get_output_embeddings()
    model.set_output_embeddings(AnswerHead(head, answer_ids).to(head.weight.device))
    return model


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


def to_scores(log_probabilities: torch.Tensor, objective: str) -> torch.Tensor:
    """Log-probabilities of the answers [lines, answers] to scores of the labels [lines, labels].

    answer: the probabilities of the labels' answers, normalised. multilabel: a sigmoid for each.
    """
    if objective == "answer":
        return log_probabilities[:, :-1].softmax(-1)
    return label_logits(log_probabilities).sigmoid()


LOSSES = {"answer": answer_loss, "multilabel": multilabel_loss}
