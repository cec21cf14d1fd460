"""Make the tiny models of the sample, small enough to stand in the repository.

    python data/sample/make_models.py roberta-tiny --teacher DIR --extra FILE
                                                     laid out as klue/roberta-large is
    python data/sample/make_models.py gpt-neox-tiny --teacher DIR --extra FILE
                                                     laid out as polyglot-ko-12.8b is

Six hundred lines teach a model of this size nothing about Korean, so it learns from a larger
encoder first: from the text of train.jsonl and of FILE (a labelled corpus file) spans of words are
drawn, and its representation ([CLS]; the position that foretells the answer to the prompt) learns
to say of each what the teacher's mean-pooled one says; on whole lines of FILE it learns to tell
their emotions as well. dev.jsonl and test.jsonl are not read. data/README.md says which DIR and
FILE made the models that are shipped. Ten and twenty minutes on two cores.
"""

import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import transformers
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertTokenizer,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import utils
from emotion import answers, cli, process
from emotion.prompt import Prompt, attention_mask
from emotion.prompt_words import KOREAN, make_strings

HERE = Path(__file__).resolve().parent
EMOTIONS = tuple(KOREAN)
SPECIAL_TOKENS = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]  # ordered as klue/roberta-large's
LONGEST = 64  # tokens of a span that are read
HELD_OUT = 500  # spans that only measure


def draw_spans(text: str, count: int, rng: random.Random) -> Iterator[str]:
    """`count` runs of one to six words of `text`, and its first 24 words."""
    words = text.split()
    yield " ".join(words[:24])
    for _ in range(count):
        start = rng.randrange(len(words))
        yield " ".join(words[start : start + rng.choice((1, 1, 2, 2, 3, 4, 6))])


@torch.no_grad()
def teach(directory: str, texts: Sequence[str], batch_size: int = 128) -> torch.Tensor:
    """What the teacher says of the texts: unit vectors around their mean, [texts, its width]."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    teacher = AutoModel.from_pretrained(directory).eval()
    said = torch.empty(len(texts), teacher.config.hidden_size)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in tqdm(range(0, len(order), batch_size), desc="teacher", disable=None):
        batch = order[start : start + batch_size]
        # multilingual-e5 was trained with this word before every text
        queries = [f"query: {texts[index]}" for index in batch]
        inputs = tokenizer(queries, padding=True, truncation=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            hidden = teacher(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"].unsqueeze(-1)
        said[batch] = (hidden * mask).sum(1) / mask.sum(1)
    said = F.normalize(said, dim=-1)
    return F.normalize(said - said.mean(0), dim=-1)


class TinyRoberta(nn.Module):
    """roberta-tiny, with a linear layer on its [CLS] for the emotions while it learns."""

    batch_size, lr = 128, 1e-3

    def __init__(
        self, texts: list[str], hidden: int = 96, layers: int = 3, vocab_size: int = 4000
    ) -> None:
        super().__init__()
        # Lowercasing would strip accents too, and with them take Hangul apart.
        trainer = BertWordPieceTokenizer(lowercase=False, strip_accents=False)
        settings = {"special_tokens": SPECIAL_TOKENS, "limit_alphabet": 2000}
        trainer.train_from_iterator(texts, vocab_size=vocab_size, **settings)
        cased = {"do_lower_case": False, "strip_accents": False}
        vocab = trainer.get_vocab()
        self.tokenizer = BertTokenizer(vocab=vocab, **cased, model_max_length=512)
        self.model = RobertaModel(
            RobertaConfig(
                vocab_size=len(self.tokenizer),
                hidden_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=4,
                intermediate_size=4 * hidden,
                max_position_embeddings=514,
                type_vocab_size=1,
                layer_norm_eps=1e-5,
                initializer_range=0.05,
                bos_token_id=self.tokenizer.cls_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.tokenizer.sep_token_id,
            ),
            add_pooling_layer=False,
        )
        self.to_emotions = nn.Linear(hidden, len(EMOTIONS))

    def encode(self, spans: list[str]) -> list[list[int]]:
        return self.tokenizer(spans, truncation=True, max_length=LONGEST)["input_ids"]

    def forward(self, input_ids: list[list[int]]) -> torch.Tensor:
        """A batch of token ids to a representation of each, [batch, hidden]."""
        inputs = self.tokenizer.pad({"input_ids": input_ids}, return_tensors="pt")
        return self.model(**inputs).last_hidden_state[:, 0]

    def emotion_loss(self, represented: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = self.to_emotions(F.dropout(represented))
        return F.binary_cross_entropy_with_logits(logits, labels)


class TinyGPTNeoX(nn.Module):
    """gpt-neox-tiny, which reads a span in the prompt of the GPT scripts."""

    batch_size, lr = 32, 1e-3

    def __init__(
        self, texts: list[str], hidden: int = 128, layers: int = 4, vocab_size: int = 3600
    ) -> None:
        super().__init__()
        prompt, end = make_strings("ko", EMOTIONS), "<|endoftext|>"
        trainer = ByteLevelBPETokenizer()
        around = [prompt["prefix"], prompt["target"], prompt["response"], *prompt["answers"]]
        often = around * len(texts)  # so that each answer becomes one token
        trainer.train_from_iterator([*texts, *often], vocab_size=vocab_size, special_tokens=[end])
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=trainer,
            eos_token=end,
            pad_token=end,
            model_max_length=2048,
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        )
        self.model = GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=len(self.tokenizer),
                hidden_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=4,
                intermediate_size=4 * hidden,
                max_position_embeddings=2048,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "partial_rotary_factor": 0.5,
                },
                use_parallel_residual=True,
                tie_word_embeddings=False,
                bos_token_id=self.tokenizer.eos_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.eos_token_id,
                initializer_range=0.03,
            )
        )
        self.prompt = Prompt(prompt, self.tokenizer, 2048, vocabulary=len(self.tokenizer))
        self.prompt.room = LONGEST
        self.answers = answers.AnswerHead(self.prompt.answer_ids, answers.HeadFunction())

    def encode(self, spans: list[str]) -> list[list[int]]:
        return self.prompt.encode([{"input": {"form": span}} for span in spans])

    def forward(self, input_ids: list[list[int]]) -> torch.Tensor:
        """A batch of token ids to the hidden states that foretell the answers, [batch, hidden]."""
        inputs = self.prompt.pack(input_ids)
        kept = inputs.pop("kept")[0]
        inputs["attention_mask"] = attention_mask(inputs.pop("line"), inputs.pop("branch"))
        return self.model.gpt_neox(**inputs).last_hidden_state[0, kept]

    def emotion_loss(self, represented: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        # Cross-entropy over a whole vocabulary begins at eight times what the distance to the
        # teacher does, and would drown it.
        found = self.answers(represented, self.model.lm_head)
        return 0.1 * answers.answer_loss(found, labels)


def distil(
    student: TinyRoberta | TinyGPTNeoX,
    spans: list[str],
    said: torch.Tensor,
    labels: torch.Tensor,
    epochs: int,
) -> None:
    """Train a student so that a linear layer on its representation points where the teacher does.

    Args:
        student: a TinyRoberta or a TinyGPTNeoX.
        said: unit vectors, shape [spans, teacher's hidden size].
        labels: shape [spans, 8], NaN where a span is no whole labelled line; learnt beside.
    """
    input_ids = student.encode(spans)
    with torch.no_grad():
        to_teacher = nn.Linear(student(input_ids[:1]).shape[1], said.shape[1])
    parameters = [*student.parameters(), *to_teacher.parameters()]

    def losses(batch: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        represented = student([input_ids[index] for index in batch])
        distance = 1 - (F.normalize(to_teacher(represented), dim=-1) * said[batch]).sum(-1).mean()
        known = ~labels[batch, 0].isnan()
        if not known.any():
            return distance, torch.zeros(())
        return distance, student.emotion_loss(represented[known], labels[batch][known])

    shuffled = torch.randperm(len(spans)).tolist()
    held_out, rest = shuffled[:HELD_OUT], shuffled[HELD_OUT:]
    lengths = [len(input_ids[index]) for index in rest]
    steps = epochs * -(-len(rest) // student.batch_size)
    optimizer = torch.optim.AdamW(parameters, lr=student.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, student.lr, total_steps=steps, pct_start=0.05
    )
    size = student.batch_size
    for epoch in range(epochs):
        order = [rest[position] for position in get_length_grouped_indices(lengths, size)]
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        random.shuffle(batches)
        student.train()
        for batch in tqdm(batches, desc=f"epoch {epoch + 1}/{epochs}", leave=False, disable=None):
            sum(losses(batch)).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        student.eval()
        with torch.no_grad():
            batches = [held_out[start : start + size] for start in range(0, HELD_OUT, size)]
            distance = sum(losses(batch)[0].item() * len(batch) for batch in batches) / HELD_OUT
        told = f"cosine to the teacher on held-out spans {1 - distance:.3f}"
        print(f"epoch {epoch + 1}: {told}", flush=True)


STUDENTS: dict[str, type[TinyRoberta] | type[TinyGPTNeoX]] = {
    "roberta-tiny": TinyRoberta,
    "gpt-neox-tiny": TinyGPTNeoX,
}


def main(argv: Sequence[str] | None = None) -> None:
    process.quiet_libraries()
    parser = cli.ArgumentParser("make_models.py", __doc__)
    parser.add_argument("student", choices=STUDENTS)
    told = "an encoder that reads Korean, for mean pooling: multilingual-e5"
    parser.add_argument("--teacher", required=True, help=told)
    told = "a labelled corpus file to learn from beside train.jsonl"
    parser.add_argument("--extra", type=Path, required=True, help=told)
    told = "where the model's directory is put; default: here"
    parser.add_argument("--output-dir", type=Path, default=HERE, help=told)
    cli.count(parser, "--spans", 10, "drawn from each line")
    cli.count(parser, "--epochs", 14, "how often all spans are seen")
    cli.count(parser, "--seed", 42, "of the spans and of the training", low=0)
    args = parser.parse_args(argv)
    transformers.set_seed(args.seed)
    transformers.utils.logging.disable_progress_bar()

    train = utils.read_corpus(HERE / "train.jsonl")
    extra = utils.read_corpus(args.extra, labelled=True, labels=EMOTIONS)
    texts = [utils.normalise_text(row["input"]["form"]) for row in train + extra]
    rng = random.Random(args.seed)
    spans = sorted({span for text in texts for span in draw_spans(text, args.spans, rng)})
    whole = dict(
        zip(texts[len(train) :], utils.encode_labels(extra, EMOTIONS).tolist(), strict=True)
    )
    labels = torch.tensor([whole.get(span, [torch.nan] * len(EMOTIONS)) for span in spans])
    student = STUDENTS[args.student](texts)
    print(f"{len(texts)} lines, {len(spans)} spans, {len(student.tokenizer)} tokens", flush=True)

    distil(student, spans, teach(args.teacher, spans), labels, args.epochs)
    directory = args.output_dir / args.student
    is_gpt = args.student == "gpt-neox-tiny"
    kept = torch.bfloat16 if is_gpt else torch.float32  # as the models that they are laid out as
    student.model.to(kept).save_pretrained(directory)
    student.tokenizer.save_pretrained(directory)
    size = sum(file.stat().st_size for file in directory.iterdir())
    parameters = student.model.num_parameters()
    print(f"{directory}: {parameters:,} parameters, {size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
