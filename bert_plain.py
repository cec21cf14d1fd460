"""Fine-tune an encoder to tell which of eight emotions a Korean sentence shows towards its target.

A fully-connected head on the encoder's [CLS] representation, one sigmoid for each emotion, binary cross-entropy.

    python bert_plain.py                 klue/roberta-large on the national corpus, on one GPU
    python bert_plain.py --sample        a tiny model on the sample corpus: offline, on a CPU, two minutes
    python bert_plain.py --model-ckpt-path outputs/bert_plain/best --test-file FILE --output-dir DIR
                                         predict a file with a trained checkpoint
"""

import utils

parser = utils.bert_argument_parser(__doc__, "bert_plain", head_lr=1e-3)
parser.add_argument(
    "--pooling",
    choices=("cls", "mean"),
    default="cls",
    help="what the head sees: the first token (the published model), or the mean of all tokens; default: %(default)s",
)

if __name__ == "__main__":  # a wrong argument or file is told before the seconds that the imports below take
    classes = ("ForSequenceClassification", "MeanPoolingClassifier")
    args, corpora = utils.parse_arguments(parser, lambda args: utils.check_encoder(args, classes))

import math
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import rotate_checkpoints


class EncoderClassifier(PreTrainedModel):
    """Base of the classifiers that transformers does not have: any encoder under a head of a subclass.

    A subclass has `pool(hidden, attention_mask)`, from the encoder's last hidden states [batch, length, hidden] to
    [batch, features], and `classifier`, from there to logits [batch, 8]. The config is the encoder's own with the labels
    added; `from_pretrained` and `save_pretrained` work.
    """

    config_class = AutoConfig
    base_model_prefix = "encoder"

    def __init__(self, config):
        super().__init__(config)
        self.encoder = AutoModel.from_config(config, trust_remote_code=False)
        if hasattr(self.encoder, "pooler"):
            self.encoder.pooler = None  # `pool` takes its place

    def forward(self, input_ids, attention_mask, token_type_ids=None, labels=None):
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state
        with torch.autocast(hidden.device.type, enabled=False):  # rounding to bf16 at each step of a GRU adds up
            logits = self.classifier(self.pool(hidden.float(), attention_mask))
        loss = None if labels is None else nn.functional.binary_cross_entropy_with_logits(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class MeanPoolingClassifier(EncoderClassifier):
    """A fully-connected layer on the mean of the token representations, padding left out."""

    def __init__(self, config):
        super().__init__(config)
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Linear(config.hidden_size, config.num_labels))
        self.post_init()

    def pool(self, hidden, attention_mask):
        mask = attention_mask.unsqueeze(-1)
        return (hidden * mask).sum(1) / mask.sum(1)


def load_model(args, model_class):
    """Load tokenizer and classifier for a run.

    Args:
        model_class: what to put on `--model`: AutoModelForSequenceClassification or an EncoderClassifier. A checkpoint
            says itself what it is.

    Returns:
        (tokenizer, model, new_weights): `new_weights` are the names of the parameters that `--model` does not have.

    Raises:
        InputError: the model cannot be loaded, or lacks more than a head.
    """
    path = args.model_ckpt_path or args.model
    transformers.utils.logging.disable_progress_bar()
    labels = dict(enumerate(utils.EMOTIONS))
    with utils.loading(path):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        config = AutoConfig.from_pretrained(
            path,
            id2label=labels,
            label2id={name: index for index, name in labels.items()},
            problem_type="multi_label_classification",
            trust_remote_code=False,
        )
        if args.model_ckpt_path:
            ours = {subclass.__name__: subclass for subclass in EncoderClassifier.__subclasses__()}
            model_class = ours.get(config.architectures[0], AutoModelForSequenceClassification)
        on_encoder = issubclass(model_class, EncoderClassifier) and not args.model_ckpt_path
        model, report = (AutoModel if on_encoder else model_class).from_pretrained(
            path, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )

    new_weights = report["missing_keys"]
    base = "" if on_encoder else f"{model.base_model_prefix}."
    lost = sorted(name for name in new_weights if args.model_ckpt_path or (name.startswith(base) and "pooler" not in name))
    if lost:
        raise utils.InputError(f"{path}: lacks {len(lost)} weights of {type(model).__name__}, as {lost[0]}")
    if on_encoder:
        encoder, model = model, model_class(config)
        encoder.pooler = None
        model.encoder = encoder
        new_weights = {name for name, _ in model.named_parameters() if not name.startswith("encoder.")}
    model.accepts_loss_kwargs = False  # else Trainer multiplies the loss by accumulation steps and processes
    return tokenizer, model, new_weights


def tokenize(rows, tokenizer, config):
    """Rows to model inputs, the text paired with its target; a long text is cut, a target never.

    Returns:
        A list of {"input_ids", "attention_mask"}, with "token_type_ids" where the model has several types, and "labels"
        (float, [8]) where the rows are labelled.

    Raises:
        InputError: a target is too long for the model.
    """
    limit = min(tokenizer.model_max_length, config.max_position_embeddings - (config.pad_token_id or 0) - 1)
    pairs = [utils.text_and_target(row) for row in rows]
    examples = [None] * len(rows)
    for has_target in (True, False):
        chosen = [index for index, (_, target) in enumerate(pairs) if (target is not None) == has_target]
        if not chosen:
            continue
        targets = [pairs[index][1] for index in chosen] if has_target else None
        room = limit - tokenizer.num_special_tokens_to_add(pair=has_target) - 1
        target_ids = tokenizer(targets, add_special_tokens=False)["input_ids"] if has_target else []
        for index, ids in zip(chosen, target_ids, strict=has_target):
            if len(ids) > room:
                message = f"input.target.form: has {len(ids)} tokens, and the model takes {room}; shorten it"
                raise utils.InputError(f"id {rows[index]['id']!r}: {message}")
        encoded = tokenizer(
            [pairs[index][0] for index in chosen],
            targets,
            truncation="only_first",
            max_length=limit,
            return_token_type_ids=getattr(config, "type_vocab_size", 1) > 1,
        )
        for position, index in enumerate(chosen):
            examples[index] = {name: values[position] for name, values in encoded.items()}
    if rows[0].get("output"):
        for example, labels in zip(examples, utils.encode_labels(rows), strict=True):
            example["labels"] = labels.tolist()
    return examples


def resolve_precision(requested):
    """ "auto" to the fastest type that all devices in use compute in: bf16, fp16 (where a GPU is older than Ampere) or fp32."""
    if requested == "fp16" and not torch.cuda.is_available():
        raise utils.InputError("--precision fp16: needs a CUDA GPU; take bf16 or fp32")
    if requested != "auto":
        return requested
    if torch.cuda.is_available():
        majors = [torch.cuda.get_device_capability(index)[0] for index in range(utils.local_process_count())]
        return "bf16" if min(majors) >= 8 else "fp16"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


class LengthGroupedSampler(Sampler):
    """Lines of like length stand together in batches, and the batches in random order, by seed and epoch alone.

    transformers' sampler of this name leaves each group of batches sorted from long to short, so that training goes
    through the lengths in order; here that cost 0.01 of loss after an epoch.
    """

    def __init__(self, lengths, batch_size, seed):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.lengths)

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = get_length_grouped_indices(self.lengths, self.batch_size, mega_batch_mult=100, generator=generator)
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        last = len(batches) - 1  # may be short, and stays behind
        shuffled = [*torch.randperm(last, generator=generator).tolist(), last]
        return iter([index for batch in shuffled for index in batches[batch]])


class RunTrainer(Trainer):
    """Trainer of a run that may be stopped or killed at any moment, and that `--resume` brings to the same end.

    A checkpoint appears in `checkpoints/` when it is whole. Ctrl-C and SIGTERM wait for the step that runs, or break off the
    evaluation that does; then a checkpoint is saved, and `train` raises KeyboardInterrupt. Evaluation draws no random numbers.

    Args:
        save_steps: save a checkpoint after so many steps too, and not after epochs alone.
    """

    def __init__(self, model, args, *, data_collator, save_steps=None, **kwargs):
        args._n_gpu = min(args.n_gpu, 1)  # a process has one GPU; else Trainer parts each batch over all by DataParallel
        self.collate_inputs = data_collator
        super().__init__(model, args, data_collator=self.collate_with_ids, **kwargs)
        self.remove_callback(PrinterCallback)
        self.add_callback(SaveWhenTold(self, save_steps))
        self.staging = self.resumed_from = None
        self.told_to_stop = False

    def train(self, resume_from_checkpoint=None, **kwargs):
        self.resumed_from = resume_from_checkpoint
        with utils.signals_handled_by(self.stop_later):
            output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        if self.told_to_stop:
            raise KeyboardInterrupt
        return output

    def stop_later(self, *_):
        if self.told_to_stop:  # told twice: at once
            raise KeyboardInterrupt
        self.told_to_stop = True

    def collate_with_ids(self, examples):
        ids = [example.get("id") for example in examples]
        batch = self.collate_inputs([{name: value for name, value in example.items() if name != "id"} for example in examples])
        batch["ids"] = ids
        return batch

    def _prepare_inputs(self, inputs):
        self.batch_ids = inputs.pop("ids")
        return super()._prepare_inputs(inputs)

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise utils.RunError(
                f"step {self.state.global_step + 1}: the loss is {loss.item()}, on the lines {', '.join(self.batch_ids)}; "
                "take a lower --lr, or bf16 or fp32 for --precision; the last checkpoint was saved before"
            )
        return loss

    def _evaluate(self, *args, **kwargs):
        try:
            with torch.random.fork_rng(devices=()), utils.signals_handled_by(signal.default_int_handler):
                if self.told_to_stop:
                    raise KeyboardInterrupt
                return super()._evaluate(*args, **kwargs)
        except KeyboardInterrupt:
            self._save_checkpoint(self.model, None)  # `evaluate_if_due` makes up for it on resuming
            raise

    def evaluate_if_due(self):
        """Evaluate a checkpoint that was saved at the end of an epoch, when its evaluation was broken off."""
        state = self.state
        at_end_of_epoch = state.global_step and state.global_step % (state.max_steps // state.num_train_epochs) == 0
        evaluated = any("eval_micro_f1" in record and record["step"] == state.global_step for record in state.log_history)
        if at_end_of_epoch and not evaluated:
            self._load_rng_state(self.resumed_from)
            self.control.should_evaluate = self.control.should_save = True
            self._maybe_log_save_evaluate(self._tr_loss, None, self.model, None, state.epoch, None, time.time())

    def _get_output_dir(self, trial):
        return self.staging or super()._get_output_dir(trial)

    def save_best(self, directory, tokenizer):
        """Save the model, as it is, and its tokenizer, to load with `from_pretrained`."""
        if self.is_world_process_zero():
            with utils.room_for(directory, trained_bytes(self.model)):
                self.model.save_pretrained(directory)
                tokenizer.save_pretrained(directory)

    def _save_checkpoint(self, model, trial):
        checkpoints = Path(self.args.output_dir)
        final = checkpoints / f"checkpoint-{self.state.global_step}"
        moments = [value for state in self.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
        with utils.room_for(final, trained_bytes(model) + sum(moment.nbytes for moment in moments)):
            self.staging = str(checkpoints / ".partial")
            try:
                super()._save_checkpoint(model, trial)
                if self.state.best_global_step:
                    self.state.best_model_checkpoint = str(checkpoints / f"checkpoint-{self.state.best_global_step}")
                self.accelerator.wait_for_everyone()  # each process saves its random state
                if self.is_world_process_zero():
                    self.state.save_to_json(Path(self.staging, final.name, "trainer_state.json"))
                    shutil.rmtree(final, ignore_errors=True)
                    Path(self.staging, final.name).rename(final)
                    rotate_checkpoints(
                        checkpoints, self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True
                    )
                self.accelerator.wait_for_everyone()
            finally:
                shutil.rmtree(self.staging, ignore_errors=True)
                self.staging = None


def trained_bytes(model):
    """The size of the parameters that are trained, and so of what is saved of a model."""
    return sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)


class SaveWhenTold(TrainerCallback):
    """Asks for a checkpoint when the process is told to stop, and every `save_steps` steps; stops when it is saved."""

    def __init__(self, trainer, save_steps):
        self.trainer, self.save_steps = trainer, save_steps

    def on_train_begin(self, args, state, control, **kwargs):
        if state.best_global_step:  # the directory may have moved
            state.best_model_checkpoint = str(Path(args.output_dir, f"checkpoint-{state.best_global_step}"))
        self.trainer.evaluate_if_due()

    def on_step_end(self, args, state, control, **kwargs):
        is_due = self.save_steps and state.global_step % self.save_steps == 0
        if args.world_size > 1:  # all stop where the first is told to
            told = torch.tensor(float(self.trainer.told_to_stop), device=args.device)
            self.trainer.told_to_stop = bool(self.trainer.accelerator.reduce(told, "sum"))
        control.should_save |= bool(is_due or self.trainer.told_to_stop)

    def on_save(self, args, state, control, **kwargs):
        if self.trainer.told_to_stop:
            raise KeyboardInterrupt


class EmotionTrainer(RunTrainer):
    """Trainer with a learning rate of its own for new weights, and evaluation in the order given."""

    def __init__(self, *args, new_weights=(), head_lr=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.new_weights, self.head_lr = new_weights, head_lr

    def _get_train_sampler(self, train_dataset=None):
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        lengths = [len(example["input_ids"]) for example in self.train_dataset]
        return LengthGroupedSampler(lengths, self.args.train_batch_size * self.args.world_size, self.args.seed)

    def _get_eval_sampler(self, eval_dataset):
        # Under group_by_length, Trainer would shuffle here, and predictions come back in that order.
        return SequentialSampler(eval_dataset)

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            model = self.model if model is None else model
            decayed = set(self.get_decay_parameter_names(model))
            groups = {}
            for name, parameter in model.named_parameters():
                groups.setdefault((name in self.new_weights, name in decayed), []).append(parameter)
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(
                [
                    {
                        "params": parameters,
                        "lr": self.head_lr if is_new else self.args.learning_rate,
                        "weight_decay": self.args.weight_decay if is_decayed else 0.0,
                    }
                    for (is_new, is_decayed), parameters in groups.items()
                ],
                **kwargs,
            )
        return self.optimizer


class Progress(TrainerCallback):
    """A bar with loss and speed while an epoch runs, and a line for the log when it has been evaluated."""

    trained = ""  # where the epoch ran before this process

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.losses, self.first_step, self.started = [], state.global_step, time.perf_counter()
        steps = state.max_steps // state.num_train_epochs
        epoch, done = divmod(state.global_step, steps)
        name = f"epoch {epoch + 1}/{state.num_train_epochs}"
        self.bar = utils.progress_bar(steps, "batch", name, initial=done, leave=False)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()

    def on_log(self, args, state, control, logs, **kwargs):
        if "loss" in logs:
            self.losses.append(logs["loss"])
            self.bar.set_postfix_str(f"loss {logs['loss']:.4f}, {self.lines_per_second(args, state):.0f} lines/s")

    def on_epoch_end(self, args, state, control, **kwargs):
        self.bar.close()
        loss = f"loss {np.mean(self.losses):.4f}, " if self.losses else ""
        self.trained = f"{loss}{self.lines_per_second(args, state):.1f} lines/s; "

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        utils.log.info(
            "epoch %d/%d: %sdev micro-F1 %.4f at its best threshold, %.4f at 0.5",
            round(state.epoch),
            state.num_train_epochs,
            self.trained,
            metrics["eval_micro_f1"],
            metrics["eval_micro_f1_at_0.5"],
        )

    def lines_per_second(self, args, state):
        lines = (state.global_step - self.first_step) * args.train_batch_size * args.world_size
        return lines / (time.perf_counter() - self.started)


def to_probabilities(logits):
    """Sigmoid, rounded to six digits so that a decision on the saved scores is the decision on these."""
    return torch.tensor(logits, dtype=torch.float64).sigmoid().numpy().round(6)


def dev_metrics(prediction):
    """What Trainer chooses the best checkpoint by."""
    return utils.micro_f1_by_rule(prediction.label_ids, to_probabilities(prediction.predictions))


def make_trainer(args, model, tokenizer, new_weights, datasets, precision):
    """The published recipe as a Trainer: AdamW, a tenth of the steps warm-up, linear decay, best epoch by dev micro-F1."""
    train, dev = datasets.get("train"), datasets.get("dev", [])
    training_arguments = TrainingArguments(
        output_dir=args.output_dir / "checkpoints" if train else args.output_dir,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.train_batch_size,
        per_device_eval_batch_size=args.val_batch_size,
        learning_rate=args.lr,
        weight_decay=args.weight_decay,
        warmup_steps=0.1,
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch" if train else "no",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=bool(train),
        metric_for_best_model="micro_f1",
        greater_is_better=True,
        logging_steps=min(10, math.ceil(len(train) / args.train_batch_size)) if train else 10,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not torch.accelerator.is_available(),
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        disable_tqdm=True,
        seed=args.seed,
    )
    return EmotionTrainer(
        model,
        training_arguments,
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=train,
        eval_dataset=[dev[index] for index in utils.longest_first([example["input_ids"] for example in dev])],
        processing_class=tokenizer,
        compute_metrics=dev_metrics,
        callbacks=[Progress()],
        new_weights=new_weights,
        head_lr=args.head_lr,
    )


def describe(trainer, tokenizer, datasets, precision):
    """What was resolved and derived, and one training example as the model reads it, as text for the log."""
    model, settings = trainer.model, trainer.args
    new = sum(parameter.numel() for name, parameter in model.named_parameters() if name in trainer.new_weights)
    lines = [
        f"{type(model).__name__}: {model.num_parameters() / 1e6:.1f} M parameters on {settings.device}, {precision}",
    ]
    if datasets:
        batch = settings.train_batch_size * settings.world_size
        example = datasets["train"][0]
        emotions = [name for name, value in zip(utils.EMOTIONS, example["labels"], strict=True) if value]
        lines += [
            ", ".join(f"{len(examples)} {split} lines" for split, examples in datasets.items()),
            f"{settings.num_train_epochs} epochs of {math.ceil(len(datasets['train']) / batch)} steps of {batch} lines; "
            f"learning rate {settings.learning_rate:g}, {trainer.head_lr:g} for the {new:,} new weights",
            f"first example: {tokenizer.decode(example['input_ids'])} -> {', '.join(emotions) or 'no emotion'}",
        ]
    return "\n".join(lines)


def predict(trainer, examples):
    """Probabilities of the emotions, shape [examples, 8], in the order of the examples."""
    order = utils.longest_first([example["input_ids"] for example in examples])
    logits = trainer.predict([examples[index] for index in order]).predictions
    probabilities = np.empty(logits.shape)
    probabilities[order] = to_probabilities(logits)
    return probabilities


def predict_file(trainer, tokenizer, path):
    """Yield (rows, probabilities [rows, 8]) of a corpus file, window by window."""
    for rows in utils.windows(path):
        yield rows, predict(trainer, tokenize(rows, tokenizer, trainer.model.config))
        trainer.accelerator.free_memory()  # it keeps every data loader, and with it the window


def main(args, corpora, model_class):
    """Data, model, training, decision rule, predictions: the recipe of both BERT approaches."""
    utils.check_devices()
    transformers.set_seed(args.seed)
    tokenizer, model, new_weights = load_model(args, model_class)
    datasets = (
        {} if args.model_ckpt_path else {split: tokenize(rows, tokenizer, model.config) for split, rows in corpora.items()}
    )
    precision = resolve_precision(args.precision)
    trainer = make_trainer(args, model, tokenizer, new_weights, datasets, precision)
    run = utils.start_run(args, corpora, trainer.args.device)
    utils.log.info(describe(trainer, tokenizer, datasets, precision))

    if args.model_ckpt_path:
        threshold = utils.checkpoint_threshold(args)
        chunks = {split: predict_file(trainer, tokenizer, getattr(args, f"{split}_file")) for split in corpora}
    else:
        utils.warn_of_repeats(corpora)
        for example, row in zip(datasets["train"], corpora["train"], strict=True):
            example["id"] = row["id"]  # to name the lines of a loss that is not finite
        trainer.train(utils.last_whole_checkpoint(args.output_dir) if args.resume else None)
        trainer.save_best(args.output_dir / "best", tokenizer)
        scores = {split: predict(trainer, datasets[split]) for split in corpora if split != "train"}
        threshold = utils.choose_threshold(args, utils.encode_labels(corpora["dev"]), scores["dev"])
        chunks = {split: [(corpora[split], values)] for split, values in scores.items()}
    utils.evaluate_and_write(args, chunks, threshold)
    utils.finish_run(args, run)
    trainer.accelerator.end_training()


if __name__ == "__main__":
    with utils.errors_for_people(parser, args):
        main(args, corpora, MeanPoolingClassifier if args.pooling == "mean" else AutoModelForSequenceClassification)
