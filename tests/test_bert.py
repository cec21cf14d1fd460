"""The two BERT scripts: inputs, models, and whole runs on the sample as a user makes them."""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, make_row, run_script, write_rows
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    RobertaConfig,
    TrainingArguments,
    XLMRobertaConfig,
)

import bert_GRU
import bert_plain
import utils

MODEL = utils.SAMPLE / "roberta-tiny"
CLASSES = {
    "cls": AutoModelForSequenceClassification,
    "mean": bert_plain.MeanPoolingClassifier,
    "GRU": bert_GRU.GRUClassifier,
}


def load(model_class, model=MODEL, checkpoint=None):
    torch.manual_seed(0)
    return bert_plain.load_model(argparse.Namespace(model=str(model), model_ckpt_path=checkpoint), model_class)


@pytest.fixture(params=CLASSES)
def loaded(request):
    tokenizer, model, new_weights = load(CLASSES[request.param])
    return tokenizer, model.eval(), new_weights


def logits_of(model, batch):
    with torch.no_grad():
        return model(**{name: torch.tensor(values) for name, values in batch.items()}).logits


def test_a_lines_logits_do_not_depend_on_its_batch(loaded):
    """Other lines change the shape of the products, and with it the last bits: of a logit above 1, a share of its size."""
    tokenizer, model, _ = loaded
    rows = [make_row(str(n), form="오늘 급식 최고 " + "정말 좋다 " * n, target="급식") for n in (0, 3, 30, 90)]
    examples = bert_plain.tokenize(rows, tokenizer, model.config)
    inputs = [{name: example[name] for name in ("input_ids", "attention_mask")} for example in examples]
    together = logits_of(model, tokenizer.pad(inputs))
    wider = logits_of(model, tokenizer.pad(inputs, padding="max_length", max_length=512))
    for index, example in enumerate(inputs):
        alone = logits_of(model, {name: [values] for name, values in example.items()})[0]
        padded = logits_of(model, tokenizer.pad([example], padding="max_length", max_length=512))[0]
        assert (alone - padded).abs().max() < 1e-5
        for batch in (together, wider):
            assert (alone - batch[index]).abs().max() < 1e-5 * max(1, alone.abs().max())


def test_every_parameter_is_trained_and_new_weights_are_the_head(loaded):
    tokenizer, model, new_weights = loaded
    [example] = bert_plain.tokenize([make_row()], tokenizer, model.config)
    model(**{name: torch.tensor([values]) for name, values in example.items()}).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert new_weights == {name for name, _ in model.named_parameters() if not name.startswith(model.base_model_prefix)}


def test_a_saved_model_loads_with_the_same_logits(loaded, tmp_path):
    tokenizer, model, _ = loaded
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    inputs = {name: [values] for name, values in tokenizer("오늘 급식 최고", "급식").items() if name != "token_type_ids"}
    assert torch.allclose(logits_of(model, inputs), logits_of(again, inputs), atol=1e-5)
    assert [again.config.id2label[n] for n in range(8)] == list(utils.EMOTIONS)


def test_the_gru_head_has_the_published_shape():
    _, model, _ = load(bert_GRU.GRUClassifier)
    width = model.config.hidden_size + 2 * 2 * 512
    linear = [(layer.in_features, layer.out_features) for layer in model.classifier if isinstance(layer, torch.nn.Linear)]
    assert linear == [(width, 2 * width), (2 * width, 2 * width), (2 * width, 8)]
    assert [layer.p for layer in model.classifier if isinstance(layer, torch.nn.Dropout)] == [0.3, 0.3]
    assert (model.gru.num_layers, model.gru.bidirectional, model.gru.hidden_size, model.gru.dropout) == (2, True, 512, 0.3)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    tokenizer, model, _ = load(bert_plain.MeanPoolingClassifier)
    state = {name: value for name, value in model.state_dict().items() if "layer.1.attention" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(utils.InputError, match="lacks"):
        load(None, checkpoint=tmp_path)


def test_a_foreign_model_is_refused_as_encoder(tmp_path):
    """Weights under names that the architecture does not know would leave the encoder random."""
    tokenizer, model, _ = load(bert_GRU.GRUClassifier)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(utils.InputError, match="lacks"):
        load(bert_plain.MeanPoolingClassifier, model=tmp_path)


def test_truncation_shortens_the_text_and_never_the_target():
    tokenizer, model, _ = load(AutoModelForSequenceClassification)
    target = "맛있는 떡볶이 한 접시"
    rows = [
        make_row("a", form=target + " 정말 좋다" * 1000, target=target),
        make_row("b", form="정말 좋다 " * 1000, target=None),
    ]
    pair, single = bert_plain.tokenize(rows, tokenizer, model.config)
    assert len(pair["input_ids"]) == len(single["input_ids"]) == 512
    target_ids = tokenizer(target, add_special_tokens=False)["input_ids"]
    assert pair["input_ids"][-len(target_ids) - 2 :] == [tokenizer.sep_token_id, *target_ids, tokenizer.sep_token_id]
    long = make_row("c", form="떡볶이 " * 600 + "!", target="떡볶이 " * 600 + "!")
    with pytest.raises(utils.InputError, match=r"'c': input\.target\.form"):
        bert_plain.tokenize([long], tokenizer, model.config)


@pytest.mark.parametrize(
    ("config", "types"), [(RobertaConfig, 1), (XLMRobertaConfig, 1), (BertConfig, 2)], ids=["roberta", "xlm-roberta", "bert"]
)
def test_token_types_go_only_to_models_that_have_them(config, types):
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    config = config(vocab_size=len(tokenizer), type_vocab_size=types, pad_token_id=1, max_position_embeddings=514, num_labels=8)
    config.update({"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16})
    [example] = bert_plain.tokenize([make_row()], tokenizer, config)
    assert ("token_type_ids" in example) == (types > 1)
    model = bert_plain.MeanPoolingClassifier(config)
    logits = logits_of(model, {name: [values] for name, values in example.items() if name != "labels"})
    assert logits.shape == (1, 8)


def test_a_missing_pooler_is_new_and_a_masked_lm_checkpoint_serves_as_encoder(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=1)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    _, _, new_weights = load(AutoModelForSequenceClassification, model=tmp_path)
    assert any("pooler" in name for name in new_weights) and any("classifier" in name for name in new_weights)
    _, model, new_weights = load(bert_GRU.GRUClassifier, model=tmp_path)
    assert not any("encoder." in name for name in new_weights) and model.encoder.pooler is None


def make_trainer(tmp_path, *arguments):
    args = bert_plain.parser.parse_args([*arguments, "--output-dir", str(tmp_path), "--model", str(MODEL)])
    tokenizer, model, new_weights = load(AutoModelForSequenceClassification)
    words = random.Random(0).choices(["정말", "좋다", "싫다", "무섭다", "급식"], k=400)
    rows = [
        make_row(f"{n}", form="급식 " + " ".join(words[:n]), target="급식") for n in random.Random(1).sample(range(400), 96)
    ]
    datasets = {"train": bert_plain.tokenize(rows, tokenizer, model.config)}
    datasets["dev"] = datasets["train"]
    return bert_plain.make_trainer(args, model, tokenizer, new_weights, datasets, "fp32"), datasets


def test_new_weights_learn_at_the_head_rate_and_biases_do_not_decay(tmp_path):
    trainer, _ = make_trainer(tmp_path, "--lr", "1e-5", "--head-lr", "1e-3", "--weight-decay", "0.1")
    groups = trainer.create_optimizer().param_groups
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    assert sorted(names.values()) == sorted(names[p] for group in groups for p in group["params"])
    for group in groups:
        for parameter in group["params"]:
            name = names[parameter]
            assert group["lr"] == (1e-3 if name.startswith("classifier") else 1e-5)
            assert group["weight_decay"] == (0.0 if name.endswith("bias") or "LayerNorm" in name else 0.1)


def test_training_batches_hold_lines_of_like_length_and_every_line_once(tmp_path):
    trainer, datasets = make_trainer(tmp_path, "--train-batch-size", "8")
    tokens = [int(mask) for batch in trainer.get_train_dataloader() for mask in [batch["attention_mask"].numel()]]
    real = sum(len(example["input_ids"]) for example in datasets["train"])
    assert len(tokens) == 12
    assert sum(tokens) < 1.15 * real  # in random order: about 1.8
    assert sorted(trainer._get_train_sampler()) == list(range(96))


def test_predictions_come_back_in_the_order_of_the_lines(tmp_path):
    trainer, datasets = make_trainer(tmp_path, "--val-batch-size", "7")
    scores = bert_plain.predict(trainer, datasets["dev"])
    trainer.model.eval()
    for index in (0, 17, 95):
        example = {name: [datasets["dev"][index][name]] for name in ("input_ids", "attention_mask")}
        expected = logits_of(trainer.model, example).sigmoid()[0]
        assert scores[index] == pytest.approx(expected.numpy(), abs=2e-6)


def test_precision_follows_the_hardware(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for capabilities, expected in (({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx2": True}, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda capabilities=capabilities: capabilities)
        assert bert_plain.resolve_precision("auto") == expected
    assert bert_plain.resolve_precision("fp32") == "fp32"
    with pytest.raises(utils.InputError, match="fp16"):
        bert_plain.resolve_precision("fp16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", [(8, 9), (7, 5)].__getitem__)
    for processes, expected in ((1, "bf16"), (2, "fp16")):  # the second GPU is a Turing
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert bert_plain.resolve_precision("auto") == expected


def test_one_process_takes_one_of_several_gpus(tmp_path, monkeypatch):
    def with_four_gpus(**settings):
        training_arguments = TrainingArguments(**settings)
        training_arguments._n_gpu = 4
        return training_arguments

    monkeypatch.setattr(bert_plain, "TrainingArguments", with_four_gpus)
    trainer, _ = make_trainer(tmp_path, "--train-batch-size", "8")
    assert trainer.args.n_gpu == 1 and trainer.args.train_batch_size == 8


def read_scores(directory, split):
    return [json.loads(line) for line in (directory / f"{split}.scores.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["bert_plain", "bert_GRU"])
def test_a_sample_run_leaves_what_the_readme_says(sample_runs, name):
    directory, process = sample_runs[name]
    assert process.stderr == ""  # no warning of a library's own
    metrics = json.loads((directory / "metrics.json").read_text())
    dev = utils.read_corpus(utils.SAMPLE / "dev.jsonl", labelled=True)
    labels = utils.encode_labels(dev)
    baseline, _ = utils.majority_micro_f1(labels)
    assert metrics["dev"]["micro_f1"] > baseline + 0.15
    assert "test" not in metrics  # unlabelled

    decision = json.loads((directory / "best" / "decision.json").read_text())
    assert decision["micro_f1_cross_fitted"] <= decision["micro_f1"] == metrics["dev"]["micro_f1"]
    for split in ("dev", "test"):
        rows = utils.read_corpus(utils.SAMPLE / f"{split}.jsonl")
        predictions = utils.read_corpus(directory / f"{split}.jsonl", labelled=True)
        scores = read_scores(directory, split)
        assert [(p["id"], p["input"]) for p in predictions] == [(row["id"], row["input"]) for row in rows]
        assert [line["id"] for line in scores] == [row["id"] for row in rows]
        probabilities = np.array([[line["scores"][emotion] for emotion in utils.EMOTIONS] for line in scores])
        decided = utils.encode_labels(predictions)
        assert (decided == (probabilities >= decision["threshold"])).all()
        if split == "dev":
            assert metrics["dev"] == utils.compute_metrics(labels, probabilities, decided)

    run = json.loads((directory / "run.json").read_text())
    assert run["script"] == f"{name}.py" and run["seed"] == 42 and run["seconds"] > 0 and run["peak_memory_gib"]["host"] > 0
    assert {split: data["lines"] for split, data in run["data"].items()} == {"train": 600, "dev": 150, "test": 150}
    assert (directory / "train.log").read_text().strip() == process.stdout.strip()
    assert "micro-F1" in process.stdout and "sadness" in process.stdout and "--model-ckpt-path" in process.stdout


def test_the_plain_checkpoint_loads_with_the_standard_class(sample_runs):
    directory = sample_runs["bert_plain"][0] / "best"
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    assert model.config.problem_type == "multi_label_classification" and model.config.num_labels == 8
    assert AutoTokenizer.from_pretrained(directory)("급식")["input_ids"]


@pytest.mark.parametrize("name", ["bert_plain", "bert_GRU"])
def test_a_checkpoint_predicts_as_the_run_that_made_it(sample_runs, name, tmp_path):
    directory, _ = sample_runs[name]
    command = ["--model-ckpt-path", directory / "best", "--dev-file", directory / "dev.jsonl", "--output-dir", tmp_path / "out"]
    process = run_script(f"{name}.py", *command)
    assert process.returncode == 0, process.stderr
    for mine, made in zip(read_scores(tmp_path / "out", "dev"), read_scores(directory, "dev"), strict=True):
        assert mine["id"] == made["id"]
        assert mine["scores"] == pytest.approx(made["scores"], abs=0.02)  # bf16 rounds, and not always alike
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["dev"]["micro_f1"] > 0.98  # its own predictions
    assert not any((tmp_path / "out" / name).exists() for name in ("best", "checkpoints"))

    other = {"bert_plain": "bert_GRU", "bert_GRU": "bert_plain"}[name]
    process = run_script(f"{other}.py", *command[:-1], tmp_path / "other")
    assert process.returncode == 2 and "predict with the script that trained it" in process.stderr


def test_a_given_threshold_is_used_and_saved(tmp_path):
    rows = [make_row(str(n), labels=("joy",) if n % 2 else ("anger",)) for n in range(8)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    process = run_script(
        "bert_plain.py",
        *("--model", MODEL, "--train-file", file, "--dev-file", file, "--test-file", file, "--output-dir", tmp_path / "out"),
        *("--epochs", 1, "--threshold", 0.9, "--pooling", "mean"),
    )
    assert process.returncode == 0, process.stderr
    assert json.loads((tmp_path / "out" / "best" / "decision.json").read_text())["threshold"] == 0.9
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["test"] == metrics["dev"]
    assert bert_plain.MeanPoolingClassifier.from_pretrained(tmp_path / "out" / "best").config.num_labels == 8


def test_resume_goes_on_from_the_last_checkpoint_and_ends_the_same(tmp_path):
    """Two epochs, with the run cut after the first by taking the later files away."""
    rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")[:96]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    command = ["--model", MODEL, "--train-file", file, "--dev-file", file, "--epochs", 2, "--output-dir", tmp_path / "out"]
    whole = run_script("bert_plain.py", *command)
    assert whole.returncode == 0, whole.stderr
    scores = (tmp_path / "out" / "dev.scores.jsonl").read_text()
    checkpoints = sorted(Path(tmp_path / "out" / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    assert len(checkpoints) == 2
    checkpoints[1].rename(tmp_path / "taken away")
    (tmp_path / "out" / "metrics.json").unlink()
    resumed = run_script("bert_plain.py", *command, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch 1/2" not in resumed.stdout and "epoch 2/2" in resumed.stdout
    assert (tmp_path / "out" / "dev.scores.jsonl").read_text() == scores


def test_the_commands_of_the_readme_are_those_of_ci():
    readme, ci = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", ".ci/run"))
    for command in ("pip install --quiet -r requirements.txt -r tests/requirements.txt", "python -m pytest"):
        assert command in ci and command.replace(" --quiet", "") in readme
