"""Whether a training fits the device, what batch size would, and what is done to make it fit."""

import argparse
import functools
from collections.abc import Sequence
from typing import NamedTuple

import accelerate
import psutil
import torch

from emotion import process, scoring
from emotion.memory import Batch, Estimate, Layout
from emotion.task import in_parts, in_random_order

CUDA_RESERVE = 0.8  # GiB of a GPU for its context and what the allocator cannot use; an assumption
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)  # batch sizes that are tried


def largest_batch(
    lengths: Sequence[int], layout: Layout, args: argparse.Namespace, at_once: int
) -> Batch:
    """The most that a process takes through the model at a time, in a training of `args`.

    Args:
        lengths: tokens of each line of train, as of `Layout.batch`.
        at_once: how many lines that are, of each process.
    """
    processes = process.process_count()
    drawn = max(args.batch_size * args.resume, at_once) * processes  # of a step
    padded = None if layout.prefix is not None else lengths
    batches = {
        layout.batch([lengths[index] for index in part[rank::processes]])
        for epoch in range(args.epochs)
        for step in in_random_order(len(lengths), drawn, args.seed, epoch)
        for part in in_parts(step, at_once * processes, padded)
        for rank in range(min(processes, len(part)))
    }
    return Batch(*map(max, zip(*batches, strict=True)))


class Plan(NamedTuple):
    """How training fits: the table, whether to compute activations again, tokens to score."""

    table: str
    again: bool
    tokens_to_score: int
    advice: str | None  # where it does not fit


def free_memory() -> float:
    """Bytes that the device has free for this process, of several the fullest."""
    device, processes = scoring.device(), process.local_process_count()
    free = psutil.virtual_memory().available / processes
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    return min(accelerate.utils.gather_object([free]))


def make(
    need: Estimate, free: float, lengths: Sequence[int], layout: Layout, args: argparse.Namespace
) -> Plan:
    """Compare what training needs with what the device has.

    Args:
        free: bytes, before anything is loaded.
        lengths: tokens of each line of train, as of `Layout.batch`.
    """
    device, at_once = scoring.device(), getattr(args, "lines_at_once", args.batch_size)
    holds = need.held | (need.head if layout.prefix is None else {})
    held = sum(holds.values())

    @functools.cache
    def largest_of(size: int) -> Batch:
        return largest_batch(lengths, layout, args, size)

    def needed(size: int, again: bool) -> float:
        return held + sum(need.training(largest_of(size), again).values())

    def largest(room: float, again: bool) -> int:
        return max((size for size in SIZES if needed(size, again) <= room), default=0)

    again = need.computes_again and needed(at_once, False) > free
    batch, total = largest_of(at_once), needed(at_once, again)
    rows = holds | need.training(batch, again) | {"in all": total, f"free on {device}": free}
    lines = [f"MiB that training needs, batches of up to {batch.tokens} tokens ({at_once} lines):"]
    lines += [f"  {purpose:<44}{size / 2**20:>10,.1f}" for purpose, size in rows.items()]
    lines.append("activations are " + ("computed again to save memory" if again else "kept"))
    for card in (24, 16, 12):
        room = (card - CUDA_RESERVE) * 2**30
        kept, fits = largest(room, False), largest(room, need.computes_again)
        told = f"--batch-size up to {kept}"
        told += f", up to {fits} with activations computed again" * need.computes_again
        lines.append(f"a GPU of {card} GB: {told if fits else 'too small'}")
    advice = None
    if total > free:
        size = largest(free, need.computes_again)
        other = "" if args.resume else "a smaller --model or "
        mend = f"take --batch-size {size}" if size else f"take {other}a larger device"
        has = f"{device} has {free / 2**30:.2f} free"
        advice = f"training needs {total / 2**30:.2f} GiB and {has}; {mend}"
    tokens_to_score = scoring.TOKENS
    while tokens_to_score > 256 and held + need.scoring(tokens_to_score) > free:
        tokens_to_score //= 2
    return Plan("\n".join(lines), again, tokens_to_score, advice)
