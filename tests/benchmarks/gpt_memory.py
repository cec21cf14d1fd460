"""The real size without the real weights: 12.9 B parameters, one training step each.

    python tests/benchmarks/gpt_memory.py [--shape LINESxTOKENS ...] [--allocator as-it-comes]

Random weights in 4 bits, laid out as polyglot-ko-12.8b (each layer's shape quantised once and
copied), through the task and the loop of gpt_train.py, on the CPU. TOKENS are those of a whole
prompt: its beginning, which the lines of a batch share, and the line's own. Prints seconds and peak
memory of a step, with activations computed again and kept, beside what `gpt_train.py --estimate`
says of it; and at the end, for each shape but the first, what it says of GPUs.

glibc keeps much of what is freed, in holes between what is not. So that the peak is of what is
held, the step runs with blocks of a megabyte and more given back at once; as-it-comes leaves the
allocator alone.
"""

import copy
import functools
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from emotion import process

process.quiet_libraries()  # before the libraries are imported

import numpy as np
import psutil
import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import nn
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

import gpt_train
import utils
from emotion import causal, cli, memory, memory_plan, training
from emotion.answer_model import AnswerModel
from emotion.data import Corpora
from emotion.process import peak_memory_gib
from emotion.run import Run

SHAPES = ("1x128", "16x96", "16x160")


def config(layers=40, hidden=5120, head=128, vocabulary=30_080):
    """That of polyglot-ko-12.8b, or of a smaller one."""
    rotary = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    return GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // head,
        intermediate_size=4 * hidden,
        max_position_embeddings=2048,
        rope_parameters=rotary,
        use_parallel_residual=True,
        tie_word_embeddings=False,
    )


def build(size=None, device="cpu"):
    """The model of a `config` as `from_pretrained` leaves it after quantisation, on a device."""
    with torch.device("meta"):
        model = GPTNeoXForCausalLM(size or config()).to(torch.bfloat16)
    quantized = {}
    for name, linear in list(model.named_modules()):
        if not isinstance(linear, nn.Linear) or name == "lm_head":
            continue
        shape = tuple(linear.weight.shape)
        if shape not in quantized:
            weight = torch.randn(shape, dtype=torch.bfloat16) * 0.02
            quantized[shape] = Params4bit(
                weight, requires_grad=False, quant_type="nf4", compress_statistics=True
            ).to(device)
        layer = Linear4bit(
            shape[1], shape[0], compute_dtype=torch.bfloat16, quant_type="nf4", device="meta"
        )
        layer.weight = copy.deepcopy(quantized[shape])
        layer.bias = nn.Parameter(torch.zeros(shape[0], dtype=torch.bfloat16, device=device))
        model.set_submodule(name, layer)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                value = (
                    torch.ones
                    if isinstance(module, nn.LayerNorm) and name == "weight"
                    else torch.zeros
                )
                made = value(parameter.shape, dtype=torch.bfloat16, device=device)
                setattr(module, name, nn.Parameter(made))
    nn.init.normal_(model.gpt_neox.embed_in.weight, std=0.02)
    nn.init.normal_(model.lm_head.weight, std=0.02)
    model.gpt_neox.rotary_emb = type(model.gpt_neox.rotary_emb)(model.config).to(device)
    model.is_loaded_in_4bit = True
    model.config.use_cache = False
    return model


class OneStep(training.Training):
    """The loop of the scripts without evaluation and checkpoints."""

    def end_epoch(self, epoch, speed):
        pass


class BigTask(gpt_train.AnswerTask):
    """The task of gpt_train.py on the model of `build`, and on lines of random tokens."""

    def draw(self, lines, tokens):
        rng, own = random.Random(0), tokens - len(self.prompt.prefix_ids)
        drawn = [[rng.randrange(500, 3000) for _ in range(own)] for _ in range(lines)]
        self.suffixes = {"train": drawn, "dev": drawn}
        return memory.Layout(len(self.prompt.prefix_ids)).batch([own] * lines)


def make_task(directory, lines, size=None):
    """The task of a run with so many lines a batch; `directory` is to hold config, tokenizer."""
    (size or config()).save_pretrained(directory)
    AutoTokenizer.from_pretrained(utils.SAMPLE / "gpt-neox-tiny").save_pretrained(directory)
    flags = ["--model", directory, "--output-dir", directory, "--batch-size", str(lines)]
    flags += ["--precision", "bf16", "--epochs", "1", "--estimate"]  # told, and not refused
    args = gpt_train.argument_parser().parse_args(flags)
    labels = utils.labels_of(utils.read_corpus(utils.SAMPLE / "dev.jsonl", labelled=True))
    rows = [{"id": str(n), "input": {"form": "급식"}} for n in range(lines)]
    gold = np.eye(8, dtype=np.float32)[np.arange(lines) % 8]
    corpora = Corpora({"train": rows, "dev": rows}, list(labels), {"train": gold, "dev": gold})
    run = Run(args, "gpt_memory.py")
    accelerator = training.begin(run, args)
    return run, accelerator, corpora, BigTask(args, corpora, accelerator)


def needs(task):
    adapter = functools.partial(causal.lora_config, task.args)
    return memory.estimate(task.args.model, adapter, task.args.max_length, task.precision)


def print_estimate(lines, tokens):
    """What `gpt_train.py --estimate` says of a corpus whose prompts are all of so many tokens."""
    with tempfile.TemporaryDirectory() as directory:
        *_, task = make_task(directory, lines)
        prefix = len(task.prompt.prefix_ids)
        own, layout = [tokens - prefix] * 1024, memory.Layout(prefix)
        plan = memory_plan.make(needs(task), memory_plan.free_memory(), own, layout, task.args)
        print(f"\nEvery prompt of {tokens} tokens. {plan.table}")


def step(lines, tokens, again):
    """One training step; {"packed" tokens, "seconds", "peak", "estimate"}, memory in GiB."""
    with tempfile.TemporaryDirectory() as directory:
        run, accelerator, corpora, task = make_task(directory, lines)
        libraries = psutil.Process().memory_info().rss
        packed = task.draw(lines, tokens)
        need = needs(task)
        estimate = libraries + sum((need.held | need.training(packed, again)).values())
        task.plan = task.plan._replace(again=again)
        causal.load_base = lambda *_: causal.compute_in_float32(build(), torch.bfloat16)
        AnswerModel.choose_way = lambda *_: "not tried: the step alone is measured"
        task.load()
        loop = OneStep(run, accelerator, corpora, task, 1)
        started = time.perf_counter()
        loop.train()
        seconds = time.perf_counter() - started
    peak = peak_memory_gib()["host"]
    return {"packed": packed.tokens, "seconds": seconds, "peak": peak, "estimate": estimate / 2**30}


def main():
    parser = cli.ArgumentParser("gpt_memory.py", __doc__)
    parser.add_argument("--shape", nargs="+", default=SHAPES, help="default: %(default)s")
    parser.add_argument("--allocator", choices=("gives-back", "as-it-comes"), default="gives-back")
    told = "of that shape, its figures as JSON, activations kept or computed again"
    parser.add_argument("--in-this-process", choices=("kept", "again"), help=told)
    options = parser.parse_args()
    if options.in_this_process:
        shape = map(int, options.shape[0].split("x"))
        print(json.dumps(step(*shape, options.in_this_process == "again")))
        return
    gives_back = {"MALLOC_MMAP_THRESHOLD_": str(2**20)} if options.allocator == "gives-back" else {}
    print(
        f"{'lines x tokens':<16}{'activations':<12}{'packed':>8}{'s/step':>8}{'peak GiB':>10}"
        f"{'estimate':>10}{'off by':>8}"
    )
    for shape, what in itertools.product(options.shape, ("again", "kept")):
        command = [sys.executable, __file__, "--in-this-process", what, "--shape", shape]
        environment = os.environ | gives_back
        child = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        if child.returncode:
            print(f"{shape:<16}{what:<12} did not fit: code {child.returncode}", flush=True)
            continue
        told = json.loads(child.stdout.splitlines()[-1])
        off = told["estimate"] / told["peak"] - 1
        print(
            f"{shape:<16}{what:<12}{told['packed']:>8}{told['seconds']:>8.0f}"
            f"{told['peak']:>10.2f}{told['estimate']:>10.2f}{off:>8.1%}",
            flush=True,
        )
    for shape in options.shape[1:]:
        print_estimate(*map(int, shape.split("x")))


if __name__ == "__main__":
    main()
