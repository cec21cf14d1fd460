"""What a causal language model is asked, in tokens, and how the lines of a batch are laid out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import utils
from emotion import outputs, targets
from emotion.checkpoint import measures
from emotion.vocabulary import check_token_ids, warn_of_cut

SHORTEST = 8  # tokens of a row
Suffix = list[int]  # the token ids of a line after the shared beginning


class Prompt:
    """The prompt in tokens: a beginning that all lines share, each line's own, and the answers.

    Beginning, text, target with what stands before it, and call for the answer are tokenised apart:
    nothing in a text can pass for a part of the prompt. A text too long is cut, and nothing else.

    Args:
        strings: as of `make_strings`.
        max_length: the longest prompt with its answer, in tokens.
        vocabulary: the tokens that the model has.
        objective: of `checkpoint.OBJECTIVES`; with "head" no answers are read.
        normalises, marks: how lines are read, as of `targets.read`.

    Raises:
        utils.InputError: the tokenizer cannot tell the answers apart, or is not the model's; the
            prompt alone is too long.
    """

    def __init__(
        self,
        strings: dict[str, Any],
        tokenizer: Any,
        max_length: int,
        vocabulary: int,
        objective: str = "answer",
        normalises: bool = True,
        marks: Sequence[str] | None = None,
    ) -> None:
        self.tokenizer, self.strings, self.max_length = tokenizer, strings, max_length
        self.vocabulary, self.objective = vocabulary, objective
        self.normalises, self.marks = normalises, marks
        begins = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
        beginning = [tokenizer.bos_token_id] if begins else []
        self.prefix_ids: list[int] = beginning + self.tokenize(strings["prefix"])[0]
        if objective == "answer" and len(strings["answers"]) == 2:
            told = "one label has no other to be compared with; take multilabel, or head"
            raise utils.InputError(f"--objective answer: {told}")
        self.answer_ids = [[0]]  # read at the end of a line alone, whatever it is
        if objective != "head":
            self.answer_ids = self.tokenize(*strings["answers"])
        if self.alike() and tokenizer.eos_token_id is not None:  # "label 1" and "label 12"
            self.answer_ids = [[*ids, tokenizer.eos_token_id] for ids in self.answer_ids]
        self.room = max_length - len(self.prefix_ids) - max(map(len, self.answer_ids))
        if self.room <= (called := len(self.tokenize(strings["response"])[0])):
            told = f"the prompt alone takes {max_length - self.room + called} tokens; give more"
            raise utils.InputError(f"--max-length {max_length}: {told}")
        if pair := self.alike():
            one, two = (repr(strings["answers"][number]) for number in pair)
            told = f"the tokenizer cannot tell the answers {one} and {two} apart"
            raise utils.InputError(f"{told}; give others with --answers, or another --model")

    @classmethod
    def of_checkpoint(cls, settings: dict[str, Any], tokenizer: Any, vocabulary: int) -> "Prompt":
        """The prompt of a checkpoint, from its `prompt.json`; else as the class."""
        size = settings["max_length"], vocabulary, settings["objective"]
        reading = settings.get("normalise", True), settings.get("target_marks")
        return cls(settings["strings"], tokenizer, *size, *reading)

    def alike(self) -> tuple[int, int] | None:
        """Two answers of which one begins as the other is, or None."""
        for index, answer in enumerate(self.answer_ids):
            for other, ids in enumerate(self.answer_ids):
                if index != other and ids[: len(answer)] == answer:
                    return index, other
        return None

    def save(
        self, directory: Path, labels: Sequence[str], base: Any, head: Sequence[float | None] | None
    ) -> None:
        """Write what a checkpoint needs to ask as it was asked in training: `prompt.json`.

        Args:
            base: the config of the base model, whose measures are kept too.
            head: what its class does before and behind its head, where that is known.
        """
        settings = {"objective": self.objective, "max_length": self.max_length}
        settings |= {"labels": list(labels), "strings": self.strings, "normalise": self.normalises}
        settings |= {"target_marks": self.marks, "base": measures(base), "head_function": head}
        outputs.write_json(directory / "prompt.json", settings)

    def tokenize(self, *texts: str) -> list[list[int]]:
        """Token ids of each text; what looks like a special token is read as plain text."""
        settings = {"add_special_tokens": False, "split_special_tokens": True}
        found = self.tokenizer(list(texts), **settings)["input_ids"]
        check_token_ids(found, self.vocabulary)
        return found

    def encode(self, rows: Sequence[utils.Row], predicts: bool = False) -> list[Suffix]:
        """The token ids of each row after the shared beginning: text, target, call for the answer.

        Args:
            predicts: whether a target that leaves no room for the text is cut, with a warning.

        Raises:
            utils.InputError: a target leaves no room for the text.
        """
        pairs = targets.read(rows, self.tokenizer, self.normalises, self.marks)
        before, after = self.strings["target"], self.strings["response"]
        texts = self.tokenize(*(text for text, _ in pairs))
        [answer, *abouts] = self.tokenize(after, *(before + t if t else "" for _, t in pairs))
        ends = [about + answer for about in abouts]
        long = [number for number, end in enumerate(ends) if len(end) >= self.room]
        half = (self.room - len(answer)) // 2
        told = f"leaves no room for the text in {self.max_length} tokens"
        mend = "shorten it, or give a greater --max-length"
        targets.tell_of_long([rows[n] for n in long], told, mend, predicts)
        for number in long:
            ends[number] = ends[number][:half] + answer
        both = list(zip(texts, ends, strict=True))
        is_cut = [len(text) + len(end) > self.room for text, end in both]
        warn_of_cut(is_cut, f"the {self.max_length} tokens of a prompt with its answer")
        return [text[: self.room - len(end)] + end for text, end in both]

    def shortest_and_longest(self) -> list[Suffix]:
        """Two lines to try a model on: a word, and as long as one can be."""
        [end] = self.tokenize(self.strings["response"])
        texts = self.tokenize(self.strings["answers"][0], self.strings["prefix"] * self.room)
        return [text[: self.room - len(end)] + end for text in texts]

    def example(self, suffix: Suffix, labels: Sequence[float]) -> str:
        """How many tokens answers take, and a line as the model reads it, for the log."""
        answers = self.strings["answers"]
        counts = [
            f"{a.strip()} {len(ids)}" for a, ids in zip(answers, self.answer_ids, strict=False)
        ]
        told = f"tokens of answers: {', '.join(counts)}\n" if self.objective != "head" else ""
        present = [each.strip() for each, label in zip(answers, labels, strict=False) if label]
        asked = self.tokenizer.decode(self.prefix_ids + suffix)
        shown = f"{asked}«{' / '.join(present) or answers[-1].strip()}»"
        return f"{told}first example, its labels between « and »:\n{shown}"

    def lay_out(self, suffix: Suffix) -> tuple[list[int], list[int], list[int], list[int]]:
        """One line in tokens, and behind it the answers of several tokens without their last.

        Each answer sees the line and itself, so that one pass gives the probability of every
        answer. Positions count from the shared beginning on.

        Returns:
            `input_ids`, `position_ids`, `branch` (the answer that a token belongs to, or -1), and
            `kept`, the indices of the tokens that foretell a token of an answer.
        """
        end = len(self.prefix_ids) + len(suffix)
        input_ids, position_ids = list(suffix), list(range(len(self.prefix_ids), end))
        branch, kept = [-1] * len(suffix), [len(suffix) - 1]
        for answer, ids in enumerate(self.answer_ids):
            kept += range(len(input_ids), len(input_ids) + len(ids) - 1)
            input_ids += ids[:-1]
            position_ids += range(end, end + len(ids) - 1)
            branch += [answer] * (len(ids) - 1)
        return input_ids, position_ids, branch, kept

    def length(self, suffix: Suffix) -> int:
        """The tokens of a line with the answers behind it, the shared beginning left out."""
        return len(suffix) + sum(len(ids) - 1 for ids in self.answer_ids)

    def pack(self, suffixes: Sequence[Suffix]) -> dict[str, torch.Tensor]:
        """Lay lines behind one another in one row, behind the shared beginning: no padding.

        Returns:
            `input_ids`, `position_ids`, `line` and `branch` (for `attention_mask`) [1, length],
            `kept` [1, lines * slots], the positions that foretell tokens of answers.
        """
        row = list(self.prefix_ids)
        positions, kept = list(range(len(row))), []
        line, branch = [-1] * len(row), [-1] * len(row)
        for number, suffix in enumerate(suffixes):
            input_ids, position_ids, branches, slots = self.lay_out(suffix)
            kept += [len(row) + slot for slot in slots]
            row += input_ids
            positions += position_ids
            line += [number] * len(input_ids)
            branch += branches
        columns = {"input_ids": row, "position_ids": positions, "line": line, "branch": branch}
        columns["kept"] = kept
        return {name: torch.tensor([values]) for name, values in columns.items()}

    def batch(self, suffixes: Sequence[Suffix]) -> dict[str, torch.Tensor]:
        """Lay each line in a row of its own, padded on the right, without the shared beginning.

        Rows are padded to a `row_length`. In batches of one such length a line is padded alike
        whatever stands beside it, and its attention adds up in the same order: a score then does
        not depend on the batch where matrix products do not, as on a CPU.

        Returns:
            As `pack`, with a row for each line.
        """
        laid_out = zip(*map(self.lay_out, suffixes), strict=True)
        input_ids, position_ids, branch, kept = laid_out
        columns = row_length(max(map(len, branch)))
        branches = padded(branch, -2, columns)
        return {
            "input_ids": padded(input_ids, 0, columns),
            "position_ids": padded(position_ids, 0, columns),
            "line": torch.zeros_like(branches),
            "branch": branches,
            "kept": torch.tensor(kept),
        }

    def rows(self, suffixes: Sequence[Suffix], pads: bool = True) -> dict[str, torch.Tensor]:
        """Lay each line in a row of its own, the whole prompt, padded on the right.

        Answers of several tokens get a row each, so that no mask but that of padding is needed.

        Args:
            pads: to a `row_length`, and not to the longest row alone.

        Returns:
            `input_ids`, `attention_mask` [rows, length]; `row` [lines, answers], that an answer is
            read in; `kept` [lines, answers, longest], the positions that foretell its tokens.
        """
        longest = max(map(len, self.answer_ids))
        behind = [ids[:-1] for ids in self.answer_ids if len(ids) > 1] or [[]]
        input_ids: list[list[int]] = []
        row, kept = [], []
        for suffix in suffixes:
            line = self.prefix_ids + suffix
            several = iter(range(len(input_ids), len(input_ids) + len(behind)))
            row.append(
                [next(several) if len(ids) > 1 else len(input_ids) for ids in self.answer_ids]
            )
            kept.append(
                [
                    [len(line) - 1 + n * (n < len(ids)) for n in range(longest)]
                    for ids in self.answer_ids
                ]
            )
            input_ids += [line + ids for ids in behind]
        columns = max(map(len, input_ids))
        columns = row_length(columns) if pads else columns
        mask = [[1] * len(ids) for ids in input_ids]
        return {
            "input_ids": padded(input_ids, 0, columns),
            "attention_mask": padded(mask, 0, columns),
            "row": torch.tensor(row),
            "kept": torch.tensor(kept),
        }


def padded(
    rows: Sequence[Sequence[float]], value: float = 0, columns: int | None = None
) -> torch.Tensor:
    """Lists of numbers as one tensor, filled up with `value`; to so many columns, if told."""
    tensors = [torch.tensor(row) for row in rows]
    tensor = nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
    more = (columns or tensor.shape[1]) - tensor.shape[1]
    return nn.functional.pad(tensor, (0, more), value=value)


def row_length(tokens: int) -> int:
    """The padded length of a line of so many tokens: a quarter more at most, from 64 on."""
    step = SHORTEST
    while tokens > 8 * step:
        step *= 2
    return -(-tokens // step) * step


def attention_mask(line: torch.Tensor, branch: torch.Tensor, prefix: int = 0) -> torch.Tensor:
    """Which tokens see which: earlier ones of the same line and branch, or of none (-1).

    The mask is made where `line` and `branch` are: on the device.

    Args:
        line, branch: [rows, length].
        prefix: keys in front of the rows that every token sees.

    Returns:
        What to add to the attention's logits, 0 or the type's minimum, [rows, 1, length, prefix +
        length]: eager attention adds a mask whatever its type is.
    """
    visible = (line[:, None, :] == -1) | (line[:, None, :] == line[:, :, None])
    visible &= (branch[:, None, :] == -1) | (branch[:, None, :] == branch[:, :, None])
    hidden = ~visible.tril()[:, None]
    added = torch.zeros(hidden.shape, device=line.device)
    added.masked_fill_(hidden, torch.finfo(added.dtype).min)
    return nn.functional.pad(added, (prefix, 0))
