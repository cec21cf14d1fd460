"""Text and target to the inputs of an encoder, an encoder under a head, and its scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
)

import utils
from emotion import scoring
from emotion.checkpoint import loading
from emotion.modeling import HEADS, GRUClassifier

Example = dict[str, list[int]]


def quiet_loading() -> None:
    """No bar while weights are read from the disk; those of a download stay."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # new weights are reported by the scripts
    from huggingface_hub.utils import enable_progress_bars

    enable_progress_bars()


def load(
    path: Path | str, labels: Sequence[str] | None = None, head: str | None = None
) -> tuple[Any, Any, set[str]]:
    """Load tokenizer and classifier.

    Args:
        labels: to put a new head for these on a pretrained model; None for a checkpoint, which
            says itself what it is.
        head: a key of `modeling.HEADS`; None for the one that transformers has.

    Returns:
        (tokenizer, model, new_weights): the names of parameters that the pretrained model lacks.

    Raises:
        utils.InputError: the model cannot be loaded, or lacks more than a head.
    """
    quiet_loading()
    is_new, settings = labels is not None, {}
    if labels is not None:
        ids = {name: index for index, name in enumerate(labels)}
        settings = {"id2label": dict(enumerate(labels)), "label2id": ids}
        settings |= {"problem_type": "multi_label_classification"}
    with loading(path):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, **settings)
        model_class: Any = AutoModelForSequenceClassification
        on_encoder = is_new and head is not None
        if not is_new:
            ours = {each.__name__: each for each in HEADS.values()}
            model_class = ours.get(config.architectures[0], model_class)
        model, report = (AutoModel if on_encoder else model_class).from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
        )
    new_weights = set(report["missing_keys"])
    base = "" if on_encoder else f"{model.base_model_prefix}."
    lost = sorted(
        name
        for name in new_weights
        if not is_new or (name.startswith(base) and "pooler" not in name)
    )
    if lost:
        told = f"lacks {len(lost)} weights of {type(model).__name__}, as {lost[0]}"
        raise utils.InputError(f"{path}: {told}; give another model")
    if on_encoder:
        encoder, model = model, HEADS[str(head)](config)
        encoder.pooler = None
        model.encoder = encoder
        names = [name for name, _ in model.named_parameters()]
        new_weights = {name for name in names if not name.startswith("encoder.")}
    return tokenizer, model, new_weights


def encode(rows: Sequence[utils.Row], tokenizer: Any, config: Any) -> list[Example]:
    """Rows to model inputs, the text paired with its target; a long text is cut, a target never.

    Returns:
        {"input_ids", "attention_mask"} of each, with "token_type_ids" where the model has several.

    Raises:
        utils.InputError: a target is too long for the model.
    """
    first_position = (config.pad_token_id or 0) + 1
    limit = min(tokenizer.model_max_length, config.max_position_embeddings - first_position)
    pairs = [utils.text_and_target(row) for row in rows]
    examples: list[Example] = [{} for _ in rows]
    for has_target in (True, False):
        chosen = [n for n, (_, target) in enumerate(pairs) if (target is not None) == has_target]
        if not chosen:
            continue
        targets = [pairs[index][1] for index in chosen] if has_target else None
        room = limit - tokenizer.num_special_tokens_to_add(pair=has_target) - 1
        target_ids = tokenizer(targets, add_special_tokens=False)["input_ids"] if targets else []
        for index, ids in zip(chosen, target_ids, strict=has_target):
            if len(ids) > room:
                told = f"has {len(ids)} tokens, and the model takes {room}; shorten it"
                raise utils.InputError(f"id {rows[index].get('id')!r}: input.target.form: {told}")
        encoded = tokenizer(
            [pairs[index][0] for index in chosen],
            targets,
            truncation="only_first",
            max_length=limit,
            return_token_type_ids=getattr(config, "type_vocab_size", 1) > 1,
        )
        for position, index in enumerate(chosen):
            examples[index] = {name: values[position] for name, values in encoded.items()}
    return examples


class Inputs:
    """Examples to batches on the device, and batches to logits, in one precision.

    Args:
        precision: "fp32", "bf16" or "fp16".
    """

    def __init__(self, model: Any, tokenizer: Any, precision: str) -> None:
        where = scoring.device()
        whole_eights = 8 if where.type == "cuda" else None  # fewer shapes of kernels
        self.collate = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=whole_eights)
        self.tells_lengths = isinstance(model, GRUClassifier)
        self.device, self.precision = where, precision

    def batch(
        self, examples: Sequence[Example], labels: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Padded inputs of the model; labels are [examples, labels]."""
        batch = dict(self.collate(list(examples)))
        if labels is not None:
            batch["labels"] = torch.from_numpy(labels)
        batch = scoring.to_device(batch, self.device)
        if self.tells_lengths:
            batch["lengths"] = [len(example["input_ids"]) for example in examples]
        return batch

    def autocast(self) -> torch.autocast:
        """Inside, products are made in the precision."""
        return scoring.autocast(self.device, self.precision)

    @torch.inference_mode()
    def score(
        self, model: Any, examples: Sequence[Example], lines: int, after_batch: scoring.AfterBatch
    ) -> np.ndarray:
        """Probabilities of the labels, [examples, labels], in the order of the examples.

        Args:
            model: in evaluation mode.
            lines: of a batch.
        """

        def score_batch(batch: scoring.Batch) -> np.ndarray:
            inputs = self.batch([examples[index] for index in batch])
            with self.autocast():
                logits = model(**inputs).logits
            return logits.float().cpu().double().sigmoid().numpy()

        lengths = [len(example["input_ids"]) for example in examples]
        return scoring.score(scoring.batches_to_score(lengths, lines), score_batch, after_batch)


def parameter_groups(
    model: Any, new_weights: set[str], lr: float, head_lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Parameters for an optimiser: new ones learn at their own rate, vectors do not decay."""
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        is_new, decays = name in new_weights, parameter.ndim > 1  # biases and norms are vectors
        rates = {"lr": head_lr if is_new else lr, "weight_decay": weight_decay if decays else 0.0}
        group = groups.setdefault((is_new, decays), {"params": [], **rates})
        group["params"].append(parameter)
    return list(groups.values())
