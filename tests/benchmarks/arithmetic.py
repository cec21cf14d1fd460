"""How far a score depends on what stands beside its line in a batch, by arithmetic.

    python tests/benchmarks/arithmetic.py --model DIR --corpus DIR [--language en] [--lines 64]

The first lines of DIR/dev.jsonl are scored in 4 bits by `emotion.causal` one at a time and in
batches of 16, in each precision, and so by the same model in plain bfloat16, as `from_pretrained`
loads it. Prints the largest difference of a score between the two, that from float32 one line at a
time, and the seconds of the batches.
"""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from emotion import process

process.quiet_libraries()  # before the libraries are imported

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

import utils
from emotion import answer_model, causal, cli
from emotion.answer_model import AnswerModel
from emotion.prompt import Prompt
from emotion.prompt_words import make_strings


def load_plainly(path: str) -> torch.nn.Module:
    """The model in 4 bits, everything else in bfloat16."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    settings = {"quantization_config": quantization, "dtype": torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(path, **settings)
    for module in model.modules():
        module.support_avx512bf16_for_cpu = False  # the same kernel on both sides
    return model


def main() -> None:
    """Parse the command line."""
    parser = cli.ArgumentParser("arithmetic.py", __doc__)
    parser.add_argument("--model", required=True, help="a from_pretrained directory")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--language", choices=("ko", "en"), default="ko")
    cli.count(parser, "--lines", 64, "of dev.jsonl")
    cli.run_tool(parser, show, None)


def show(options: argparse.Namespace) -> None:
    """Print a row for each arithmetic."""
    rows = utils.read_corpus(options.corpus / "dev.jsonl", labelled=True)[: options.lines]
    strings = make_strings(options.language, utils.labels_of(rows))
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    prompt = Prompt(strings, tokenizer, 512, len(tokenizer))
    suffixes, cpu = prompt.encode(rows), torch.device("cpu")
    print(f"{'':<20}{'batch against one':>18}{'against float32':>17}{'seconds':>9}")
    reference = None
    for name in ("fp32", "bf16", "fp16", "plain bf16"):
        is_plain = name.startswith("plain")
        model = (
            load_plainly(options.model) if is_plain else causal.load_base(options.model, name, cpu)
        )
        asked = AnswerModel(model, prompt, "bf16" if is_plain else name).eval()

        def score(lines: int, asked: AnswerModel = asked) -> np.ndarray:
            return answer_model.score(asked, suffixes, lambda _: None, lines)

        alone, began = score(1), time.perf_counter()
        together = score(16)
        seconds = time.perf_counter() - began
        reference = alone if reference is None else reference
        off, far = abs(together - alone).max(), abs(together - reference).max()
        print(f"{name:<20}{off:>18.1e}{far:>17.1e}{seconds:>9.1f}", flush=True)


if __name__ == "__main__":
    main()
