"""The real size without the real weights: a model laid out as klue/roberta-large is.

    python tests/benchmarks/roberta_large.py [--script bert_GRU.py] [--steps 4]

Through the unchanged command: trains a few steps at the default batch size on lines of the sample,
evaluates, saves, and predicts with the checkpoint. Prints seconds a step and peak memory, and what
the same run takes on a GPU by counting what it must hold.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import speed

import utils
from emotion import cli

BATCH = 24


def build(directory, layers=24, hidden=1024):
    """Random weights in the layout of klue/roberta-large, or of a smaller one; returns the number
    of parameters.
    """
    from transformers import AutoTokenizer, BertTokenizer, RobertaConfig, RobertaModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    pieces = AutoTokenizer.from_pretrained(utils.SAMPLE / "roberta-tiny").get_vocab()
    vocab = pieces | {f"[unused{index}]": index for index in range(len(pieces), 32_000)}
    settings = {"do_lower_case": False, "strip_accents": False, "model_max_length": 512}
    BertTokenizer(vocab=vocab, **settings).save_pretrained(directory)
    config = RobertaConfig(
        vocab_size=32_000,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
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
    command = [sys.executable, str(utils.ROOT / script), *map(str, arguments)]
    subprocess.run(command, cwd=utils.ROOT, check=True, stdout=subprocess.DEVNULL)


def main():
    parser = cli.ArgumentParser("roberta_large.py", __doc__)
    scripts = ("bert_plain.py", "bert_GRU.py")
    parser.add_argument("--script", choices=scripts, default="bert_plain.py")
    cli.count(parser, "--steps", 4, "of training")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model, out, again = (Path(scratch, name) for name in ("roberta-large", "out", "again"))
        parameters = build(model)
        rows = (utils.SAMPLE / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        train, dev = Path(scratch, "train.jsonl"), Path(scratch, "dev.jsonl")
        train.write_text("".join(rows[: BATCH * args.steps]), encoding="utf-8")
        dev.write_text("".join(rows[-48:]), encoding="utf-8")
        files = ["--train-file", train, "--dev-file", dev]
        run(args.script, "--model", model, *files, "--epochs", 1, "--output-dir", out)
        where = ["--model-ckpt-path", out / "best", "--output-dir", again]
        run(args.script, *where, "--dev-file", dev)
        same = (again / "dev.scores.jsonl").read_text() == (out / "dev.scores.jsonl").read_text()
        report = json.loads((out / "run.json").read_text())
        epoch = speed.epoch(out)
    size, steps = f"an encoder of {parameters / 1e6:.0f} M", f"{args.steps} steps of {BATCH} lines"
    print(f"{args.script} on {report['device']}: {size}, {steps}")
    print(f"{BATCH / float(epoch[1]):.1f} s a step; {epoch[0]}")
    print(f"peak memory {report['peak_memory_gib']} GiB; the checkpoint predicts the same: {same}")
    held = 16 * parameters / 2**30
    print(f"weights, gradients and AdamW's two moments in float32: {held:.1f} GiB")


if __name__ == "__main__":
    main()
