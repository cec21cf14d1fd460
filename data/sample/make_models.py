"""Make the tiny model of the sample: a RoBERTa laid out as klue/roberta-large is, small enough to stand in the repository.

    python data/sample/make_models.py --extra FILE

It is pretrained here on the texts of train.jsonl and of FILE (a labelled corpus file): masked language modelling, and, on
FILE alone, telling the emotions from [CLS], without which [CLS] would mean nothing after so little text. dev.jsonl and
test.jsonl are not read. data/README.md says which FILE made the model that is shipped.
"""

import argparse
import random
import sys
from pathlib import Path

import torch
import transformers
from tokenizers import BertWordPieceTokenizer
from torch import nn
from transformers import BertTokenizer, DataCollatorForLanguageModeling, RobertaConfig, RobertaForMaskedLM
from transformers.trainer_pt_utils import get_length_grouped_indices

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
import utils

SPECIAL = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]


def train_tokenizer(texts, vocab_size):
    """A cased WordPiece tokenizer with the special tokens in the order of klue/roberta-large."""
    # Lowercasing would also strip accents, and with them take Hangul apart.
    trainer = BertWordPieceTokenizer(lowercase=False, strip_accents=False)
    trainer.train_from_iterator(texts, vocab_size=vocab_size, min_frequency=2, special_tokens=SPECIAL, limit_alphabet=2000)
    return BertTokenizer(vocab=trainer.get_vocab(), do_lower_case=False, strip_accents=False, model_max_length=512)


def pretrain_roberta(texts, labels, tokenizer, args):
    """Masked language modelling over `texts`, and binary cross-entropy from [CLS] over those that have `labels`.

    Args:
        labels: one row of eight for each text; NaN where a text has none.
    """
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=4,
        intermediate_size=4 * args.hidden,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        initializer_range=args.init,
        bos_token_id=tokenizer.cls_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    model = RobertaForMaskedLM(config)
    classify = nn.Linear(args.hidden, len(utils.EMOTIONS))
    parameters = [*model.parameters(), *classify.parameters()]
    input_ids = tokenizer(texts, truncation=True, max_length=args.length)["input_ids"]
    mask = DataCollatorForLanguageModeling(tokenizer)
    lengths = [len(ids) for ids in input_ids]
    steps_per_epoch = -(-len(texts) // args.batch_size)
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.epochs * steps_per_epoch, pct_start=0.05
    )
    model.train()
    for epoch in range(args.epochs):
        order = get_length_grouped_indices(lengths, args.batch_size)
        batches = [order[start : start + args.batch_size] for start in range(0, len(order), args.batch_size)]
        random.shuffle(batches)
        mlm_sum = emotion_sum = 0.0
        for batch in batches:
            inputs = mask([{"input_ids": input_ids[index]} for index in batch])
            output = model(**inputs, output_hidden_states=True)
            targets = labels[batch]
            known = ~targets[:, 0].isnan()
            logits = classify(nn.functional.dropout(output.hidden_states[-1][:, 0], 0.1))
            emotion = nn.functional.binary_cross_entropy_with_logits(logits[known], targets[known])
            emotion = torch.nan_to_num(emotion)  # a batch without labels
            (output.loss + args.emotion_weight * emotion).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            mlm_sum += output.loss.item()
            emotion_sum += emotion.item()
        print(f"epoch {epoch + 1}: MLM {mlm_sum / len(batches):.3f}, emotions {emotion_sum / len(batches):.3f}", flush=True)
    return model.roberta


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", type=Path, required=True, help="a labelled corpus file to pretrain on")
    parser.add_argument("--train", type=Path, default=HERE / "train.jsonl")
    parser.add_argument("--output-dir", type=Path, default=HERE / "roberta-tiny")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--init", type=float, default=0.05)
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=4000)
    parser.add_argument("--length", type=int, default=96)
    parser.add_argument("--emotion-weight", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    transformers.set_seed(args.seed)

    train, extra = utils.read_corpus(args.train), utils.read_corpus(args.extra, labelled=True)
    texts = [utils.normalise_text(row["input"]["form"]) for row in train + extra]
    labels = torch.cat([torch.full((len(train), len(utils.EMOTIONS)), torch.nan), torch.tensor(utils.encode_labels(extra))])
    tokenizer = train_tokenizer(texts, args.vocab)
    model = pretrain_roberta(texts, labels, tokenizer, args)
    model.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    size = sum(file.stat().st_size for file in args.output_dir.iterdir())
    print(f"{args.output_dir}: {model.num_parameters():,} parameters, {size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
