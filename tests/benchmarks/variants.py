"""The changes to bert_plain.py that ablation.py measures and that no script has."""

import re

import torch
from torch import nn

import bert_plain


class AttentionPoolingClassifier(bert_plain.MeanPoolingClassifier):
    """As MeanPoolingClassifier, the mean being weighted by a learnt query."""

    def __init__(self, config):
        super().__init__(config)
        self.query = nn.Linear(config.hidden_size, 1)
        nn.init.zeros_(self.query.weight)  # begins as the mean

    def pool(self, hidden, attention_mask):
        scores = self.query(hidden).masked_fill(attention_mask.unsqueeze(-1) == 0, -torch.inf)
        return (scores.softmax(1) * hidden).sum(1)


def asymmetric_loss(logits, labels, gamma_positive=1.0, gamma_negative=4.0, margin=0.05):
    """Asymmetric loss with the authors' settings (Ridnik et al. 2021, arXiv:2009.14119, equations 5 to 7)."""
    p = logits.float().sigmoid()
    shifted = (p - margin).clamp(min=0)
    positive = labels * (1 - p) ** gamma_positive * p.clamp(min=1e-8).log()
    negative = (1 - labels) * shifted**gamma_negative * (1 - shifted).clamp(min=1e-8).log()
    return -(positive + negative).sum(-1).mean()


def bernoulli_kl(logits, other):
    """Divergence of the eight Bernoulli distributions, both ways, averaged over all."""
    p, q = logits.float().sigmoid(), other.float().sigmoid()
    return ((p - q) * (logits.float() - other.float())).mean()  # KL(p|q) + KL(q|p)


class VariantTrainer(bert_plain.EmotionTrainer):
    """EmotionTrainer with one thing changed.

    Args:
        loss: "asymmetric", or None for the model's own.
        layer_decay: factor between the learning rates of a layer and the one above it (Howard & Ruder 2018, arXiv:1801.06146).
        r_drop: weight of the divergence of two passes with different dropout (Liang et al. 2021, arXiv:2106.14448).
    """

    def __init__(self, *args, loss=None, layer_decay=None, r_drop=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss, self.layer_decay, self.r_drop = loss, layer_decay, r_drop

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        loss = outputs.loss
        if self.loss == "asymmetric":
            loss = asymmetric_loss(outputs.logits, inputs["labels"])
        if self.r_drop and model.training:
            again = model(**inputs)
            loss = (loss + again.loss) / 2 + self.r_drop * bernoulli_kl(outputs.logits, again.logits) / 2
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model=None):
        if self.layer_decay and self.optimizer is None:
            optimizer = super().create_optimizer(model)
            layers = self.model.config.num_hidden_layers
            depth = {}
            for name, parameter in self.model.named_parameters():
                layer = re.search(r"\.layer\.(\d+)\.", name)
                depth[id(parameter)] = int(layer[1]) + 1 if layer else 0 if "embeddings" in name else layers
            split = []
            for group in optimizer.param_groups:
                for level in sorted({depth[id(parameter)] for parameter in group["params"]}):
                    members = [parameter for parameter in group["params"] if depth[id(parameter)] == level]
                    rate = group["lr"] * self.layer_decay ** (layers - level)
                    split.append(group | {"params": members, "lr": rate})
            self.optimizer.param_groups = split
        return super().create_optimizer(model)
