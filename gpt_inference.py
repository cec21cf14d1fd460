"""Tell which of eight emotions a Korean sentence shows towards its target with a model fine-tuned by gpt_train.py.

The presence of each emotion is decided from the probability that the model goes on from the prompt to its answer.

    python gpt_inference.py --model-ckpt-path outputs/gpt_train/best
                                         predict the dev file, and the test file if there is one
    python gpt_inference.py --model-ckpt-path outputs/gpt_train/best --test-file FILE --output-dir DIR
    python gpt_inference.py --sample     predict the sample corpus with the newest run of gpt_train.py --sample
"""

import utils

parser = utils.ArgumentParser(__doc__)
_, group = utils.add_shared_arguments(parser, "gpt_inference")
group.add_argument("--model", help="the base model that the adapter belongs on; default: the one that the checkpoint names")
group.add_argument(
    "--batch-size", metavar="N", type=utils.number(int, 1), default=16, help="lines scored at once; default: %(default)s"
)
group.add_argument(
    "--precision",
    choices=("fp32", "bf16"),
    default="fp32",
    help="fp32: a score does not depend on the batch; bf16: up to twice as fast, and it does, in the second digit; "
    "default: %(default)s",
)

if __name__ == "__main__":  # a wrong argument or file is told before the seconds that the imports below take
    args, lines = utils.parse_arguments(parser, utils.check_adapter)

import contextlib
import json

import accelerate
import numpy as np
import peft
import torch
import transformers
from bitsandbytes.nn import Linear4bit
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, DynamicCache

BASE_LOGIT = -1.7  # of an emotion that one line in six shows, which is about what the corpora have
VOCABULARY_CHUNK = 8192  # rows of the head that are held in float32 at a time


class Prompt:
    """The prompt in tokens: a beginning that all lines share, what is each line's own, and the answers.

    Text, target and the words around them are tokenised apart, so that nothing in a text can pass for a part of the prompt.
    A text too long for `max_length` tokens is cut, and nothing else.

    Args:
        strings: a value of `utils.PROMPTS`.
        max_length: the longest prompt with its answer, in tokens.

    Raises:
        utils.InputError: the tokenizer cannot tell the answers apart, or the prompt alone is too long.
    """

    def __init__(self, strings, tokenizer, max_length):
        self.tokenizer, self.strings, self.max_length = tokenizer, strings, max_length
        begins = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
        self.prefix_ids = [tokenizer.bos_token_id] * begins + self.tokenize(strings["prefix"])[0]
        self.answer_ids = self.tokenize(*strings["answers"])
        self.room = max_length - len(self.prefix_ids) - max(map(len, self.answer_ids))
        if self.room < 1:
            raise utils.InputError(
                f"--max-length {max_length}: the prompt alone takes {max_length - self.room} tokens; give more"
            )
        for index, answer in enumerate(self.answer_ids):
            for other, ids in enumerate(self.answer_ids):
                if index != other and ids[: len(answer)] == answer:
                    one, two = (repr(strings["answers"][number]) for number in (index, other))
                    raise utils.InputError(f"the tokenizer cannot tell the answers {one} and {two} apart; take another model")

    def save(self, directory, objective, config):
        """Write what a checkpoint needs to ask as it was asked in training, and the base's measures: `prompt.json`."""
        settings = {"objective": objective, "max_length": self.max_length, "strings": self.strings, "base": measures(config)}
        utils.write_json(directory / "prompt.json", settings)

    def tokenize(self, *texts):
        """Token ids of each text; what looks like a special token is read as plain text."""
        return self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def encode(self, rows):
        """The token ids of each row after the shared beginning: text, target, and what calls for the answer.

        Raises:
            utils.InputError: a target, or the end of the prompt, leaves no room for the text.
        """
        pairs = [utils.text_and_target(row) for row in rows]
        texts = self.tokenize(*(text for text, _ in pairs))
        ends = self.tokenize(
            *((self.strings["target"] + target if target else "") + self.strings["response"] for _, target in pairs)
        )
        for row, end in zip(rows, ends, strict=True):
            if len(end) >= self.room:
                message = f"input.target.form: leaves no room for the text in {self.max_length} tokens"
                raise utils.InputError(f"id {row['id']!r}: {message}; shorten it, or give a greater --max-length")
        return [text[: self.room - len(end)] + end for text, end in zip(texts, ends, strict=True)]

    def lay_out(self, suffix):
        """One line in tokens, and behind it the answers of several tokens without their last, each to see the line and itself.

        So one pass gives the probability of every answer. Positions count from the shared beginning on.

        Returns:
            Lists: `input_ids`, `position_ids`, `branch` (the answer that a token belongs to, or -1), and `kept`, the indices
            of the tokens that foretell a token of an answer.
        """
        end = len(self.prefix_ids) + len(suffix)
        input_ids, position_ids = list(suffix), list(range(len(self.prefix_ids), end))
        branch, kept = [-1] * len(suffix), [len(suffix) - 1]
        for answer, ids in enumerate(self.answer_ids):
            kept += range(len(input_ids), len(input_ids) + len(ids) - 1)
            input_ids += ids[:-1]
            position_ids += range(end, end + len(ids) - 1)
            branch += [answer] * (len(ids) - 1)
        return input_ids, position_ids, branch, kept

    def pack(self, suffixes):
        """Lay lines behind one another in one row, each seeing the shared beginning and itself alone: no padding.

        Args:
            suffixes: the token ids of each line, from `encode`.

        Returns:
            Inputs of the model: `input_ids` and `position_ids` [1, length], `attention_mask` [1, 1, length, length], True
            where a token may look, and `logits_to_keep` [1, lines * slots], the positions that foretell answer tokens.
        """
        row = list(self.prefix_ids)
        positions, line, branch, kept = list(range(len(row))), [-1] * len(row), [-1] * len(row), []
        for number, suffix in enumerate(suffixes):
            input_ids, position_ids, branches, slots = self.lay_out(suffix)
            kept += [len(row) + slot for slot in slots]
            row += input_ids
            positions += position_ids
            line += [number] * len(input_ids)
            branch += branches
        return {
            "input_ids": torch.tensor([row]),
            "position_ids": torch.tensor([positions]),
            "attention_mask": visibility(torch.tensor([line]), torch.tensor([branch])),
            "logits_to_keep": torch.tensor([kept]),
        }

    def batch(self, suffixes):
        """Lay each line in a row of its own, padded on the right, the shared beginning left to a `PrefixCache`.

        Returns:
            As `pack`, with a row for each line, and the shared beginning in front of the keys of `attention_mask`.
        """
        input_ids, position_ids, branch, kept = zip(*map(self.lay_out, suffixes), strict=True)
        branch = padded(branch, value=-2)
        visible = visibility(torch.zeros_like(branch), branch)
        return {
            "input_ids": padded(input_ids),
            "position_ids": padded(position_ids),
            "attention_mask": nn.functional.pad(visible, (len(self.prefix_ids), 0), value=True),
            "logits_to_keep": torch.tensor(kept),
        }


def measures(config):
    """What an adapter's base has to agree in."""
    return {name: getattr(config, name, None) for name in ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")}


def padded(rows, value=0):
    """Lists of numbers as one tensor, short ones filled up with `value`."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def visibility(line, branch):
    """Which tokens see which: earlier ones of the same line and branch, or of none (-1).

    Args:
        line, branch: [rows, length].

    Returns:
        A boolean attention mask, [rows, 1, length, length].
    """
    visible = (line[:, None, :] == -1) | (line[:, None, :] == line[:, :, None])
    visible &= (branch[:, None, :] == -1) | (branch[:, None, :] == branch[:, :, None])
    return visible.tril()[:, None]


class AnswerHead(nn.Module):
    """Takes the place of a causal language model's head, and gives the log-probabilities of the answers alone.

    The product with the vocabulary, which the normalisation needs, is made in float32 a part at a time and never kept. In
    evaluation it is left out where each answer is one token: it then adds the same to all nine, and no score depends on that.

    Args:
        head: the model's own, `weight` [vocabulary, hidden]; it stays in the type that it was loaded in.
        answer_ids: the token ids of each answer.
    """

    def __init__(self, head, answer_ids):
        super().__init__()
        self.weight, self.bias = head.weight, getattr(head, "bias", None)
        slots, first_free = [], 1  # slot 0 is the end of the line, which foretells the first token of every answer
        for ids in answer_ids:
            slots.append([0, *range(first_free, first_free + len(ids) - 1)])
            first_free += len(ids) - 1
        self.slots_of_a_line = first_free
        self.answer_ids = nn.Buffer(padded(answer_ids), persistent=False)  # [answers, longest]
        self.slots = nn.Buffer(padded(slots), persistent=False)
        self.is_token = nn.Buffer(padded([[1.0] * len(ids) for ids in answer_ids]), persistent=False)

    def forward(self, hidden):
        """Hidden states at the kept positions, [1, lines * slots, hidden] or [lines, slots, hidden], to [lines, answers]."""
        hidden = hidden.float().view(-1, self.slots_of_a_line, hidden.shape[-1])
        logits = torch.einsum("latx,atx->lat", hidden[:, self.slots], self.weight[self.answer_ids].float())
        if self.bias is not None:
            logits = logits + self.bias[self.answer_ids].float()
        if self.training or self.slots_of_a_line > 1:
            logits = logits - self.log_normaliser(hidden)[:, self.slots]
        return (logits * self.is_token).sum(-1)

    def log_normaliser(self, hidden):
        """log of the sum over the vocabulary of exp(logit), shape [lines, slots]."""

        def part(rows):
            bias = None if self.bias is None else self.bias[rows].float()
            return nn.functional.linear(hidden, self.weight[rows].float(), bias).logsumexp(-1)

        starts = range(0, len(self.weight), VOCABULARY_CHUNK)
        parts = [checkpoint(part, slice(start, start + VOCABULARY_CHUNK), use_reentrant=False) for start in starts]
        return torch.stack(parts).logsumexp(0)


class PrefixCache(DynamicCache):
    """Keys and values of the shared beginning, filled by the first pass and only read by later ones."""

    filled = False

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        if not self.filled:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        layer, rows = self.layers[layer_idx], len(key_states)
        keys, values = (shared.expand(rows, -1, -1, -1) for shared in (layer.keys, layer.values))
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def load_base(path):
    """The causal language model at `path` in 4 bits (NF4, double quantisation).

    Embeddings, norms and head stay in bfloat16, in which the model computes.

    Raises:
        utils.InputError: the model cannot be loaded.
    """
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    transformers.utils.logging.disable_progress_bar()
    with utils.loading(path):
        model = AutoModelForCausalLM.from_pretrained(
            path,
            quantization_config=quantization,
            dtype=torch.bfloat16,
            device_map={"": accelerate.PartialState().device},
            trust_remote_code=False,
        )
    model.config.use_cache = False  # PrefixCache is given where one is wanted
    return model


def with_answer_head(model, answer_ids):
    """Put an AnswerHead in the place of the head of a causal language model."""
    head = model.get_output_embeddings()
    model.set_output_embeddings(AnswerHead(head, answer_ids).to(head.weight.device))
    return model


def load_checkpoint(directory, base):
    """The prompt of a checkpoint of gpt_train.py, and its adapter on the model that it belongs on, `base`.

    Returns:
        (model, prompt, objective)

    Raises:
        utils.InputError: the checkpoint does not fit the base, or one of them cannot be loaded.
    """
    settings = json.loads((directory / "prompt.json").read_text(encoding="utf-8"))
    with utils.loading(directory):
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    with utils.loading(base):
        found, wanted = measures(AutoConfig.from_pretrained(base, trust_remote_code=False)), settings["base"]
    for name, value in found.items():
        if value != wanted.get(name):
            raise utils.InputError(
                f"{directory}: fits a base with {name} {wanted.get(name)}, and {base} has {value}; give another --model"
            )
    if len(tokenizer) > found["vocab_size"]:
        raise utils.InputError(
            f"{directory}: its tokenizer has {len(tokenizer)} tokens, {base} {found['vocab_size']}; give best/ of a run"
        )
    prompt = Prompt(settings["strings"], tokenizer, settings["max_length"])
    model = with_answer_head(load_base(base), prompt.answer_ids)
    with utils.loading(directory):
        model = peft.PeftModel.from_pretrained(model, directory)
    return model, prompt, settings["objective"]


@contextlib.contextmanager
def evaluating(model, precision="fp32"):
    """Inside, the model is in evaluation mode and computes in float32, or in the type that it was loaded in.

    In bfloat16, the order of additions, which follows the shape of a batch, shows in the second digit of a score. Weights
    stay as they are stored, but for norms and biases.
    """
    was_training = model.training
    quantized = [module for module in model.modules() if isinstance(module, Linear4bit)]
    model.eval()
    for linear in quantized:
        linear.train()  # else bitsandbytes repacks for a kernel of its own, slower on a batch, and deaf to gradients later
    if precision == "fp32":
        vectors = [p for p in model.parameters() if p.ndim == 1 and p.dtype == torch.bfloat16]
        hook = model.get_input_embeddings().register_forward_hook(lambda module, inputs, embedded: embedded.float())
        set_types(quantized, vectors, torch.float32)
    try:
        yield
    finally:
        if precision == "fp32":
            hook.remove()
            set_types(quantized, vectors, torch.bfloat16)
        model.train(was_training)


def set_types(quantized, vectors, dtype):
    """Let 4-bit layers compute in `dtype`, and norms and biases be stored in it."""
    for linear in quantized:
        linear.compute_dtype = dtype
    for vector in vectors:
        vector.data = vector.data.to(dtype)


@torch.inference_mode()
def run_prefix(model, prompt):
    """The keys and values of the prompt's shared beginning, to give to every batch."""
    cache = PrefixCache()
    decoder = getattr(model, "get_base_model", lambda: model)().base_model
    decoder(input_ids=torch.tensor([prompt.prefix_ids], device=model.device), past_key_values=cache, use_cache=True)
    cache.filled = True
    return cache


def emotion_logits(log_probabilities):
    """A logit for each emotion, [lines, 9] to [lines, 8]: its answer's above the mean of all nine, from a base rate on.

    The answer that there is none counts in the mean, so that all eight can be low.
    """
    return (log_probabilities - log_probabilities.mean(-1, keepdim=True))[:, :-1] + BASE_LOGIT


def to_scores(log_probabilities, objective):
    """Log-probabilities of the answers [lines, 9] to the scores of the emotions [lines, 8].

    answer: the probabilities of the eight answers, normalised. multilabel: a sigmoid for each.
    """
    if objective == "answer":
        return log_probabilities[:, :-1].softmax(-1)
    return emotion_logits(log_probabilities).sigmoid()


def batches_of_like_length(suffixes, order, batch_size):
    """Yield the indices of `order`, longest lines first, in batches; one ends early rather than pad a line by a third."""
    batch = []
    for index in order:
        if len(batch) == batch_size or (batch and len(suffixes[index]) < 0.75 * len(suffixes[batch[0]])):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.inference_mode()
def score(model, prompt, objective, suffixes, cache, batch_size, bar):
    """Scores of the emotions for lines given as token ids, float64 [lines, 8], in their order.

    Call it inside `evaluating`. Several processes share the lines out, and each gets the scores of all.
    """
    state = accelerate.PartialState()
    mine = utils.longest_first(suffixes)[state.process_index :: state.num_processes]
    scored = {}
    for batch in batches_of_like_length(suffixes, mine, batch_size):
        inputs = prompt.batch([suffixes[index] for index in batch])
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        log_probabilities = model(**inputs, past_key_values=cache, use_cache=True).logits
        scored |= zip(batch, to_scores(log_probabilities.double(), objective).tolist(), strict=True)
        bar.update(len(batch) * state.num_processes)
    for others in accelerate.utils.gather_object([scored]):
        scored |= others
    scores = np.array([scored[index] for index in range(len(suffixes))])
    return scores.round(6)  # as they are written, so that a decision on the file is the decision here


def score_file(path, lines, model, prompt, objective, cache, batch_size):
    """Read a corpus file window by window; yield (rows, scores [rows, 8]) of each, in the order of the file."""
    with utils.progress_bar(lines, "line", path.name) as bar:
        for rows in utils.windows(path):
            yield rows, score(model, prompt, objective, prompt.encode(rows), cache, batch_size, bar)


def main(args, lines):
    """Model, scores, decision rule, predictions."""
    utils.check_devices()
    model, prompt, objective = load_checkpoint(args.model_ckpt_path, args.model)
    run = utils.start_run(args, lines, model.device)
    threshold = utils.checkpoint_threshold(args)
    with evaluating(model, args.precision):
        cache = run_prefix(model, prompt)
        chunks = {
            split: score_file(getattr(args, f"{split}_file"), count, model, prompt, objective, cache, args.batch_size)
            for split, count in lines.items()
        }
        utils.evaluate_and_write(args, chunks, threshold)
    utils.finish_run(args, run)
    accelerate.PartialState().destroy_process_group()


if __name__ == "__main__":
    with utils.errors_for_people(parser, args):
        main(args, lines)
