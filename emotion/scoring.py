"""Scoring lines, whatever the model: device, precision, batches, processes that share them out."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import utils
from emotion import process
from emotion.process import AfterBatch

TOKENS = 4096  # that a batch is filled up to where no number of lines is given
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Batch = list[int]  # indices of lines


def turn_tf32_off() -> None:
    """Compute float32 in float32: cuDNN takes TF32 as it comes, and others may have asked for it.

    The older setting is told too, which torch else refuses to read after the newer one was given.
    """
    torch.backends.cudnn.fp32_precision = "ieee"
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")


turn_tf32_off()


def device() -> torch.device:
    """What this process computes on."""
    if process.process_count() > 1:
        from accelerate import PartialState

        return PartialState(cpu=uses_cpu()).device
    here = None if uses_cpu() else torch.accelerator.current_accelerator()
    return here or torch.device("cpu")


def uses_cpu() -> bool:
    """Whether there is no GPU, or none is to be used."""
    return process.wants_cpu() or not torch.accelerator.is_available()


def check_devices() -> None:
    """Log what a user should know of the devices: no GPU, some not used, of different kinds.

    Raises:
        utils.InputError: more processes were launched than there are GPUs.
    """
    processes = process.local_process_count()
    gpus = 0 if process.wants_cpu() else torch.cuda.device_count()
    if 0 < gpus < processes:
        told = f"{processes} processes were launched, and there are {gpus} GPUs here"
        raise utils.InputError(f"{told}; launch {gpus}")
    if device().type == "cpu":
        found = "is to be used" if process.wants_cpu() else "was found"
        utils.log.info("no GPU %s: this runs on the CPU", found)
    if processes < gpus:
        mend = f"to use all, start with torchrun --nproc_per_node {gpus}"
        utils.log.info("%d GPUs are here, and %d in use; %s", gpus, processes, mend)
    kinds = sorted({torch.cuda.get_device_name(index) for index in range(min(processes, gpus))})
    if len(kinds) > 1:
        told = "steps wait for the slowest, and batches have to fit the smallest"
        mend = "CUDA_VISIBLE_DEVICES says which to use"
        utils.log.info("the GPUs differ (%s): %s; %s", ", ".join(kinds), told, mend)


def resolve_precision(requested: str) -> str:
    """ "auto" to the fastest type that all devices in use compute in: bf16, fp16 or fp32."""
    if requested != "auto":
        return requested
    if torch.cuda.is_available() and not process.wants_cpu():
        used = range(min(process.local_process_count(), torch.cuda.device_count()))
        majors = [torch.cuda.get_device_capability(index)[0] for index in used]
        return "bf16" if min(majors) >= 8 else "fp16"  # Ampere came with bf16
    if device().type != "cpu":
        return "fp32"
    capabilities = torch.cpu.get_capabilities()
    has_bf16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bf16" if has_bf16 else "fp32"


def autocast(where: torch.device, precision: str) -> torch.autocast:
    """Inside, products on a device are made in a precision."""
    return torch.autocast(where.type, dtype=DTYPES[precision], enabled=precision != "fp32")


def batches_by_length(
    lengths: Sequence[int], lines: int | None, tokens: int = TOKENS, padding: float = 0.25
) -> list[Batch]:
    """Lines in batches, the longest first: little padding, and the largest batch is tried first.

    A batch holds `lines` lines, or as many as fill up to `tokens` tokens with their padding; it
    ends early rather than pad a line by more than a share of `padding`.
    """
    batches: list[Batch] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        batch = batches[-1] if batches else []
        longest = lengths[batch[0]] if batch else 0
        room = lines or max(1, tokens // max(longest, 1))
        if not batch or len(batch) >= room or lengths[index] < (1 - padding) * longest:
            batches.append([])
        batches[-1].append(index)
    return batches


def score(
    batches: Sequence[Batch], score_batch: Callable[[Batch], np.ndarray], after_batch: AfterBatch
) -> np.ndarray:
    """Scores of all lines, float64 [lines, labels], in their order.

    Of several processes each scores every n-th batch, and gets the scores of all; each scores, and
    calls `after_batch`, equally often, so that what is collective in these is met by all.

    Args:
        score_batch: from indices of lines to their scores [lines, labels].
    """
    rank, processes = process.rank(), process.process_count()
    scored: dict[int, list[float]] = {}
    for start in range(0, len(batches), processes):
        batch = batches[(start + rank) % len(batches)]
        scored |= zip(batch, score_batch(batch).tolist(), strict=True)
        after_batch(sum(map(len, batches[start : start + processes])))
    if processes > 1:
        from accelerate.utils import gather_object

        for others in gather_object([scored]):
            scored |= others
    scores = np.array([scored[index] for index in range(len(scored))], dtype=np.float64)
    if not np.isfinite(scores).all():
        told = "in training with a lower --lr, in fp16 with --precision fp32 or bf16"
        raise utils.RunError(f"the scores are not finite; try again {told}")
    # As they are written, so that a decision on the file is the decision here.
    return scores.round(6)


def to_device(batch: dict[str, Any], where: torch.device) -> dict[str, Any]:
    """The tensors of a batch on a device, without waiting for what it still computes."""

    def move(value: torch.Tensor) -> torch.Tensor:
        pinned = value.pin_memory() if where.type == "cuda" else value
        return pinned.to(where, non_blocking=True)

    return {name: move(value) for name, value in batch.items()}
