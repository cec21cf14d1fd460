"""The two BERT scripts: inputs, models, and whole runs on the sample as a user makes them."""

import functools
import json
import os
import random
import re
import shutil
import subprocess
import sys

import encoder_layouts
import numpy as np
import pytest
import torch
from conftest import EMOTIONS, ROOT, call, make_row, write_rows
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    RobertaConfig,
    XLMRobertaConfig,
)

import bert_plain
import utils
from emotion import cli, encoder, modeling, outputs, rules, scoring, statistics, task
from emotion.inputs import Inputs, encode
from emotion.modeling import GRUClassifier, MeanPoolingClassifier

MODEL = utils.SAMPLE / "roberta-tiny"
HEADS = {"cls": "cls", "mean": "mean", "GRU": "gru"}


def load(head="cls", model=MODEL):
    torch.manual_seed(0)
    return encoder.load_to_train(model, EMOTIONS, head)


@pytest.fixture(params=HEADS)
def loaded(request):
    tokenizer, model, new_weights = load(HEADS[request.param])
    return tokenizer, model.eval(), new_weights


def kind_of(model):
    """The kind of head that a model has."""
    own = {each.__name__: kind for kind, each in modeling.HEADS.items()}
    return own.get(type(model).__name__, "cls")


def logits_of(model, batch):
    with torch.no_grad():
        return model(**{name: torch.tensor(values) for name, values in batch.items()}).logits


# Inputs and models


def test_a_lines_logits_do_not_depend_on_its_batch(loaded):
    """Other lines change the shape of the products, and with it the last bits.

    Of a logit above 1, that is a share of its size.
    """
    tokenizer, model, _ = loaded
    forms = ["오늘 급식 최고 " + "정말 좋다 " * n for n in (0, 3, 30, 90)]
    rows = [make_row(str(n), form=form) for n, form in enumerate(forms)]
    inputs = encode(rows, tokenizer, model)
    together = logits_of(model, tokenizer.pad(inputs))
    wider = logits_of(model, tokenizer.pad(inputs, padding="max_length", max_length=512))
    for index, example in enumerate(inputs):
        alone = logits_of(model, {name: [values] for name, values in example.items()})[0]
        one = tokenizer.pad([example], padding="max_length", max_length=512)
        assert (alone - logits_of(model, one)[0]).abs().max() < 1e-5
        for batch in (together, wider):
            assert (alone - batch[index]).abs().max() < 1e-5 * max(1, alone.abs().max())


def test_padding_may_move_logits_by_a_share_of_the_largest():
    tokenizer, model, _ = load("cls")
    rows = [make_row(form="급식 " * count, target=None) for count in (1, 3, 60)]
    inputs, examples = Inputs(model, tokenizer, "fp32"), encode(rows, tokenizer, model)
    with torch.no_grad():
        model.classifier.out_proj.weight *= 1e6
    model.to(inputs.device).eval()
    alone, beside = (model(**inputs.batch(each)).logits[0] for each in (examples[:1], examples))
    assert 1e-4 < (alone - beside).abs().max() < 1e-4 * alone.abs().max()
    inputs.check(model, examples, reads_cls=True)


def test_every_parameter_is_trained_and_new_weights_are_the_head(loaded):
    tokenizer, model, new_weights = loaded
    inputs = Inputs(model, tokenizer, "fp32")
    examples = encode([make_row()], tokenizer, model)
    batch = inputs.batch(examples, utils.encode_labels([make_row()], EMOTIONS))
    model.to(inputs.device).train()(**batch).loss.backward()
    assert [name for name, each in model.named_parameters() if each.grad is None] == []
    base = model.base_model_prefix
    names = {name for name, _ in model.named_parameters() if not name.startswith(base)}
    assert new_weights == names


def test_a_pooler_that_a_checkpoint_has_not_is_a_new_weight(tmp_path):
    encoder_layouts.build("kobert", tmp_path / "model")
    tokenizer, model, _ = encoder.load_to_train(tmp_path / "model", EMOTIONS, "mean")
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "mean")
    _, _, new_weights = encoder.load_to_train(tmp_path / "mean", EMOTIONS, "cls")
    names = {
        f"{name}.{each}"
        for name in ("bert.pooler.dense", "classifier")
        for each in ("weight", "bias")
    }
    assert new_weights == names


def test_a_saved_model_loads_with_the_same_logits(loaded, tmp_path):
    tokenizer, model, _ = loaded
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    inputs = encode([make_row()], tokenizer, model)[0]
    inputs = {name: [values] for name, values in inputs.items()}
    by_class = type(model).from_pretrained(tmp_path).eval()
    _, ours = encoder.load(tmp_path)
    for again in (by_class, ours.eval()):
        assert type(again) is type(model)
        assert torch.allclose(logits_of(model, inputs), logits_of(again, inputs), atol=1e-5)
        assert [again.config.id2label[n] for n in range(8)] == list(EMOTIONS)
    # a second training goes on from all of it, and with other labels from the encoder
    again, head = ours.state_dict(), kind_of(model)
    _, second, new_weights = encoder.load_to_train(tmp_path, EMOTIONS, head)
    assert type(second) is type(model) and new_weights == set()
    assert all(torch.equal(value, again[name]) for name, value in second.state_dict().items())
    for kind in HEADS.values():
        _, other, new_weights = encoder.load_to_train(tmp_path, ["good", "bad"], kind)
        base = f"{other.base_model_prefix}."
        assert new_weights == {n for n, _ in other.named_parameters() if not n.startswith(base)}
        for name, value in other.base_model.state_dict().items():
            if "pooler" not in name:
                assert torch.equal(value, model.base_model.state_dict()[name]), name
    model.to(torch.bfloat16).save_pretrained(tmp_path)  # of which its config tells
    for kind in HEADS.values():
        _, other, _ = encoder.load_to_train(tmp_path, ["good", "bad"], kind)
        assert {each.dtype for each in other.parameters()} == {torch.float32}


def test_a_saved_model_computes_attention_as_the_one_that_was_trained(
    loaded, tmp_path, monkeypatch
):
    """By the fused kernel, where the encoder has it, and not step by step."""
    tokenizer, model, _ = loaded
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    fused, calls = torch.nn.functional.scaled_dot_product_attention, []

    def count(*arguments, **settings):
        calls.append(1)
        return fused(*arguments, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", count)
    inputs = encode([make_row()], tokenizer, model)[0]
    inputs = {name: [values] for name, values in inputs.items()}
    for each in (model, encoder.load(tmp_path)[1].eval()):
        calls.clear()
        logits_of(each, inputs)
        assert len(calls) == model.config.num_hidden_layers


def test_the_gru_head_has_the_published_shape():
    _, model, _ = load("gru")
    width = model.config.hidden_size + 2 * 2 * 512
    linear = [layer for layer in model.classifier if isinstance(layer, torch.nn.Linear)]
    shapes = [(layer.in_features, layer.out_features) for layer in linear]
    assert shapes == [(width, 2 * width), (2 * width, 2 * width), (2 * width, 8)]
    dropouts = [layer.p for layer in model.classifier if isinstance(layer, torch.nn.Dropout)]
    assert dropouts == [0.3, 0.3]


def former_names(model):
    """The weights of a model by the names of when its GRU was one module of two layers."""
    return {
        re.sub(r"^gru\.(\d)\.(\w+_l)0", r"gru.\2\1", name): weight
        for name, weight in model.state_dict().items()
    }


@pytest.mark.parametrize("training", [True, False])
def test_the_gru_is_the_published_one_of_two_layers_and_dropout_between_them(training):
    """In modules of their own: cuDNN draws that dropout where no checkpoint can keep it."""
    _, model, _ = load("gru")
    shape = {"num_layers": 2, "dropout": 0.3, "bidirectional": True, "batch_first": True}
    published = torch.nn.GRU(model.config.hidden_size, 512, **shape).train(training)
    weights = former_names(model)
    published.load_state_dict({name: weights[f"gru.{name}"] for name in published.state_dict()})
    hidden, lengths = torch.randn(3, 7, model.config.hidden_size), [7, 2, 5]
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        hidden, torch.tensor(lengths), batch_first=True, enforce_sorted=False
    )
    torch.manual_seed(1)
    _, final = published(packed)
    torch.manual_seed(1)
    pooled = model.train(training).pool(hidden, torch.ones(3, 7), lengths)
    assert torch.equal(pooled[:, model.config.hidden_size :], final.transpose(0, 1).flatten(1))
    assert not any(each.dropout for each in model.modules() if isinstance(each, torch.nn.RNNBase))


@pytest.mark.parametrize("size", ["50MB", "200MB"])  # in shards, and in one file
def test_a_checkpoint_of_when_the_gru_was_one_module_is_read(size, tmp_path):
    tokenizer, model, _ = load("gru")
    tokenizer.save_pretrained(tmp_path)
    surplus = {"encoder.embeddings.position_ids": torch.arange(9)}
    weights = former_names(model) | surplus
    model.save_pretrained(tmp_path, state_dict=dict(weights), max_shard_size=size)
    _, read = encoder.load(tmp_path)
    _, again, new_weights = load("gru", tmp_path)
    assert new_weights == set()
    for other in (read, again):
        found, expected = other.state_dict(), model.state_dict()
        assert list(found) == list(expected)
        assert all(map(torch.equal, found.values(), expected.values()))
    assert load(model=tmp_path)[2] >= {"classifier.dense.weight"}  # its encoder alone
    strange = weights | {"gru.weight_ih_l2": torch.ones(2, 2)}
    for given in (strange, model.state_dict() | {"gru.2.weight_ih_l0": torch.ones(2, 2)}):
        model.save_pretrained(tmp_path, state_dict=dict(given), max_shard_size=size)
        with pytest.raises(utils.InputError, match=r"a GRU of two layers has not, as gru.*2"):
            encoder.load(tmp_path)
    del weights["gru.weight_ih_l1"]
    model.save_pretrained(tmp_path, state_dict=dict(weights), max_shard_size=size)
    with pytest.raises(utils.InputError, match="lacks 1 weights of GRUClassifier, as gru"):
        encoder.load(tmp_path)


def test_a_head_has_as_many_labels_as_the_corpus():
    torch.manual_seed(0)
    for head in HEADS.values():
        tokenizer, model, _ = encoder.load_to_train(MODEL, ["좋음", "나쁨", "중립"], head)
        [example] = encode([make_row()], tokenizer, model)
        logits = logits_of(model, {name: [values] for name, values in example.items()})
        assert logits.shape == (1, 3)
        assert model.config.id2label == {0: "좋음", 1: "나쁨", 2: "중립"}


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    tokenizer, model, _ = load("mean")
    state = model.state_dict()
    state = {name: value for name, value in state.items() if "layer.1.attention" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(utils.InputError, match=r"lacks \d+ weights of MeanPoolingClassifier"):
        encoder.load(tmp_path)


def test_a_foreign_model_is_refused_as_encoder(tmp_path):
    """Weights under names that the architecture does not know would leave the encoder random."""
    tokenizer, model, _ = load("gru")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    outputs.write_json(tmp_path / "config.json", config | {"architectures": ["RobertaModel"]})
    for head in HEADS.values():
        with pytest.raises(utils.InputError, match="lacks"):
            load(head, tmp_path)


def test_truncation_shortens_the_text_and_never_the_target():
    tokenizer, model, _ = load()
    target = "맛있는 떡볶이 한 접시"
    rows = [
        make_row("a", form=target + " 정말 좋다" * 1000, target=target),
        make_row("b", form="정말 좋다 " * 1000, target=None),
    ]
    pair, single = encode(rows, tokenizer, model)
    assert len(pair["input_ids"]) == len(single["input_ids"]) == 512
    target_ids = tokenizer(target, add_special_tokens=False)["input_ids"]
    end = [tokenizer.sep_token_id, *target_ids, tokenizer.sep_token_id]
    assert pair["input_ids"][-len(end) :] == end
    tokenizer.model_max_length = (
        len(target_ids) + tokenizer.num_special_tokens_to_add(pair=True) + 1
    )
    [shortest] = encode(rows[:1], tokenizer, model)
    assert shortest["input_ids"][-len(end) :] == end and len(shortest["input_ids"]) == len(end) + 2
    tokenizer.model_max_length -= 1  # no room for a token of the text
    with pytest.raises(
        utils.InputError, match=r"'a': input\.target\.form: has \d+ tokens, and the"
    ):
        encode(rows[:1], tokenizer, model)
    tokenizer.model_max_length = 512
    long = make_row("c", form="떡볶이 " * 600 + "!", target="떡볶이 " * 600 + "!")
    with pytest.raises(utils.InputError, match=r"'c': input\.target\.form"):
        encode([long], tokenizer, model)


@pytest.mark.parametrize(
    ("config", "types"),
    [(RobertaConfig, 1), (XLMRobertaConfig, 1), (BertConfig, 2)],
    ids=["roberta", "xlm-roberta", "bert"],
)
def test_token_types_go_only_to_models_that_have_them(config, types):
    config = config(
        vocab_size=len(AutoTokenizer.from_pretrained(MODEL)),
        type_vocab_size=types,
        pad_token_id=1,
        max_position_embeddings=514,
        num_labels=8,
    )
    sizes = {"hidden_size": 16, "intermediate_size": 16}
    config.update(sizes | {"num_hidden_layers": 1, "num_attention_heads": 2})
    model = MeanPoolingClassifier(config)
    [example] = encode([make_row()], encoder.load_tokenizer(MODEL, config), model)
    assert ("token_type_ids" in example) == (types > 1)
    logits = logits_of(model, {name: [values] for name, values in example.items()})
    assert logits.shape == (1, 8)


def test_a_missing_pooler_is_new_and_a_masked_lm_checkpoint_serves_as_encoder(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=1, **sizes)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    _, _, new_weights = load(model=tmp_path)
    assert any("pooler" in name for name in new_weights)
    assert any("classifier" in name for name in new_weights)
    _, model, new_weights = load("gru", tmp_path)
    assert not any("encoder." in name for name in new_weights)
    assert isinstance(model.encoder.pooler, torch.nn.Identity)


def test_new_weights_learn_at_the_head_rate_and_vectors_do_not_decay(loaded):
    _, model, new_weights = loaded
    groups = task.parameter_groups(model, new_weights, 1e-5, 1e-3, 0.1)
    names = {parameter: name for name, parameter in model.named_parameters()}
    given = [names[parameter] for group in groups for parameter in group["params"]]
    assert sorted(given) == sorted(names.values())
    for group in groups:
        for parameter in group["params"]:
            is_head = not names[parameter].startswith(model.base_model_prefix)
            assert group["lr"] == (1e-3 if is_head else 1e-5)
            assert group["weight_decay"] == (0.0 if parameter.ndim == 1 else 0.1)
    [group] = task.parameter_groups(model, new_weights, 1e-3, 1e-3)  # as before --head-lr
    assert group["params"] == list(model.parameters())


@pytest.fixture
def on_a_gpu(monkeypatch):
    """A function from tokenizer and model to the Inputs of a GPU, that compute on what there is."""

    def make(tokenizer, model):
        here = scoring.device()
        with monkeypatch.context() as patch:
            patch.setattr(scoring, "device", lambda: torch.device("cuda"))
            inputs = Inputs(tokenizer=tokenizer, model=model, precision="fp32")
        inputs.device = here
        return inputs

    return make


@pytest.mark.parametrize("limit", [96, 97])
def test_a_gpu_gets_rows_of_eights_where_the_model_takes_such(limit, on_a_gpu):
    tokenizer, model, _ = load()
    tokenizer.model_max_length = limit
    rows = [make_row(form="급식 " * n, target=None) for n in (1, 2, 99)]
    examples = encode(rows, tokenizer, model)
    inputs = on_a_gpu(tokenizer, model)
    assert inputs.batch(examples)["input_ids"].shape == (3, limit)
    short = len(examples[1]["input_ids"])
    assert inputs.batch(examples[:2])["input_ids"].shape[1] == (8 if limit == 96 else short)
    inputs.check(model, examples, reads_cls=True)


def test_lines_of_one_token_are_read_where_a_tokenizer_adds_none():
    tokenizer, model, _ = load("cls")
    inputs = Inputs(model, tokenizer, "fp32")
    [token] = tokenizer("급식", add_special_tokens=False)["input_ids"][:1]
    line = {"input_ids": [token], "attention_mask": [1]}
    inputs.check(model, [line, line], reads_cls=True)


def test_padding_to_eights_hides_no_model_that_reads_padding(on_a_gpu, tmp_path):
    encoder_layouts.build("convbert", tmp_path)
    tokenizer, model, _ = load(model=tmp_path)
    rows = [make_row(form="급식 " * n, target=None) for n in (3, 4, 5, 6, 40)]
    examples = encode(rows, tokenizer, model)
    with pytest.raises(utils.InputError, match="the logits of a line move by"):
        on_a_gpu(tokenizer, model).check(model, examples, reads_cls=True)


def test_a_model_of_weights_that_are_not_finite_is_refused():
    tokenizer, model, _ = load()
    with torch.no_grad():
        next(model.parameters())[:] = torch.nan
    rows = [make_row(form="급식 " * n) for n in (1, 3, 9)]
    examples, inputs = encode(rows, tokenizer, model), Inputs(model, tokenizer, "fp32")
    with pytest.raises(utils.InputError, match="the logits are not finite"):
        inputs.check(model, examples, reads_cls=True)


def test_predictions_come_back_in_the_order_of_the_lines():
    tokenizer, model, _ = load()
    words = random.Random(0).choices(["정말", "좋다", "싫다", "무섭다", "급식"], k=200)
    counts = random.Random(1).sample(range(200), 48)
    rows = [make_row(f"{n}", form="급식 " + " ".join(words[:n])) for n in counts]
    examples = encode(rows, tokenizer, model)
    inputs, scored = Inputs(model, tokenizer, "fp32"), []
    model = model.to(inputs.device).eval()
    scores = inputs.score(model, examples, 7, scored.append)
    assert scores.shape == (48, 8) and scores.dtype == np.float64
    assert sum(scored) == 48 and max(scored) <= 7
    for index in (0, 17, 47):
        with torch.no_grad():
            alone = model(**inputs.batch([examples[index]])).logits[0].sigmoid()
        assert scores[index] == pytest.approx(alone.cpu().numpy(), abs=2e-6)


@pytest.mark.parametrize("head", HEADS.values())
def test_a_head_computes_in_float32_whatever_the_precision(head):
    """Of logits in bfloat16 many are alike, and a threshold parts none of those."""
    tokenizer, model, _ = load(head)
    rows = utils.read_corpus(utils.SAMPLE / "dev.jsonl")
    examples, inputs = encode(rows, tokenizer, model), Inputs(model, tokenizer, "bf16")
    scores = inputs.score(model.to(inputs.device).eval(), examples, 50, lambda lines: None)
    assert len(np.unique(scores)) > 0.9 * scores.size


def test_precision_follows_the_hardware(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    for capabilities, expected in (
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"avx2": True}, "fp32"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", capabilities.copy)
        assert scoring.resolve_precision("auto") == expected
        for asked in ("fp32", "bf16", "fp16"):
            assert scoring.resolve_precision(asked) == asked
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    assert scoring.resolve_precision("auto") == "fp32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", [(8, 9), (7, 5)].__getitem__)
    for processes, expected in ((1, "bf16"), (2, "fp16")):  # the second GPU is a Turing
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert scoring.resolve_precision("auto") == expected


def test_float32_is_no_tf32_on_a_gpu():
    assert not (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    asked = os.environ | {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}  # as NVIDIA's containers do
    told = """
import torch
for ask in (
    "torch.set_float32_matmul_precision('high')",
    "torch.backends.fp32_precision = 'tf32'",
    "torch.backends.cuda.matmul.allow_tf32 = True",
    "torch.backends.cudnn.fp32_precision = 'tf32'",
):
    exec(ask)
    import emotion.scoring
    emotion.scoring.turn_tf32_off()
    print(torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    print(torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.rnn.fp32_precision)
"""
    found = subprocess.check_output([sys.executable, "-c", told], cwd=ROOT, env=asked, text=True)
    assert found == "highest False\nFalse ieee\n" * 4


# Whole runs


@pytest.fixture(scope="session")
def finished(sample_run, made_once):
    """A function from a script's name to its run with --sample: (output directory, process).

    That of bert_GRU, whose head is large, sees 48 lines once.
    """

    def train(directory):
        rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")[:48]
        files = ["--train-file", write_rows(directory.with_suffix(".jsonl"), rows)]
        flags = ["--sample", *files, "--epochs", 1, "--output-dir", directory]
        return call("bert_GRU.py", *flags)

    def get(name):
        return sample_run(name) if name == "bert_plain" else made_once("gru", train)

    return get


def read_scores(directory, split):
    lines = (directory / f"{split}.scores.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", ["bert_plain", "bert_GRU"])
def test_a_sample_run_leaves_what_the_readme_says(finished, name):
    directory, process = finished(name)
    assert process.returncode == 0 and process.stderr == ""  # no warning of a library's own
    metrics = json.loads((directory / "metrics.json").read_text())
    dev = utils.read_corpus(utils.SAMPLE / "dev.jsonl", labelled=True)
    labels = utils.encode_labels(dev, EMOTIONS)
    answer = json.loads((directory / "run.json").read_text())["constant_answer"]
    always = statistics.constant_decisions(len(dev), EMOTIONS, answer)
    baseline = utils.micro_f1(labels, always)
    assert f"always {', '.join(answer)}: micro-F1 {baseline:.4f}" in process.stdout
    assert metrics["dev"]["micro_f1"] > baseline + 0.05 or name == "bert_GRU"
    assert "test" not in metrics  # unlabelled

    decision = json.loads((directory / "best" / "decision.json").read_text())
    assert decision["labels"] == list(EMOTIONS) and decision["tuned_on"] == "dev"
    assert decision["micro_f1_cross_fitted"] <= decision["micro_f1"] == metrics["dev"]["micro_f1"]
    for split in ("dev", "test"):
        rows = utils.read_corpus(utils.SAMPLE / f"{split}.jsonl")
        predictions = utils.read_corpus(directory / f"{split}.jsonl", labelled=True)
        scores = read_scores(directory, split)
        given = [(row["id"], row["input"]) for row in rows]
        assert [(row["id"], row["input"]) for row in predictions] == given
        assert [line["id"] for line in scores] == [row["id"] for row in rows]
        named = [[line["scores"][emotion] for emotion in EMOTIONS] for line in scores]
        probabilities, decided = np.array(named), utils.encode_labels(predictions, EMOTIONS)
        rule = rules.Rule(decision["threshold"], decision["at_least_one"])
        assert (decided == rule(probabilities)).all()
        if split == "dev":
            again = statistics.compute_metrics(labels, probabilities, decided, EMOTIONS)
            assert metrics["dev"] == again

    run = json.loads((directory / "run.json").read_text())
    assert run["script"] == f"{name}.py" and run["seed"] == 42
    assert run["seconds"] > 0 and run["peak_memory_gib"]["host"] > 0
    lines = {split: file["lines"] for split, file in run["data"].items()}
    assert lines == {"train": 600 if name == "bert_plain" else 48, "dev": 150, "test": 150}
    assert (directory / "train.log").read_text().strip() == process.stdout.strip()
    assert "micro-F1" in process.stdout and "sadness" in process.stdout
    assert f"python {name}.py --model-ckpt-path {directory / 'best'}" in process.stdout
    left = {"best", "dev.jsonl", "dev.scores.jsonl", "metrics.json", "run.json", "test.jsonl"}
    assert {path.name for path in directory.iterdir()} >= left | {"test.scores.jsonl", "train.log"}
    assert not (directory / "checkpoints").exists()


def test_the_plain_checkpoint_loads_with_the_standard_class(sample_run):
    directory = sample_run("bert_plain")[0] / "best"
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.num_labels == 8
    assert AutoTokenizer.from_pretrained(directory)("급식")["input_ids"]


@pytest.mark.parametrize("name", ["bert_plain", "bert_GRU"])
def test_a_checkpoint_predicts_as_the_run_that_made_it(finished, name, tmp_path):
    directory, _ = finished(name)
    command = ["--model-ckpt-path", directory / "best", "--dev-file", directory / "dev.jsonl"]
    process = call(f"{name}.py", *command, "--output-dir", tmp_path / "out")
    assert process.returncode == 0 and process.stderr == "", process.stderr
    made = read_scores(directory, "dev")
    for mine, theirs in zip(read_scores(tmp_path / "out", "dev"), made, strict=True):
        assert mine["id"] == theirs["id"]
        assert mine["scores"] == pytest.approx(theirs["scores"], abs=0.02)  # bf16 may be used
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["dev"]["micro_f1"] > 0.98  # on its own predictions
    assert not any((tmp_path / "out" / left).exists() for left in ("best", "checkpoints"))

    other = {"bert_plain": "bert_GRU", "bert_GRU": "bert_plain"}[name]
    process = call(f"{other}.py", *command, "--output-dir", tmp_path / "other")
    assert process.returncode == 2 and "predict with the script that trained it" in process.stderr
    assert not (tmp_path / "other").exists()


def test_a_given_threshold_is_used_and_saved(tmp_path):
    kinds = [("joy",), ("anger",)]
    rows = [make_row(str(n), labels=kinds[n % 2]) for n in range(8)]
    del rows[0]["id"]  # which training needs none of
    file = write_rows(tmp_path / "rows.jsonl", rows)
    files = ["--train-file", file, "--dev-file", file, "--test-file", file]
    flags = ["--epochs", 1, "--threshold", 0.9, "--pooling", "mean"]
    output = tmp_path / "out"
    process = call("bert_plain.py", "--model", MODEL, *files, *flags, "--output-dir", output)
    assert process.returncode == 0, process.stderr
    decision = json.loads((output / "best" / "decision.json").read_text())
    assert decision["threshold"] == 0.9 and decision["tuned_on"] is None
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["test"] == metrics["dev"]
    assert MeanPoolingClassifier.from_pretrained(output / "best").config.num_labels == 8


def test_a_gru_reads_no_padding_and_needs_no_lengths():
    tokenizer, model, _ = load("gru")
    assert isinstance(model, GRUClassifier)
    rows = [make_row("a"), make_row("b", form="오늘 급식 최고 " + "정말 좋다 " * 9)]
    examples = encode(rows, tokenizer, model)
    inputs = Inputs(model, tokenizer, "fp32")
    model, batch = model.to(inputs.device).eval(), inputs.batch(examples)
    assert batch["lengths"] == [len(example["input_ids"]) for example in examples]
    with torch.no_grad():
        told = model(**batch).logits
        del batch["lengths"]
        assert torch.equal(told, model(**batch).logits)


def test_a_tokenizer_that_can_pad_with_nothing_is_refused(tmp_path):
    shutil.copytree(MODEL, tmp_path / "model")
    settings = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    (tmp_path / "model" / "tokenizer_config.json").write_text(settings)
    (tmp_path / "model" / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(utils.InputError, match="its tokenizer has no pad_token; name it in"):
        encoder.load_to_train(tmp_path / "model", EMOTIONS, "mean")


# What no script has


def test_the_card_of_a_class_of_no_script_says_so(monkeypatch, tmp_path):
    import variants

    own = variants.HEADS["attention"]
    monkeypatch.setitem(modeling.HEADS, "attention", own)
    monkeypatch.setitem(encoder.OURS, own.__name__, own)
    rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")[:24]
    files = [f"--{split}-file={write_rows(tmp_path / split, rows)}" for split in ("train", "dev")]
    parser = bert_plain.argument_parser("bert_plain", "")
    recipe = functools.partial(bert_plain.train, head="attention")
    flags = ["--model", str(MODEL), "--epochs", "1", "--output-dir", str(tmp_path / "out")]
    cli.run_script(parser, recipe, [*files, *flags])
    card = (tmp_path / "out" / "best" / "README.md").read_text(encoding="utf-8")
    assert "Its class, `AttentionPoolingClassifier`, is in no script" in card
    assert "pipeline(" not in card and "python " not in card.partition("## Use")[2]


def test_the_changes_of_the_ablation_can_be_trained(monkeypatch):
    import ablation
    import variants

    for name, head in variants.HEADS.items():
        monkeypatch.setitem(modeling.HEADS, name, head)
    inputs = {"input_ids": torch.tensor([[0, 10, 2]]), "labels": torch.ones(1, len(EMOTIONS))}
    for name, (_, head, settings) in ablation.CHANGES.items():
        bert_plain.argument_parser("bert_plain", "").parse_args([*ablation.SETTINGS, *settings])
        _, model, new_weights = load(head)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        assert model.train()(**inputs).loss.isfinite(), name
        assert model(**{**inputs, "labels": None}).loss is None, name  # so lines are tried first
        assert new_weights
    monkeypatch.setattr(task, "parameter_groups", task.parameter_groups)  # and put back
    variants.decay_by_layer(0.9)
    rates = {group["lr"] for group in task.parameter_groups(model, new_weights, 1e-4, 1e-2)}
    assert {1e-4, 0.9e-4} <= rates
