"""Text and target to the inputs of an encoder, and its scores."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import utils
from emotion import encoder, process, scoring, targets
from emotion.modeling import GRUClassifier
from emotion.onnx_model import OnnxClassifier
from emotion.vocabulary import check_token_ids, warn_of_cut

Example = dict[str, list[int]]
NO_LIMIT = 2**30  # tokens
TOLERANCE = 1e-4  # of logits in float32, a line alone or beside others; times the largest if > 1
LENGTHS = 4  # short lines that are tried: some models read several characters as one


def longest_input(tokenizer: Any, model: Any) -> int:
    """How many tokens a model takes at most, special ones too."""
    limits = [NO_LIMIT, tokenizer.model_max_length]
    limits.append(getattr(model.config.get_text_config(), "max_position_embeddings", -1))
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("embeddings.position_embeddings") and padding is not None:
            limits.append(len(module.weight) - padding - 1)  # they count from the pad token's
    return min(limit for limit in limits if limit and limit > 0)


def encode(
    rows: Sequence[utils.Row], tokenizer: Any, model: Any, predicts: bool = False
) -> list[Example]:
    """Rows to model inputs, the text paired with its target; a long text is cut, a target never.

    What looks like a special token in a text is read as text.

    Args:
        predicts: whether a target too long for the model is cut, with a warning.

    Returns:
        Of each the inputs that the tokenizer names.

    Raises:
        utils.InputError: a target is too long, or the tokenizer is not the model's.
    """
    limit = longest_input(tokenizer, model)
    normalises = getattr(model.config, "normalise_text", True)
    pairs = targets.read(rows, tokenizer, normalises, getattr(model.config, "target_marks", None))
    examples: list[Example] = [{} for _ in rows]
    for has_target in (True, False):
        chosen = [n for n, (_, target) in enumerate(pairs) if (target is not None) == has_target]
        if not chosen:
            continue
        asked = [pairs[index][1] for index in chosen] if has_target else None
        room = limit - tokenizer.num_special_tokens_to_add(pair=has_target) - 1
        cut, told = dict[int, str](), ""
        target_ids = tokenizer(asked, add_special_tokens=False)["input_ids"] if asked else []
        for index, ids in zip(chosen, target_ids, strict=has_target):
            if len(ids) > room:
                told = told or f"has {len(ids)} tokens, and the model takes {room}"
                cut[index] = tokenizer.decode(ids[: room // 2])
        targets.tell_of_long([rows[index] for index in cut], told, "shorten it", predicts)
        encoded = tokenizer(
            [pairs[index][0] for index in chosen],
            asked and [cut.get(index, pairs[index][1]) for index in chosen],
            truncation="only_first",
            max_length=limit,
        )
        for position, index in enumerate(chosen):
            examples[index] = {name: values[position] for name, values in encoded.items()}
    is_cut = [len(each["input_ids"]) >= limit for each in examples]
    warn_of_cut(is_cut, f"the {limit} tokens that the model reads")
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", NO_LIMIT)
    check_token_ids((each["input_ids"] for each in examples), vocabulary)
    return examples


class Inputs:
    """Examples to batches on the device, and batches to logits, in one precision.

    Args:
        precision: "fp32", "bf16" or "fp16".
    """

    def __init__(self, model: Any, tokenizer: Any, precision: str) -> None:
        self.tokenizer, self.precision = tokenizer, precision
        here = scoring.device()  # asked first: processes know each other from then on
        self.device = model.device if isinstance(model, OnnxClassifier) else here
        takes_eights = longest_input(tokenizer, model) % 8 == 0
        self.multiple = 8 if self.device.type == "cuda" and takes_eights else None
        self.tells_lengths = isinstance(model, GRUClassifier)

    def batch(
        self, examples: Sequence[Example], labels: np.ndarray | None = None, in_eights: bool = True
    ) -> dict[str, Any]:
        """Padded inputs of the model.

        Args:
            labels: [examples, labels].
            in_eights: on a GPU, to a multiple of eight tokens: fewer shapes of kernels.
        """
        columns = {name: [example[name] for example in examples] for name in examples[0]}
        multiple = self.multiple if in_eights else None
        pads = {"pad_to_multiple_of": multiple, "return_tensors": "pt"}
        batch = dict(self.tokenizer.pad(columns, **pads))
        if labels is not None:
            batch["labels"] = torch.from_numpy(labels)
        batch = scoring.to_device(batch, self.device)
        if self.tells_lengths:
            batch["lengths"] = [len(example["input_ids"]) for example in examples]
        return batch

    def autocast(self) -> torch.autocast:
        """Inside, products are made in the precision."""
        return scoring.autocast(self.device, self.precision)

    def check(self, model: Any, examples: Sequence[Example], reads_cls: bool) -> None:
        """Try a model on short lines and a long one; leaves no trace but `leaves_some_out`: whether
        its logits come of a part of its parameters alone.

        Args:
            reads_cls: whether its head reads the first token.

        Raises:
            utils.InputError: a line's logits depend on what stands beside it, the first token
                does not see the text, or the model does not train.
        """
        lines = sorted(examples, key=lambda example: len(example["input_ids"]))
        lengths = {len(each["input_ids"]): each for each in reversed(lines)}
        short = [lengths[n] for n in sorted(lengths)[:LENGTHS]]
        several, both = self.batch([*short, lines[-1]]), self.batch([lines[0], lines[-1]])
        name, model = type(model).__name__, model.to(self.device)
        try:
            with torch.inference_mode():
                singles = [self.batch([each], in_eights=False) for each in short]  # no padding
                alone = torch.cat([model.eval()(**each).logits for each in singles])
                beside = model(**several).logits[:-1]
            off = float((alone - beside).abs().max())
            bound = TOLERANCE * max(1.0, float(alone.abs().max()))
            is_independent = off <= bound < math.inf
            devices = [self.device] if self.device.type == "cuda" else []
            if is_independent:
                with torch.random.fork_rng(devices), self.autocast():
                    model.train()(**both).logits.sum().backward()
            trained = (each for each in model.parameters() if each.requires_grad)
            self.leaves_some_out = any(each.grad is None for each in trained)
        except Exception as error:
            told = f"{name} does not read such lines ({process.cause(error)})"
            raise utils.InputError(f"{told}; try --precision fp32, or another --model") from error
        model.zero_grad()
        if not is_independent:
            told = f"the logits of a line move by {off:.1g} with a longer one beside it"
            told = told if math.isfinite(off) else "the logits are not finite"
            raise utils.InputError(f"{name}: {told}; take another --model")
        whole = next((each for each in lines if len(each["input_ids"]) > 2), None)
        if reads_cls and whole:
            self.check_cls(model, whole)

    def check_cls(self, model: Any, example: Example) -> None:
        """Raise utils.InputError if the first token is none that sees the whole line."""
        mend = "take bert_plain.py --pooling mean, or last"
        tokenizer, ids = self.tokenizer, example["input_ids"]
        if tokenizer.cls_token_id is not None and ids[0] != tokenizer.cls_token_id:
            told = f"the tokenizer does not put {tokenizer.cls_token} first"
            raise utils.InputError(f"{told}; {mend}")
        seen = []
        for end in (ids[-2:], [ids[1]] * 2):
            inputs = self.batch([example | {"input_ids": ids[:-2] + end}])
            inputs.pop("lengths", None)
            with torch.inference_mode():
                seen.append(model.eval().base_model(**inputs)[0][0, 0])
        if torch.equal(*seen):
            told = f"the first token of {type(model.base_model).__name__} does not see the text"
            raise utils.InputError(f"{told}; {mend}")

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
        return scoring.score(scoring.batches_by_length(lengths, lines), score_batch, after_batch)


def load_scorer(
    path: Path | str, precision: str, lines: int
) -> tuple[process.ScoreRows, dict[str, str]]:
    """What scores rows with a checkpoint of a BERT script, and the facts that a run notes of it.

    Args:
        precision: as of `--precision`.
        lines: of a batch.

    Raises:
        utils.InputError: the checkpoint cannot be loaded.
    """
    tokenizer, model = encoder.load(path)
    precision = scoring.resolve_precision(precision)
    inputs = Inputs(model, tokenizer, getattr(model, "precision", None) or precision)
    model = model.to(inputs.device).eval()

    def score(rows: Sequence[utils.Row], after_batch: scoring.AfterBatch) -> np.ndarray:
        return inputs.score(model, encode(rows, tokenizer, model, True), lines, after_batch)

    return score, {"device": str(inputs.device), "precision": inputs.precision}
