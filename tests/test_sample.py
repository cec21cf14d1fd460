"""The sample corpus and its model are what data/README.md says."""

import collections
import csv
import itertools
import re

import pytest
from conftest import EMOTIONS, ROOT, call, write_rows
from sample import make_models
from sklearn.metrics import cohen_kappa_score
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, BertTokenizer, RobertaModel

import utils
from emotion import data

LINES = {"train": 600, "dev": 150, "test": 150}
README = (ROOT / "data" / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def corpus():
    files = {"train": "train.jsonl", "dev": "dev.jsonl", "test": "test.labels.jsonl"}
    rows = {
        split: utils.read_corpus(utils.SAMPLE / name, labelled=True)
        for split, name in files.items()
    }
    assert all(utils.labels_of(lines) == EMOTIONS for lines in rows.values())
    return rows


def grams(text, n=5):
    return {text[start : start + n] for start in range(len(text) - n + 1)} or {text}


def test_the_files_are_in_order(corpus, caplog):
    for split in LINES:
        data.summarise(utils.SAMPLE / f"{split}.jsonl", EMOTIONS)
    assert not caplog.messages  # nothing to warn of
    data.check_ids([row for rows in corpus.values() for row in rows], "the sample")


def test_the_test_file_is_that_with_labels_without_them(corpus):
    bare = utils.read_corpus(utils.SAMPLE / "test.jsonl")
    assert bare == [row | {"output": ""} for row in corpus["test"]]


def test_counts(corpus):
    for split, lines in LINES.items():
        labels = utils.encode_labels(corpus[split], EMOTIONS)
        assert len(labels) == lines
        assert labels.sum(0).min() >= (60 if split == "train" else 15)
        assert (labels.sum(1) >= 2).sum() >= lines / 6
        assert sum(row["input"]["target"]["form"] is None for row in corpus[split]) >= lines / 15
        counts = " | ".join(str(int(count)) for count in labels.sum(0))
        assert f"| {split} | {lines} | {counts} |" in README


def test_spans_point_at_their_targets(corpus):
    for row in itertools.chain(*corpus.values()):
        target = row["input"]["target"]
        if target["form"] is not None:
            assert row["input"]["form"][target["begin"] : target["end"]] == target["form"]


def test_no_two_sentences_are_alike_and_those_with_two_targets_differ_in_emotion(corpus):
    by_form = collections.defaultdict(list)
    for split, rows in corpus.items():
        for row in rows:
            given = row["input"]
            by_form[given["form"]].append((split, given["target"]["form"], row["output"]))
    pairs = [lines for lines in by_form.values() if len(lines) > 1]
    assert len(pairs) >= 30
    for (split, target, output), (other_split, other_target, other_output) in pairs:
        assert split == other_split and target != other_target and output != other_output
    sets = {form: grams(form) for form in by_form}
    for one, other in itertools.combinations(sets, 2):
        shared = len(sets[one] & sets[other]) / min(len(sets[one]), len(sets[other]))
        assert shared <= 0.25, (one, other)


def test_the_agreement_in_the_readme_is_that_of_the_two_readers(corpus):
    with (utils.SAMPLE / "annotations.tsv").open(encoding="utf-8", newline="") as file:
        readings = list(csv.DictReader(file, delimiter="\t"))
    rows = [row for split in LINES for row in corpus[split]]
    assert [reading["id"] for reading in readings] == [row["id"] for row in rows]
    for row, reading in zip(rows, readings, strict=True):
        present = [name for name in EMOTIONS if row["output"][name] == "True"]
        assert reading["settled"] == (",".join(present) or "none")
        if reading["reader_a"] == reading["reader_b"]:
            assert reading["settled"] == reading["reader_a"]
    for name in EMOTIONS:
        marked = [
            [name in reading[reader].split(",") for reading in readings]
            for reader in ("reader_a", "reader_b")
        ]
        assert f"| {name} | {cohen_kappa_score(*marked):.3f} |" in README
    differ = sum(reading["reader_a"] != reading["reader_b"] for reading in readings)
    assert f"differed on {differ} of the 900 lines" in README


def test_the_tiny_roberta_is_laid_out_as_the_published_one():
    directory = utils.SAMPLE / "roberta-tiny"
    assert sum(file.stat().st_size for file in directory.iterdir()) <= 4 * 2**20
    tokenizer = AutoTokenizer.from_pretrained(directory)
    config = RobertaModel.from_pretrained(directory).config
    assert isinstance(tokenizer, BertTokenizer)
    special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
    assert tokenizer.convert_tokens_to_ids(special) == [0, 1, 2, 3, 4]
    assert tokenizer.model_max_length == 512
    assert (config.max_position_embeddings, config.type_vocab_size) == (514, 1)
    assert config.pad_token_id == 1
    probe = tokenizer.tokenize("오늘 급식 진짜 맛있다 ABC")
    assert "[UNK]" not in probe and "".join(probe).replace("##", "") == "오늘급식진짜맛있다ABC"


@pytest.mark.parametrize(
    ("student", "kind"), [("roberta-tiny", AutoModel), ("gpt-neox-tiny", AutoModelForCausalLM)]
)
def test_the_tiny_models_can_be_made(student, kind, tmp_path, monkeypatch):
    rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")[:60]
    write_rows(tmp_path / "train.jsonl", rows[:30])
    extra = write_rows(tmp_path / "extra.jsonl", rows[30:])
    monkeypatch.setattr(make_models, "HERE", tmp_path)
    monkeypatch.setattr(make_models, "HELD_OUT", 20)
    given = ["--teacher", utils.SAMPLE / "roberta-tiny", "--extra", extra]
    outcome = call("sample.make_models", student, *given, "--spans", 1, "--epochs", 1)
    assert re.search(r"^epoch 1: cosine .* spans -?0\.\d+$", outcome.stdout, re.MULTILINE)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / student)
    model = kind.from_pretrained(tmp_path / student)
    assert len(tokenizer) == model.config.vocab_size
