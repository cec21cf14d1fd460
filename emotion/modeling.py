"""Heads that transformers does not have, on any of its encoders.

This file stands alone (torch and transformers, nothing of this repository), so that a checkpoint
can carry it.
"""

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class EncoderClassifier(PreTrainedModel):
    """Any encoder under a head of a subclass.

    A subclass has `pool(hidden, attention_mask, lengths)`, from the encoder's last hidden states
    [batch, length, hidden] to [batch, features], and `classifier`, from there to logits
    [batch, labels]. The config is the encoder's own with the labels added.
    """

    config_class = AutoConfig
    base_model_prefix = "encoder"

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        own = type(config).from_dict(config.to_dict())  # the encoder chooses its own attention
        self.encoder = AutoModel.from_config(own, trust_remote_code=False)
        if hasattr(self.encoder, "pooler"):
            self.encoder.pooler = nn.Identity()  # `pool` takes its place

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        lengths: list[int] | None = None,
    ) -> SequenceClassifierOutput:
        """Logits [batch, labels], and the binary cross-entropy where labels are given.

        Args:
            lengths: the tokens of each line, where they are known without asking the device.
        """
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask} | types
        hidden = self.encoder(**inputs).last_hidden_state
        with torch.autocast(hidden.device.type, enabled=False):
            # rounding to bf16 at each step of a GRU adds up
            logits = self.classifier(self.pool(hidden.float(), attention_mask, lengths))
        loss = None
        if labels is not None:
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class PoolingClassifier(EncoderClassifier):
    """A fully-connected layer on one vector of a line."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        linear = nn.Linear(config.get_text_config().hidden_size, config.num_labels)
        self.classifier = nn.Sequential(nn.Dropout(0.1), linear)
        self.post_init()


class MeanPoolingClassifier(PoolingClassifier):
    """A fully-connected layer on the mean of the token representations, padding left out."""

    def pool(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor, lengths: list[int] | None
    ) -> torch.Tensor:
        """[batch, length, hidden] to [batch, hidden]."""
        mask = attention_mask.unsqueeze(-1)
        return (hidden * mask).sum(1) / mask.sum(1)


class FirstTokenClassifier(PoolingClassifier):
    """A fully-connected layer on the first token, for encoders whose own class reads another."""

    def pool(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor, lengths: list[int] | None
    ) -> torch.Tensor:
        """[batch, length, hidden] to [batch, hidden]."""
        return hidden[:, 0]


class LastTokenClassifier(PoolingClassifier):
    """A fully-connected layer on the last token that is no padding, for decoders."""

    def pool(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor, lengths: list[int] | None
    ) -> torch.Tensor:
        """[batch, length, hidden] to [batch, hidden]; padding stands on the right."""
        last = attention_mask.sum(1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last]


def rename_former_gru(
    module: nn.Module, weights: dict[str, torch.Tensor], prefix: str, *_: object
) -> None:
    """Give weights that are about to be loaded, of a FormerGRUClassifier, their present names."""
    gru = f"{prefix}gru."
    for name in [each for each in weights if each.startswith((f"{gru}weight_", f"{gru}bias_"))]:
        parameter, layer = name.removeprefix(gru).rsplit("_l", 1)  # the latter as "1_reverse"
        weights[f"{gru}{layer[0]}.{parameter}_l0{layer[1:]}"] = weights.pop(name)


class GRUClassifier(EncoderClassifier):
    """A 2-layer bidirectional GRU over the encoder's last hidden states.

    The final states of every layer and direction stand beside the [CLS] representation, before
    three fully-connected layers of the feature width, twice that and twice that.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        size, shape = config.get_text_config().hidden_size, {"bidirectional": True}
        # two layers in one module would draw the dropout between them, on a GPU, from a generator
        # of cuDNN's that no checkpoint holds (pytorch/pytorch#104697)
        self.gru = nn.ModuleList([nn.GRU(size, 512, **shape), nn.GRU(2 * 512, 512, **shape)])
        self.dropout = nn.Dropout(0.3)
        width = size + 4 * 512
        self.classifier = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(2 * width, 2 * width),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(2 * width, config.num_labels),
        )
        self.register_load_state_dict_pre_hook(rename_former_gru)  # for --resume, too
        self.post_init()

    def pool(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor, lengths: list[int] | None
    ) -> torch.Tensor:
        """[batch, length, hidden] to [batch, hidden + 4 * 512]; the GRU reads no padding."""
        on_host = torch.tensor(lengths) if lengths else attention_mask.sum(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(
            hidden, on_host, batch_first=True, enforce_sorted=False
        )
        states, first = self.gru[0](packed)  # the final ones: [directions, batch, 512]
        _, second = self.gru[1](states._replace(data=self.dropout(states.data)))
        return torch.cat([hidden[:, 0], *first, *second], dim=-1)


class FormerGRUClassifier(GRUClassifier):
    """The same as checkpoints once had it, to read them: the layers of the GRU as one module."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.gru = nn.GRU(self.gru[0].input_size, 512, num_layers=2, bidirectional=True)


HEADS = {
    "cls": FirstTokenClassifier,
    "mean": MeanPoolingClassifier,
    "last": LastTokenClassifier,
    "gru": GRUClassifier,
}
