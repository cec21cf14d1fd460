"""The changes to bert_plain.py that ablation.py measures and that no script has."""

import re

import torch
from torch import nn

from emotion import task
from emotion.modeling import MeanPoolingClassifier


class AttentionPoolingClassifier(MeanPoolingClassifier):
    """As MeanPoolingClassifier, the mean being weighted by a learnt query."""

    def __init__(self, config):
        super().__init__(config)
        self.query = nn.Linear(config.hidden_size, 1)
        nn.init.zeros_(self.query.weight)  # begins as the mean

    def pool(self, hidden, attention_mask, lengths):
        scores = self.query(hidden).masked_fill(attention_mask.unsqueeze(-1) == 0, -torch.inf)
        return (scores.softmax(1) * hidden).sum(1)


class AsymmetricClassifier(MeanPoolingClassifier):
    """As MeanPoolingClassifier, with the asymmetric loss."""

    def forward(self, *args, labels=None, **inputs):
        outputs = super().forward(*args, **inputs)
        if labels is not None:
            outputs.loss = asymmetric_loss(outputs.logits, labels)
        return outputs


class RDropClassifier(MeanPoolingClassifier):
    """As MeanPoolingClassifier; two passes with different dropout are kept alike, with weight 2.

    (Liang et al. 2021, arXiv:2106.14448.)
    """

    def forward(self, *args, **inputs):
        outputs = super().forward(*args, **inputs)
        if self.training and outputs.loss is not None:
            again = super().forward(*args, **inputs)
            divergence = bernoulli_kl(outputs.logits, again.logits)
            outputs.loss = (outputs.loss + again.loss + divergence) / 2
        return outputs


HEADS = {
    "attention": AttentionPoolingClassifier,
    "asymmetric": AsymmetricClassifier,
    "r-drop": RDropClassifier,
}


def asymmetric_loss(logits, labels, gamma_positive=1.0, gamma_negative=4.0, margin=0.05):
    """Asymmetric loss with the authors' settings.

    (Ridnik et al. 2021, arXiv:2009.14119, equations 5 to 7.)
    """
    p = logits.float().sigmoid()
    shifted = (p - margin).clamp(min=0)
    positive = labels * (1 - p) ** gamma_positive * p.clamp(min=1e-8).log()
    negative = (1 - labels) * shifted**gamma_negative * (1 - shifted).clamp(min=1e-8).log()
    return -(positive + negative).sum(-1).mean()


def bernoulli_kl(logits, other):
    """Divergence of the labels' Bernoulli distributions, both ways added, averaged over all."""
    p, q = logits.float().sigmoid(), other.float().sigmoid()
    return ((p - q) * (logits.float() - other.float())).mean()  # KL(p|q) + KL(q|p)


def decay_by_layer(factor):
    """Let `task.parameter_groups` part its groups by layer, and each learn slower than the next.

    Args:
        factor: between the learning rates of a layer and the one above it (Howard & Ruder 2018,
            arXiv:1801.06146).
    """
    whole_groups = task.parameter_groups

    def parameter_groups(model, *rates):
        layers, depth = model.config.num_hidden_layers, {}
        for name, parameter in model.named_parameters():
            layer = re.search(r"\.layer\.(\d+)\.", name)
            below = 0 if "embeddings" in name else layers
            depth[id(parameter)] = int(layer[1]) + 1 if layer else below
        parted = []
        for group in whole_groups(model, *rates):
            levels: dict = {}
            for parameter in group["params"]:
                levels.setdefault(depth[id(parameter)], []).append(parameter)
            for level, members in levels.items():
                rate = group["lr"] * factor ** (layers - level)
                parted.append(group | {"params": members, "lr": rate})
        return parted

    task.parameter_groups = parameter_groups
