"""Fine-tune a causal language model to answer which of eight emotions a Korean sentence shows towards its target.

QLoRA: the model in 4 bits and frozen, low-rank adapters trained in its attention (Dettmers et al. 2023, arXiv:2305.14314).

    python gpt_train.py                  nlpai-lab/kullm-polyglot-12.8b-v2 on the national corpus, on one GPU of 24 GB
    python gpt_train.py --estimate       print what memory that needs against what the device has, and end
    python gpt_train.py --sample         a tiny model on the sample corpus: offline, on a CPU, two minutes
    python gpt_inference.py --model-ckpt-path outputs/gpt_train/best
                                         predict with what was trained
"""

import utils

parser = utils.ArgumentParser(__doc__)
data, model_group = utils.add_shared_arguments(parser, "gpt_train", predicts=False)
sample = {"model": str(utils.SAMPLE / "gpt-neox-tiny"), "epochs": 5, "lr": 4e-3}
training = utils.add_training_arguments(parser, data, model_group, "nlpai-lab/kullm-polyglot-12.8b-v2", sample, lr=2e-4)
training.add_argument(
    "--batch-size", metavar="N", type=utils.number(int, 1), default=16, help="lines of a step; default: %(default)s"
)
training.add_argument(
    "--objective",
    choices=utils.OBJECTIVES,
    default="answer",
    help="answer: cross-entropy on the answer (the published approach); multilabel: a sigmoid for each emotion on its "
    "answer's logit; default: %(default)s",
)
training.add_argument(
    "--language", choices=tuple(utils.PROMPTS), default="ko", help="of the prompt and its answers; default: %(default)s"
)
training.add_argument(
    "--max-length",
    metavar="N",
    type=utils.number(int, 16),
    default=512,
    help="tokens of a prompt with its answer; a longer text is cut; default: %(default)s",
)
training.add_argument(
    "--save-steps",
    metavar="N",
    type=utils.number(int, 1),
    help="save a checkpoint for --resume every N steps too; default: after each epoch alone",
)
training.add_argument(
    "--estimate", action="store_true", help="print the memory that training needs and what the device has, and end"
)
adapter = parser.add_argument_group("adapter")
adapter.add_argument("--rank", metavar="R", type=utils.number(int, 1), default=16, help="default: %(default)s")
adapter.add_argument("--alpha", metavar="A", type=utils.number(int, 1), default=32, help="default: %(default)s")
adapter.add_argument("--dropout", metavar="P", type=utils.number(float, 0, 0.99), default=0.05, help="default: %(default)s")
adapter.add_argument(
    "--target-modules",
    metavar="NAME",
    nargs="+",
    help="layers to adapt, or all-linear; default: those of queries, keys and values (query_key_value; q_proj, k_proj, v_proj)",
)

if __name__ == "__main__":  # a wrong argument or file is told before the seconds that the imports below take
    args, corpora = utils.parse_arguments(parser)

import collections
import math

import accelerate
import numpy as np
import peft
import psutil
import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, TrainingArguments

import bert_plain
import gpt_inference

CUDA_RESERVE = 0.8  # GiB of a GPU for its context and what the allocator cannot use; an assumption
QUERY_KEY_VALUE = {"query_key_value", "q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "Wqkv"}  # by architecture


def add_adapter(model, args):
    """Freeze the model and put trainable low-rank adapters, in float32, beside the layers that `args` name.

    Each layer's activations are computed again in the backward pass instead of kept.
    """
    target_modules = args.target_modules or attention_projections(model)
    config = peft.LoraConfig(
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        target_modules="all-linear" if target_modules == ["all-linear"] else target_modules,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(model, config)
    model.activation_checkpointing_enable()
    return model


def attention_projections(model):
    """The names of the linear layers that make queries, keys and values. Raises utils.InputError where none is known."""
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if not names & QUERY_KEY_VALUE:
        raise utils.InputError(f"--target-modules: say which of {', '.join(sorted(names))} to adapt, or all-linear")
    return sorted(names & QUERY_KEY_VALUE)


def answer_loss(log_probabilities, labels):
    """Cross-entropy on the answer, its target spread evenly over the answers of a line, or all on that there is none.

    Args:
        log_probabilities: of the answers, [lines, 9].
        labels: zeros and ones, [lines, 8].
    """
    none = (labels.sum(-1, keepdim=True) == 0).float()
    target = torch.cat([labels, none], dim=-1)
    return -(target / target.sum(-1, keepdim=True) * log_probabilities).sum(-1).mean()


def multilabel_loss(log_probabilities, labels):
    """Binary cross-entropy of each emotion's logit. Shapes as in `answer_loss`."""
    return nn.functional.binary_cross_entropy_with_logits(gpt_inference.emotion_logits(log_probabilities), labels)


LOSSES = dict(zip(utils.OBJECTIVES, (answer_loss, multilabel_loss), strict=True))


def estimate_memory(args):
    """What training needs, in bytes.

    Returns:
        (held, working): {purpose: bytes} of what is held throughout, and a function from the tokens of the longest batch to
        {purpose: bytes} of what comes and goes: in training or, where that takes more, in evaluation in float32.

    Raises:
        utils.InputError: the model has no such layers to adapt, or takes fewer tokens than `--max-length`.
    """
    with utils.loading(args.model), torch.device("meta"):
        config = AutoConfig.from_pretrained(args.model, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    longest = getattr(model.config, "max_position_embeddings", args.max_length)
    if args.max_length > longest:
        raise utils.InputError(f"--max-length {args.max_length}: {args.model} takes {longest} tokens; give that or less")
    head = model.get_output_embeddings()
    linears = [item for item in model.named_modules() if isinstance(item[1], nn.Linear) and item[1] is not head]
    names = set(args.target_modules or attention_projections(model))
    adapted = [linear for name, linear in linears if names & {"all-linear", name.rpartition(".")[2]}]
    if not adapted:
        raise utils.InputError(f"--target-modules {' '.join(names)}: {args.model} has no such linear layers")
    linears = [linear for _, linear in linears]
    weights = sum(linear.weight.numel() for linear in linears)
    others = sum(parameter.numel() for parameter in model.parameters()) - weights
    adapter = args.rank * sum(linear.in_features + linear.out_features for linear in adapted)
    layers, hidden = model.config.num_hidden_layers, model.config.hidden_size
    largest = max(linear.weight.numel() for linear in linears)
    outputs = sum(linear.out_features for linear in linears) // layers  # of one layer, for one token
    beside = sum(9 * linear.in_features + 8 * linear.out_features for linear in adapted) // layers  # float32 and a mask
    held = {
        "weights in 4 bits": weights / 2 + weights / 64 * (1 + 4 / 256),  # a byte for 64, and 4 bytes for 256 of these
        "embeddings, head, norms, biases": 2 * others,
        "adapter and its gradients": 8 * adapter,
        "optimiser state": (2 if accelerate.PartialState().device.type == "cuda" else 8) * adapter,
    }

    def working(tokens):
        kept = 2 * tokens * hidden * layers
        training = tokens * (4 * outputs + beside) + 2 * largest
        evaluation = tokens * 8 * outputs + 4 * largest
        return {
            "inputs of every layer, kept": kept,
            "one layer's activations, a weight unpacked": max(training, evaluation - kept),
        }

    return held, working


def longest_batch(lengths, prefix, batch_size, epochs, seed):
    """Tokens of the longest batch when the lines are drawn at random for so many epochs, the prompt's beginning included."""
    rng, longest = np.random.default_rng(seed), 0
    for _ in range(epochs):
        shuffled = rng.permutation(lengths)
        longest = max(longest, int(np.add.reduceat(shuffled, range(0, len(lengths), batch_size)).max()))
    return prefix + longest


def check_memory(args, prompt, train):
    """Compare what training needs with what the device has.

    Returns:
        (table, advice): the comparison as text, and what to do where training does not fit, else None.
    """
    lengths = [len(example["input_ids"]) for example in train]
    held, working = estimate_memory(args)

    def need(batch_size):
        tokens = longest_batch(lengths, len(prompt.prefix_ids), batch_size, args.epochs, args.seed)
        return sum(held.values()) + sum(working(tokens).values()), tokens

    def largest_batch_size(room):
        return max((size for size in (1, 2, 4, 8, 16, 32, 64, 128) if need(size)[0] <= room), default=0)

    total, tokens = need(args.batch_size)
    device = accelerate.PartialState().device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    free = min(accelerate.utils.gather_object([free]))  # of several devices, the fullest
    rows = held | working(tokens) | {"in all": total, f"free on {device}": free}
    lines = [f"MiB that training needs, with batches of up to {tokens} tokens ({args.batch_size} lines):"]
    lines += [f"  {purpose:<44}{size / 2**20:>10,.1f}" for purpose, size in rows.items()]
    for card in (24, 16, 12):
        size = largest_batch_size((card - CUDA_RESERVE) * 2**30)
        lines.append(f"a GPU of {card} GB: {f'--batch-size up to {size}' if size else 'too small'}")
    advice = None
    if total > free:
        size = largest_batch_size(free)
        mend = f"take --batch-size {size}" if size else "take a smaller --model or a larger device"
        advice = f"training needs {total / 2**30:.1f} GiB and {device} has {free / 2**30:.1f} free; {mend}"
    return "\n".join(lines), advice


class GPTTrainer(bert_plain.RunTrainer):
    """Trainer that packs a batch into one row, and evaluates by the scoring of gpt_inference.py."""

    def __init__(self, *args, prompt, objective, **kwargs):
        super().__init__(*args, data_collator=self.pack, **kwargs)
        self.prompt, self.objective = prompt, objective

    def pack(self, examples):
        labels = torch.tensor(np.stack([example["labels"] for example in examples]))
        return self.prompt.pack([example["input_ids"] for example in examples]) | {"labels": labels}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        log_probabilities = model(**inputs).logits
        loss = LOSSES[self.objective](log_probabilities, labels)
        return (loss, log_probabilities) if return_outputs else loss

    def save_best(self, directory, tokenizer):
        super().save_best(directory, tokenizer)
        if self.is_world_process_zero():
            self.prompt.save(directory, self.objective, self.model.config)

    def score(self, examples, name):
        """Scores of the emotions, [examples, 8], as gpt_inference.py gives them."""
        lines = [example["input_ids"] for example in examples]
        with (
            gpt_inference.evaluating(self.model),
            utils.progress_bar(len(lines), "line", name, leave=False) as bar,
        ):
            cache = gpt_inference.run_prefix(self.model, self.prompt)
            batch_size = self.args.per_device_eval_batch_size
            return gpt_inference.score(self.model, self.prompt, self.objective, lines, cache, batch_size, bar)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        scores = self.score(self.eval_dataset, "dev")
        labels = np.stack([example["labels"] for example in self.eval_dataset])
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in utils.micro_f1_by_rule(labels, scores).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def make_trainer(args, model, prompt, datasets):
    """The recipe as a Trainer: AdamW, a tenth of the steps warm-up, linear decay, best epoch by dev micro-F1."""
    device = accelerate.PartialState().device
    training_arguments = TrainingArguments(
        output_dir=args.output_dir / "checkpoints",
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size,
        learning_rate=args.lr,
        warmup_steps=0.1,
        optim="paged_adamw_8bit" if device.type == "cuda" else "adamw_torch_fused",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=3,  # the last two and the best
        load_best_model_at_end=True,
        metric_for_best_model="micro_f1",
        greater_is_better=True,
        logging_steps=min(10, math.ceil(len(datasets["train"]) / args.batch_size)),
        remove_unused_columns=False,
        use_cpu=device.type == "cpu",
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=device.type == "cuda",
        disable_tqdm=True,
        seed=args.seed,
    )
    model.accepts_loss_kwargs = False  # else Trainer multiplies the loss by accumulation steps and processes
    return GPTTrainer(
        model,
        training_arguments,
        train_dataset=datasets["train"],
        eval_dataset=datasets["dev"],
        callbacks=[bert_plain.Progress()],
        prompt=prompt,
        objective=args.objective,
        save_steps=args.save_steps,
    )


def make_examples(rows, prompt):
    """Rows as training takes them: {"id", "input_ids": list, "labels": [8]}, without labels where the rows have none."""
    examples = [{"id": row["id"], "input_ids": ids} for row, ids in zip(rows, prompt.encode(rows), strict=True)]
    if rows[0].get("output"):
        for example, labels in zip(examples, utils.encode_labels(rows), strict=True):
            example["labels"] = labels
    return examples


def describe(trainer, tokenizer, datasets):
    """What was resolved and derived, and one training example as the model reads it, as text for the log."""
    model, settings, prompt = trainer.model, trainer.args, trainer.prompt
    census = collections.Counter()
    for parameter in model.parameters():
        count = parameter.numel() * (2 if parameter.dtype == torch.uint8 else 1)  # two weights of 4 bits in a byte
        census[f"{str(parameter.dtype).removeprefix('torch.')}, {'trained' if parameter.requires_grad else 'frozen'}"] += count
    batch = settings.train_batch_size * settings.world_size
    example = datasets["train"][0]
    answers = [answer.strip() for answer, label in zip(prompt.strings["answers"], example["labels"], strict=False) if label]
    return "\n".join(
        [
            f"{type(model.get_base_model()).__name__} on {settings.device}; parameters: "
            + ", ".join(f"{count / 1e6:.1f} M {kind}" for kind, count in census.items()).replace("uint8", "in 4 bits"),
            ", ".join(f"{len(examples)} {split} lines" for split, examples in datasets.items()),
            f"{settings.num_train_epochs} epochs of {math.ceil(len(datasets['train']) / batch)} steps of {batch} lines; "
            f"learning rate {settings.learning_rate:g}; objective {trainer.objective}",
            f"first example, its answers between « and »:\n{tokenizer.decode(prompt.prefix_ids + example['input_ids'])}"
            f"«{' / '.join(answers) or prompt.strings['answers'][-1].strip()}»",
        ]
    )


def main(args, corpora):
    """Data, memory, model, training, decision rule, predictions."""
    utils.check_devices()
    transformers.set_seed(args.seed)
    with utils.loading(args.model):
        tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=False)
    prompt = gpt_inference.Prompt(utils.PROMPTS[args.language], tokenizer, args.max_length)
    datasets = {split: make_examples(rows, prompt) for split, rows in corpora.items()}
    memory, advice = check_memory(args, prompt, datasets["train"])
    if args.estimate:
        print(memory)
        return
    if advice:
        raise utils.InputError(advice)
    model = add_adapter(gpt_inference.with_answer_head(gpt_inference.load_base(args.model), prompt.answer_ids), args)
    trainer = make_trainer(args, model, prompt, datasets)
    run = utils.start_run(args, corpora, trainer.args.device)
    utils.log.info("%s\n%s", memory, describe(trainer, tokenizer, datasets))

    utils.warn_of_repeats(corpora)
    trainer.train(utils.last_whole_checkpoint(args.output_dir) if args.resume else None)
    trainer.save_best(args.output_dir / "best", tokenizer)
    scores = {split: trainer.score(datasets[split], split) for split in corpora if split != "train"}
    threshold = utils.choose_threshold(args, utils.encode_labels(corpora["dev"]), scores["dev"])
    utils.evaluate_and_write(args, {split: [(corpora[split], values)] for split, values in scores.items()}, threshold)
    utils.finish_run(args, run)
    trainer.accelerator.end_training()


if __name__ == "__main__":
    with utils.errors_for_people(parser, args):
        main(args, corpora)
