"""Fine-tune a causal language model to answer which emotion a Korean sentence shows.

QLoRA: the model in 4 bits and frozen, low-rank adapters trained in its attention (Dettmers et al.
2023, arXiv:2305.14314).

    python gpt_train.py              kullm-polyglot-12.8b-v2 on the national corpus, on a 24 GB GPU
    python gpt_train.py --estimate   print what memory that needs, what the device has, and end
    python gpt_train.py --sample     a tiny model on the sample corpus: offline, on a CPU
    python gpt_inference.py --model-ckpt-path outputs/gpt_train/best
                                     predict with what was trained
"""

import argparse
import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import utils
from emotion import checkpoint, cli, data, process
from emotion.run import Run


def argument_parser() -> cli.ArgumentParser:
    """The command line."""
    parser = cli.ArgumentParser("gpt_train.py", __doc__)
    files, model = cli.add_model_arguments(parser, "gpt_train")
    defaults = {"model": "nlpai-lab/kullm-polyglot-12.8b-v2", "lr": 2e-4, "save_steps": 500}
    training = cli.add_training_arguments(parser, files, model, defaults)
    told = "cross-entropy on the answer, a sigmoid for each answer, or for each label a sigmoid of "
    told += "a linear head on the last token's state; default: %(default)s"
    training.add_argument("--objective", choices=checkpoint.OBJECTIVES, default="answer", help=told)
    told = "of the prompt and its answers; default: %(default)s"
    training.add_argument("--language", choices=("ko", "en"), default="ko", help=told)
    told = "JSON, from labels to answers; default: the eight emotions' own, else the labels"
    training.add_argument("--answers", metavar="FILE", type=Path, help=told)
    cli.count(training, "--batch-size", 16, "lines of a step, in each process")
    told = "lines scored at once; default: as many as fill 4,096 tokens, fewer if memory is short"
    cli.count(training, "--val-batch-size", None, told)
    told = "tokens of a prompt with its answer; a longer text is cut"
    cli.count(training, "--max-length", 512, told, low=16)
    told = "print the memory that training needs and what the device has, and end"
    training.add_argument("--estimate", action="store_true", help=told)
    adapter = parser.add_argument_group("adapter")
    told = "best/ of a run to go on with: its rank, alpha, dropout and layers are taken"
    adapter.add_argument("--adapter", metavar="DIR", type=Path, help=told)
    cli.count(adapter, "--rank", 16, "of the adapter's matrices")
    cli.count(adapter, "--alpha", 32, "the adapter's output is scaled by alpha / rank")
    share = cli.number(float, 0, 0.99)
    told = "of its input; default: %(default)s"
    adapter.add_argument("--dropout", metavar="P", type=share, default=0.05, help=told)
    told = "layers to adapt, or all-linear; default: those of queries, keys and values"
    adapter.add_argument("--target-modules", metavar="NAME", nargs="+", help=told)
    model_of_sample = utils.SAMPLE / "gpt-neox-tiny"
    cli.set_sample_defaults(parser, model=model_of_sample, epochs=5, lr=4e-3, head_lr=1e-2)
    return parser


class AnswerTask:
    """A causal language model in 4 bits with adapters, asked which emotion a sentence shows."""

    def __init__(self, args: argparse.Namespace, corpora: data.Corpora, accelerator: Any) -> None:
        from emotion import causal, memory, memory_plan, scoring, targets, vocabulary
        from emotion.prompt import Prompt
        from emotion.prompt_words import make_strings, read_answers

        self.args, self.corpora, self.accelerator = args, corpora, accelerator
        self.precision = scoring.resolve_precision(args.precision)
        adapter = functools.partial(causal.lora_config, args)
        self.need = memory.estimate(args.model, adapter, args.max_length, self.precision)
        with checkpoint.loading(args.model):
            tokenizer = vocabulary.read_tokenizer(args.model)
        own = args.language, corpora.labels, tokenizer, read_answers(args.answers, corpora.labels)
        size = args.max_length, self.need.vocabulary, args.objective
        self.prompt = Prompt(make_strings(*own), tokenizer, *size, *targets.reading(args))
        rows = targets.unplace_some(corpora.rows)
        self.suffixes = {s: self.prompt.encode(r, s == "test") for s, r in rows.items()}
        vocabulary.check_unknown(tokenizer, self.suffixes["train"])
        self.lines_at_once = getattr(args, "lines_at_once", args.batch_size)
        self.lengths: list[int] | None = None  # lines are packed, and not padded
        self.free = memory_plan.free_memory()
        lengths = list(map(self.prompt.length, self.suffixes["train"]))
        self.plan_memory(lengths, memory_plan.Layout(len(self.prompt.prefix_ids)))

    def plan_memory(self, lengths: list[int], layout: Any) -> None:
        """Plan how training fits, and say so, from the tokens of each line and how lines lie."""
        from emotion import memory_plan

        self.plan = memory_plan.make(self.need, self.free, lengths, layout, self.args)
        if self.plan.advice and not self.args.estimate:
            raise utils.InputError(self.plan.advice)
        utils.log.info(self.plan.table)

    def load(self) -> None:
        """Load the model in 4 bits, put adapters on it, and find out how it can be asked."""
        from emotion import causal, task

        where, reads_head = self.accelerator.device, self.args.objective != "head"
        base = causal.load_base(self.args.model, self.precision, where, reads_head)
        self.model = causal.adapt(self.args, base, self.prompt, self.corpora.labels)
        lines = sorted(itertools.chain(*self.suffixes.values()), key=len)
        utils.log.info(self.model.choose_way([lines[0], lines[-1]]))
        self.model.try_step([lines[0], lines[-1]])
        if not self.model.is_fast:
            self.lengths = list(map(self.model.length, self.suffixes["train"]))
            self.plan_memory(self.lengths, self.model.layout())
        if self.plan.again:
            base.activation_checkpointing_enable()
        rates = self.args.lr, self.args.head_lr
        self.parameters = task.parameter_groups(self.model, self.model.new_weights, *rates)
        causal.checkpoint_adapters_alone(self.accelerator)

    def describe(self) -> str:
        """What was resolved and derived, and an example as the model reads it, for the log."""
        args, prompt, model = self.args, self.prompt, self.model.model
        trained, total = model.get_nb_trainable_parameters()
        head = f", of the head {args.head_lr:g}" if self.model.new_weights else ""
        return (
            f"{type(self.model.causal).__name__} on {model.device}: "
            f"{total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M of them trained\n"
            f"{args.epochs} epochs in steps of {len(self.batches(0)[0])} lines; "
            f"learning rate {args.lr:g}{head}; objective {args.objective}; {self.precision}\n"
            + prompt.example(self.suffixes["train"][0], self.corpora.gold["train"][0])
        )

    def batches(self, epoch: int) -> list[list[int]]:
        """The lines of each step of an epoch, by index."""
        from emotion import task

        lines = self.args.batch_size * self.accelerator.num_processes
        return task.in_random_order(len(self.suffixes["train"]), lines, self.args.seed, epoch)

    def loss(self, model: Any, batch: Sequence[int]) -> Any:
        """The mean loss of lines of train, given by index."""
        import torch

        from emotion import answers

        found = model([self.suffixes["train"][index] for index in batch])
        labels = torch.from_numpy(self.corpora.gold["train"][list(batch)])
        return answers.LOSSES[self.args.objective](found, labels.to(found.device))

    def score(self, model: Any, split: str, after_batch: Callable[[int], object]) -> np.ndarray:
        """Scores of the labels, [lines, labels]."""
        from emotion import answer_model

        model, asked = self.accelerator.unwrap_model(model), self.suffixes[split]
        batch = {"lines": self.args.val_batch_size, "tokens": self.plan.tokens_to_score}
        return answer_model.score(model, asked, after_batch, **batch)

    def save(self, model: Any, path: Path, weights: dict[str, Any] | None) -> None:
        """Write the adapter, tokenizer and prompt."""
        from emotion import causal

        causal.save_trained(model, path, weights)
        self.prompt.tokenizer.save_pretrained(path)
        self.prompt.save(path, self.corpora.labels, model.causal.config, model.head_function)

    def load_best(self, path: Path) -> Any:
        """The model with the adapter of a checkpoint, to predict with."""
        from emotion import causal

        causal.load_trained(self.model, path)
        return self.model.eval()


def train(args: argparse.Namespace, run: Run) -> None:
    """Data, memory, model, training, decision rule, predictions."""
    corpora = data.read_to_train(args, run)
    if corpora is None:
        return
    utils.log.info(checkpoint.describe_model(args.model))

    from emotion import training

    accelerator = training.begin(run, args)
    task = AnswerTask(args, corpora, accelerator)
    if args.estimate:
        if process.is_main_process():
            print(task.plan.table, flush=True)
        return
    task.load()
    run.note(
        device=str(accelerator.device), precision=task.precision, activations_again=task.plan.again
    )
    utils.log.info(task.describe())
    training.fit(run, args, accelerator, corpora, task)


def main(argv: Sequence[str] | None = None) -> None:
    """Train."""
    cli.run_script(argument_parser(), train, argv)


if __name__ == "__main__":
    main()
