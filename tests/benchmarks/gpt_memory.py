"""The real size without the real weights: 12.9 B parameters laid out as polyglot-ko-12.8b, one training step each.

    python tests/benchmarks/gpt_memory.py [--shape LINESxTOKENS ...] [--allocator as-it-comes]

Random weights in 4 bits (each layer's shape quantised once and copied), the script's own adapter, batch, loss and optimiser, on
the CPU. TOKENS are those of a whole prompt: its beginning, which the lines of a batch share, and the line's own. Prints seconds
and peak memory of a step beside what `gpt_train.py --estimate` says of it, and what it says of GPUs.

glibc keeps much of what is freed, in holes between what is not. So that the peak is of what is held, the step runs with blocks
of a megabyte and more given back at once; as-it-comes leaves the allocator alone.
"""

import argparse
import copy
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

import utils

utils.quiet_libraries()  # before the libraries are imported

SHAPES = ("1x128", "16x96", "16x160")


def config():
    from transformers import GPTNeoXConfig

    return GPTNeoXConfig(
        vocab_size=30_080,
        hidden_size=5120,
        num_hidden_layers=40,
        num_attention_heads=40,
        intermediate_size=20_480,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        use_parallel_residual=True,
        tie_word_embeddings=False,
    )


def build():
    """The model as `from_pretrained` leaves it after quantisation."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit
    from torch import nn
    from transformers import GPTNeoXForCausalLM

    with torch.device("meta"):
        model = GPTNeoXForCausalLM(config()).to(torch.bfloat16)
    quantized = {}
    for name, linear in list(model.named_modules()):
        if not isinstance(linear, nn.Linear) or name == "lm_head":
            continue
        shape = tuple(linear.weight.shape)
        if shape not in quantized:
            weight = torch.randn(shape, dtype=torch.bfloat16) * 0.02
            quantized[shape] = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True).to("cpu")
        layer = Linear4bit(shape[1], shape[0], compute_dtype=torch.bfloat16, quant_type="nf4", device="meta")
        layer.weight = copy.deepcopy(quantized[shape])
        layer.bias = nn.Parameter(torch.zeros(shape[0], dtype=torch.bfloat16))
        model.set_submodule(name, layer)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                value = torch.ones if isinstance(module, nn.LayerNorm) and name == "weight" else torch.zeros
                setattr(module, name, nn.Parameter(value(parameter.shape, dtype=torch.bfloat16)))
    nn.init.normal_(model.gpt_neox.embed_in.weight, std=0.02)
    nn.init.normal_(model.lm_head.weight, std=0.02)
    model.gpt_neox.rotary_emb = type(model.gpt_neox.rotary_emb)(model.config)
    model.is_loaded_in_4bit = True
    model.config.use_cache = False
    return model


def settings(directory, lines):
    """The arguments and the prompt of a run with so many lines a batch; `directory` is to hold the model's config."""
    from transformers import AutoTokenizer

    import gpt_inference
    import gpt_train

    config().save_pretrained(directory)
    args = gpt_train.parser.parse_args(["--model", directory, "--output-dir", directory, "--batch-size", str(lines)])
    tokenizer = AutoTokenizer.from_pretrained(utils.SAMPLE / "gpt-neox-tiny")
    return args, gpt_inference.Prompt(utils.PROMPTS["ko"], tokenizer, args.max_length)


def print_estimate(lines, tokens):
    """What `gpt_train.py --estimate` says of a corpus whose prompts are all of so many tokens."""
    import gpt_train

    with tempfile.TemporaryDirectory() as directory:
        args, prompt = settings(directory, lines)
        train = [{"input_ids": range(tokens - len(prompt.prefix_ids))}] * 1024
        print(f"\nEvery prompt of {tokens} tokens. {gpt_train.check_memory(args, prompt, train)[0]}")


def step(lines, tokens):
    """One training step; returns {"packed" tokens, "seconds", "peak", "estimate"}, memory in GiB."""
    import psutil
    import torch

    import gpt_inference
    import gpt_train

    with tempfile.TemporaryDirectory() as directory:
        args, prompt = settings(directory, lines)
        libraries = psutil.Process().memory_info().rss
        own = tokens - len(prompt.prefix_ids)
        packed = len(prompt.prefix_ids) + lines * own
        held, working = gpt_train.estimate_memory(args)
        estimate = libraries + sum((held | working(packed)).values())
        rng = random.Random(0)
        examples = [
            {"id": str(n), "input_ids": [rng.randrange(500, 3000) for _ in range(own)], "labels": torch.eye(8)[n % 8].numpy()}
            for n in range(lines)
        ]
        model = gpt_train.add_adapter(gpt_inference.with_answer_head(build(), prompt.answer_ids), args)
        trainer = gpt_train.make_trainer(args, model, prompt, {"train": examples, "dev": examples})
        trainer.args.max_steps = 1
        trainer.args.load_best_model_at_end = False
        trainer.args.eval_strategy = trainer.args.save_strategy = "no"
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    peak = utils.peak_memory_gib()["host"]
    return {"packed": packed, "seconds": seconds, "peak": peak, "estimate": estimate / 2**30}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", default=SHAPES, help="default: %(default)s")
    parser.add_argument("--allocator", choices=("gives-back", "as-it-comes"), default="gives-back")
    parser.add_argument("--in-this-process", action="store_true", help="one shape, its figures as JSON")
    options = parser.parse_args()
    if options.in_this_process:
        print(json.dumps(step(*map(int, options.shape[0].split("x")))))
        return
    environment = os.environ | ({"MALLOC_MMAP_THRESHOLD_": str(2**20)} if options.allocator == "gives-back" else {})
    print(f"{'lines x tokens':<16}{'packed':>8}{'s/step':>8}{'peak GiB':>10}{'estimate':>10}{'off by':>8}")
    for shape in options.shape:
        command = [sys.executable, __file__, "--in-this-process", "--shape", shape]
        process = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        told = json.loads(process.stdout.splitlines()[-1])
        off = told["estimate"] / told["peak"] - 1
        print(
            f"{shape:<16}{told['packed']:>8}{told['seconds']:>8.0f}{told['peak']:>10.2f}{told['estimate']:>10.2f}{off:>8.1%}",
            flush=True,
        )
    for shape in options.shape[1:]:
        print_estimate(*map(int, shape.split("x")))


if __name__ == "__main__":
    main()
