"""Make the tiny model of the sample: a RoBERTa laid out as klue/roberta-large is, small enough to stand in the repository.

    python data/sample/make_models.py --teacher DIR --extra FILE

Six hundred lines teach a model of this size nothing about Korean, so it learns from a larger encoder first: from the text of
train.jsonl and of FILE (a labelled corpus file) spans of words are drawn, and its [CLS] learns to say of each what the
teacher's mean-pooled representation says; on whole lines of FILE it learns to tell their emotions as well. dev.jsonl and
test.jsonl are not read. data/README.md says which DIR and FILE made the model that is shipped. Ten minutes on two cores.
"""

import argparse
import random
import sys
from pathlib import Path

import torch
import transformers
from tokenizers import BertWordPieceTokenizer
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer, BertTokenizer, RobertaConfig, RobertaModel
from transformers.trainer_pt_utils import get_length_grouped_indices

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
import utils

SPECIAL_TOKENS = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]  # in the order of klue/roberta-large
LONGEST = 64  # tokens of a span that are read
HELD_OUT = 500  # spans that only measure


def train_tokenizer(texts, vocab_size):
    """A cased WordPiece tokenizer."""
    # Lowercasing would strip accents too, and with them take Hangul apart.
    trainer = BertWordPieceTokenizer(lowercase=False, strip_accents=False)
    trainer.train_from_iterator(texts, vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS, limit_alphabet=2000)
    return BertTokenizer(vocab=trainer.get_vocab(), do_lower_case=False, strip_accents=False, model_max_length=512)


def draw_spans(text, count, rng):
    """`count` runs of one to six words of `text`, and its first 24 words."""
    words = text.split()
    yield " ".join(words[:24])
    for _ in range(count):
        start = rng.randrange(len(words))
        yield " ".join(words[start : start + rng.choice((1, 1, 2, 2, 3, 4, 6))])


@torch.no_grad()
def teach(directory, texts, batch_size=128):
    """What the teacher says of the texts: unit vectors around their mean, shape [texts, teacher's hidden size]."""
    tokenizer, teacher = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory).eval()
    said = torch.empty(len(texts), teacher.config.hidden_size)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in tqdm(range(0, len(order), batch_size), desc="teacher", disable=None):
        batch = order[start : start + batch_size]
        # multilingual-e5 was trained with this word before every text
        inputs = tokenizer([f"query: {texts[index]}" for index in batch], padding=True, truncation=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            hidden = teacher(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"].unsqueeze(-1)
        said[batch] = (hidden * mask).sum(1) / mask.sum(1)
    said = F.normalize(said, dim=-1)
    return F.normalize(said - said.mean(0), dim=-1)


def distil(tokenizer, spans, said, labels, args):
    """Train a RobertaModel so that a linear layer on its [CLS] points where the teacher does.

    Args:
        said: unit vectors, shape [spans, teacher's hidden size].
        labels: shape [spans, 8], NaN where a span is no whole labelled line; learnt by binary cross-entropy beside.
    """
    model = RobertaModel(
        RobertaConfig(
            vocab_size=len(tokenizer),
            hidden_size=args.hidden,
            num_hidden_layers=args.layers,
            num_attention_heads=4,
            intermediate_size=4 * args.hidden,
            max_position_embeddings=514,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            initializer_range=0.05,
            bos_token_id=tokenizer.cls_token_id,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.sep_token_id,
        ),
        add_pooling_layer=False,
    )
    to_teacher, to_emotions = nn.Linear(args.hidden, said.shape[1]), nn.Linear(args.hidden, len(utils.EMOTIONS))
    parameters = [*model.parameters(), *to_teacher.parameters(), *to_emotions.parameters()]
    input_ids = tokenizer(spans, truncation=True, max_length=LONGEST)["input_ids"]

    def losses(batch):
        inputs = tokenizer.pad({"input_ids": [input_ids[index] for index in batch]}, return_tensors="pt")
        cls = model(**inputs).last_hidden_state[:, 0]
        distance = 1 - (F.normalize(to_teacher(cls), dim=-1) * said[batch]).sum(-1).mean()
        known = ~labels[batch, 0].isnan()
        if not known.any():
            return distance, torch.zeros(())
        return distance, F.binary_cross_entropy_with_logits(to_emotions(F.dropout(cls))[known], labels[batch][known])

    shuffled = torch.randperm(len(spans)).tolist()
    held_out, rest = shuffled[:HELD_OUT], shuffled[HELD_OUT:]
    lengths = [len(input_ids[index]) for index in rest]
    steps = args.epochs * -(-len(rest) // args.batch_size)
    optimizer = torch.optim.AdamW(parameters, lr=args.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=steps, pct_start=0.05)
    for epoch in range(args.epochs):
        order = [rest[position] for position in get_length_grouped_indices(lengths, args.batch_size)]
        batches = [order[start : start + args.batch_size] for start in range(0, len(order), args.batch_size)]
        random.shuffle(batches)
        model.train()
        for batch in tqdm(batches, desc=f"epoch {epoch + 1}/{args.epochs}", leave=False, disable=None):
            sum(losses(batch)).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            print(
                f"epoch {epoch + 1}: cosine to the teacher on held-out spans {1 - losses(held_out)[0].item():.3f}", flush=True
            )
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="an encoder that reads Korean, for mean pooling: multilingual-e5")
    parser.add_argument("--extra", type=Path, required=True, help="a labelled corpus file to learn from beside train.jsonl")
    parser.add_argument("--output-dir", type=Path, default=HERE / "roberta-tiny")
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vocab-size", type=int, default=4000)
    parser.add_argument("--spans", type=int, default=10, help="drawn from each line")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    transformers.set_seed(args.seed)
    transformers.utils.logging.disable_progress_bar()
    utils.quiet_libraries()

    train, extra = utils.read_corpus(HERE / "train.jsonl"), utils.read_corpus(args.extra, labelled=True)
    texts = [utils.normalise_text(row["input"]["form"]) for row in train + extra]
    rng = random.Random(args.seed)
    spans = sorted({span for text in texts for span in draw_spans(text, args.spans, rng)})
    whole = dict(zip(texts[len(train) :], utils.encode_labels(extra).tolist(), strict=True))
    labels = torch.tensor([whole.get(span, [torch.nan] * len(utils.EMOTIONS)) for span in spans])
    tokenizer = train_tokenizer(texts, args.vocab_size)
    print(f"{len(texts)} lines, {len(spans)} spans, {len(tokenizer)} tokens", flush=True)

    model = distil(tokenizer, spans, teach(args.teacher, spans), labels, args)
    model.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    size = sum(file.stat().st_size for file in args.output_dir.iterdir())
    print(f"{args.output_dir}: {model.num_parameters():,} parameters, {size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
