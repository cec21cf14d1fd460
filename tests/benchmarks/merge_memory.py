"""Memory of export.py while it merges an adapter, with a base of random weights.

    python tests/benchmarks/merge_memory.py [--layers 22]

The base is laid out as a Llama of 1.1 B parameters (22 layers, hidden 2048) in bf16, the adapter is
that of one step of gpt_train.py on lines of the sample. Prints the size of the weights, and the
peak memory of the merge as a process of its own, beside that of one which only imports the same.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import utils
from emotion import cli

MEASURED = """
import re, sys
sys.path.insert(0, {root!r})
from emotion import merge
if len(sys.argv) > 1:
    import export
    export.main(sys.argv[1:])
[peak] = re.findall(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print("peak", int(peak) / 2**20)
"""


def build(directory: Path, layers: int) -> int:
    """Write random weights and the sample's tokenizer; returns the number of parameters."""
    AutoTokenizer.from_pretrained(utils.SAMPLE / "gpt-neox-tiny").save_pretrained(directory)
    config = LlamaConfig(
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=4,
        vocab_size=32_000,
        dtype="bfloat16",
    )
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    model.save_pretrained(directory, max_shard_size="1GB")
    return model.num_parameters()


def peak(*arguments: object) -> float:
    """GiB of a process."""
    command = [sys.executable, "-c", MEASURED.format(root=str(ROOT)), *map(str, arguments)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(re.search(r"^peak (\S+)", told, re.MULTILINE)[1])  # type: ignore[index]


def main() -> None:
    """Build, train a step, merge, print."""
    parser = cli.ArgumentParser("merge_memory.py", __doc__)
    cli.count(parser, "--layers", 22, "of the base")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        base, run, merged = (Path(scratch, name) for name in ("base", "run", "merged"))
        size = 2 * build(base, options.layers) / 2**30
        rows = (utils.SAMPLE / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        files = []
        for split, lines in {"train": rows[:16], "dev": rows[16:20]}.items():
            path = Path(scratch, f"{split}.jsonl")
            path.write_text("".join(lines), encoding="utf-8")
            files += [f"--{split}-file", path]
        given = ["--model", base, *files, "--epochs", 1, "--objective", "head"]
        command = [sys.executable, ROOT / "gpt_train.py", *given, "--output-dir", run]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        print(f"weights in bf16: {size:.2f} GiB", flush=True)
        print(f"peak of the merge: {peak(run, merged):.2f} GiB; libraries alone: {peak():.2f} GiB")


if __name__ == "__main__":
    main()
