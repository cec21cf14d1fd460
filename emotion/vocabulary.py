"""A tokenizer, and whether it fits its model and the text."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import utils

UNKNOWN_TO_WARN, UNKNOWN_TO_REFUSE = 0.05, 0.5  # shares of the tokens of train


def read_tokenizer(path: Path | str, **settings: Any) -> Any:
    """The tokenizer of a model.

    Args:
        settings: of `AutoTokenizer.from_pretrained`.

    Raises:
        utils.InputError: it knows special tokens alone, as transformers' do where no vocabulary is.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **settings)
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        told = "has no tokenizer (tokenizer.json, or another vocabulary); put it there too"
        raise utils.InputError(f"{path}: {told}")
    return tokenizer


def check_token_ids(rows: Iterable[Sequence[int]], size: int) -> None:
    """Raise utils.InputError if a token id is none of the `size` that a model has."""
    highest = max((max(ids) for ids in rows if ids), default=0)
    if highest >= size:
        told = f"the tokenizer gives the token id {highest}, and the model has {size} tokens"
        raise utils.InputError(f"{told}; they do not belong together, give another model")


def check_unknown(tokenizer: Any, rows: Sequence[Sequence[int]]) -> None:
    """Log the share of unknown tokens in train.

    Raises:
        utils.InputError: more than half of them are.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown == tokenizer.eos_token_id:  # of bytes, all of which it knows
        return
    special = set(tokenizer.all_special_ids) - {unknown}
    tokens = [id for ids in rows for id in ids if id not in special]
    share = tokens.count(unknown) / max(1, len(tokens))
    told = f"{100 * share:.1f} % of the tokens of train are unknown to the tokenizer"
    if share > UNKNOWN_TO_REFUSE:
        raise utils.InputError(f"{told}: it is not for such text; give another --model")
    if share > UNKNOWN_TO_WARN:
        utils.log.warning("warning: %s: much of the text is lost; try another --model", told)
    else:
        utils.log.info(told)


def warn_of_cut(is_cut: Sequence[bool], limit: str) -> None:
    """Warn of how many texts fill all tokens that there are for them."""
    if any(is_cut):
        told = f"{sum(is_cut)} of {len(is_cut)} texts fill {limit}; what goes beyond is not read"
        utils.log.warning("warning: %s", told)


def as_text(texts: Sequence[str], tokenizer: Any) -> list[str]:
    """Texts in which nothing is a special token: such get a space behind their first character."""
    names = dict.fromkeys(tokenizer.all_special_tokens)
    with contextlib.suppress(NotImplementedError):  # mistral-common's: it told all of them above
        added = tokenizer.added_tokens_decoder.values()
        names |= {str(token): None for token in added if token.special}
    special = [token for token in names if len(token) > 1]

    def plain(text: str) -> str:
        for token in special:
            if token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    return list(map(plain, texts))
