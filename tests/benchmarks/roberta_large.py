"""The real size without the real weights: a RoBERTa-large laid out as klue/roberta-large is, through the unchanged command.

    python tests/benchmarks/roberta_large.py [--script bert_GRU.py] [--steps 4]

Trains a few steps at the default batch size on lines of the sample, evaluates, saves, and predicts with the checkpoint.
Prints seconds a step and peak memory, and what the same run takes on a GPU by counting what it must hold.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import utils

BATCH = 24


def build(directory):
    """Random weights in the layout of klue/roberta-large; returns the number of parameters."""
    from transformers import AutoTokenizer, BertTokenizer, RobertaConfig, RobertaModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    pieces = AutoTokenizer.from_pretrained(utils.SAMPLE / "roberta-tiny").get_vocab()
    vocab = pieces | {f"[unused{index}]": index for index in range(len(pieces), 32_000)}
    BertTokenizer(vocab=vocab, do_lower_case=False, strip_accents=False, model_max_length=512).save_pretrained(directory)
    config = RobertaConfig(
        vocab_size=32_000,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    model = RobertaModel(config, add_pooling_layer=False)
    model.save_pretrained(directory)
    return model.num_parameters()


def run(script, *arguments):
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", choices=("bert_plain.py", "bert_GRU.py"), default="bert_plain.py")
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model, out = Path(scratch, "roberta-large"), Path(scratch, "out")
        parameters = build(model)
        rows = (utils.SAMPLE / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        train, dev = Path(scratch, "train.jsonl"), Path(scratch, "dev.jsonl")
        train.write_text("".join(rows[: BATCH * args.steps]), encoding="utf-8")
        dev.write_text("".join(rows[-48:]), encoding="utf-8")
        run(args.script, "--model", model, "--train-file", train, "--dev-file", dev, "--epochs", 1, "--output-dir", out)
        again = Path(scratch, "again")
        run(args.script, "--model-ckpt-path", out / "best", "--dev-file", dev, "--output-dir", again)
        same = (again / "dev.scores.jsonl").read_text() == (out / "dev.scores.jsonl").read_text()
        report = json.loads((out / "run.json").read_text())
        speed = next(line for line in (out / "train.log").read_text().splitlines() if line.startswith("epoch 1/1"))
    print(f"{args.script} on {report['device']}: an encoder of {parameters / 1e6:.0f} M, {args.steps} steps of {BATCH} lines")
    print(f"{BATCH / float(re.search(r'([0-9.]+) lines/s', speed)[1]):.1f} s a step; {speed}")
    print(f"peak memory {report['peak_memory_gib']} GiB; the checkpoint predicts the same: {same}")
    print(f"weights, gradients and AdamW's two moments in float32: {16 * parameters / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
