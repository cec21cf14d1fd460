"""What sorting, packing and the shared beginning are worth: lines a second of the GPT scripts against the plain way.

    python tests/benchmarks/gpt_speed.py --corpus DIR [--lines 500]

On the first lines of DIR/dev.jsonl, with a GPT-NeoX of 33 M random weights (hidden 512, 8 layers) in 4 bits. The plain way of
inference: whole prompts in the order of the file, padded, `generate` with one new token and the scores of the whole vocabulary.
The plain way of training: one copy of the prompt for each emotion of a line, in the order of the file, padded, logits of the
whole vocabulary at every position. Same model, adapter, optimiser, batch size and precision on both sides. Difference: the
largest from scoring one line at a time in float32. Times are this machine's; read the ratio.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import utils

utils.quiet_libraries()  # before the libraries are imported

import numpy as np
import torch
import transformers
from tqdm import tqdm
from transformers import AutoTokenizer, GenerationConfig, GPTNeoXConfig, GPTNeoXForCausalLM

import gpt_inference
import gpt_train

BATCH = 16


def build(directory):
    torch.manual_seed(0)
    rotary = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    size = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 2048}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=7680, rope_parameters=rotary, **size))
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(utils.SAMPLE / "gpt-neox-tiny").save_pretrained(directory)
    return model.num_parameters()


@torch.inference_mode()
def generate_scores(model, tokenizer, prompt, lines, batch_size):
    """The plain way: the eight answers' share in the distribution of the first token that `generate` draws."""
    answers = [ids[0] for ids in prompt.answer_ids[:-1]]
    settings = GenerationConfig(
        max_new_tokens=1, do_sample=False, output_scores=True, return_dict_in_generate=True, pad_token_id=tokenizer.pad_token_id
    )
    scores = []
    for start in range(0, len(lines), batch_size):
        inputs = tokenizer.pad({"input_ids": lines[start : start + batch_size]}, return_tensors="pt", padding_side="left")
        logits = model.generate(**inputs, generation_config=settings).scores[0]
        scores.append(logits.float().softmax(-1)[:, answers])
    scores = torch.cat(scores)
    return (scores / scores.sum(-1, keepdim=True)).numpy()


def train_plainly(model, tokenizer, prompt, examples, args):
    """The plain way: a copy of the prompt for each answer, logits everywhere, loss on the answer."""
    copies = []
    for example in examples:
        asked = prompt.prefix_ids + example["input_ids"]
        for answer in np.flatnonzero(example["labels"]).tolist() or [8]:
            ids = prompt.answer_ids[answer]
            copies.append((asked + ids, [-100] * len(asked) + ids))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.lr, fused=True)
    model.train()
    for start in range(0, len(copies), BATCH):
        ids, targets = zip(*copies[start : start + BATCH], strict=True)
        inputs = tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt", padding_side="right")
        longest = inputs["input_ids"].shape[1]
        labels = torch.tensor([target + [-100] * (longest - len(target)) for target in targets])
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def timed(function, *arguments):
    started = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--lines", type=int, default=500)
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    rows = utils.read_corpus(options.corpus / "dev.jsonl", labelled=True)[: options.lines]
    with tempfile.TemporaryDirectory() as directory:
        parameters = build(directory)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        prompt = gpt_inference.Prompt(utils.PROMPTS["ko"], tokenizer, 512)
        examples = gpt_train.make_examples(rows, prompt)
        suffixes = [example["input_ids"] for example in examples]
        lines = [prompt.prefix_ids + suffix for suffix in suffixes]
        print(
            f"{len(rows)} lines of {np.mean(list(map(len, suffixes))):.0f} tokens behind a beginning of "
            f"{len(prompt.prefix_ids)}; {parameters / 1e6:.0f} M parameters\n"
        )
        print(f"{'inference':<34}{'lines/s':>9}{'ratio':>7}{'difference':>12}")
        model = gpt_inference.load_base(directory)
        plain = {}
        for precision in ("fp32", "bf16"):
            model.get_output_embeddings().to(torch.float32 if precision == "fp32" else torch.bfloat16)
            with gpt_inference.evaluating(model, precision):
                if precision == "fp32":
                    reference = generate_scores(model, tokenizer, prompt, lines, 1)
                scores, plain[precision] = timed(generate_scores, model, tokenizer, prompt, lines, BATCH)
            report(f"plain way, {precision}", len(rows), plain[precision], plain[precision], abs(scores - reference).max())
        gpt_inference.with_answer_head(model, prompt.answer_ids)
        for precision in ("fp32", "bf16"):
            with gpt_inference.evaluating(model, precision), tqdm(disable=True) as bar:
                started = time.perf_counter()
                cache = gpt_inference.run_prefix(model, prompt)
                scores = gpt_inference.score(model, prompt, "answer", suffixes, cache, BATCH, bar)
                seconds = time.perf_counter() - started
            report(f"gpt_inference.py, {precision}", len(rows), seconds, plain[precision], abs(scores - reference).max())

        print(f"\n{'training, one epoch':<34}{'lines/s':>9}{'ratio':>7}")
        args = gpt_train.parser.parse_args(["--model", directory, "--output-dir", directory, "--epochs", "1"])
        model = gpt_train.add_adapter(gpt_inference.load_base(directory), args)
        _, plainly = timed(train_plainly, model, tokenizer, prompt, examples, args)
        report("plain way", len(rows), plainly, plainly)
        transformers.set_seed(args.seed)
        model = gpt_inference.with_answer_head(gpt_inference.load_base(directory), prompt.answer_ids)
        trainer = gpt_train.make_trainer(args, gpt_train.add_adapter(model, args), prompt, {"train": examples, "dev": examples})
        trainer.args.load_best_model_at_end = False
        trainer.args.eval_strategy = trainer.args.save_strategy = "no"
        _, seconds = timed(trainer.train)
        report("gpt_train.py", len(rows), seconds, plainly)


def report(name, lines, seconds, plain, difference=None):
    shown = "" if difference is None else f"{difference:>12.1e}"
    print(f"{name:<34}{lines / seconds:>9.1f}{plain / seconds:>7.2f}{shown}", flush=True)


if __name__ == "__main__":
    main()
