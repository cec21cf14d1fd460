"""Models that people bring, as tiny random layouts: right, or refused in one line.

The long part, all layouts: benchmarks/models.py.
"""

import functools
import json
import logging
import math

import causal_layouts
import encoder_layouts
import models as benchmark
import peft
import pytest
import torch
from conftest import EMOTIONS, assert_refused, call, make_row
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import Unigram
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

import gpt_train
import utils
from emotion import causal, encoder, memory, vocabulary
from emotion.answer_model import AnswerModel
from emotion.answers import HeadFunction, measure_head, warn_unless_causal
from emotion.inputs import encode
from emotion.prompt import Prompt
from emotion.prompt_words import make_strings

LINES = {"train": 12, "dev": 6}
BOUND = benchmark.BOUNDS["fp32"]


@pytest.fixture
def build(tmp_path):
    """A function from layouts and a name to a directory of "model", "train" and "dev"."""

    def make(layouts, name):
        benchmark.build(layouts, name, tmp_path, LINES)
        return tmp_path

    return make


def train(script, files, *more):
    """Run a training script on what `build` made."""
    lines = ("--train-file", files / "train", "--dev-file", files / "dev", "--epochs", 1)
    return call(script, "--model", files / "model", *lines, *more, "--output-dir", files / "out")


# Right, whatever the model's class does


@pytest.mark.parametrize(
    ("name", "way"),
    {
        "gemma2": "Gemma2ForCausalLM slow",  # caps; a window shorter than the prompt
        "hyperclovax": "HyperCLOVAXForCausalLM fast",  # scales its logits
        "qwen3-moe": "Qwen3MoeForCausalLM fast",  # weights that are not of 4-bit layers
        "gemma3-composite": "Gemma3ForConditionalGeneration fast",  # a config in a config
        "gpt2": "GPT2LMHeadModel fast",  # Conv1D
        "lfm2": "Lfm2ForCausalLM slow",  # layers that are no attention
    }.items(),
)
def test_a_causal_model_is_scored_as_its_own_forward_does(name, way, build):
    found = benchmark.measure("gpt_train", (), build(causal_layouts, name), "fp32")
    assert found.is_within(BOUND), found
    assert found.way.startswith(way) and found.spread > 100 * BOUND, found


@pytest.mark.parametrize(
    ("name", "script", "more"),
    [
        ("modernbert", "bert_plain", ()),  # a pad id above all positions
        ("gamma-beta", "bert_plain", ()),  # weights that get other names when they are saved
        ("klue-roberta", "bert_plain", ()),  # a tokenizer with token types, a model without
        ("embedding-gemma-left", "bert_GRU", ()),  # a tokenizer that pads on the left
        ("llama-as-encoder", "bert_plain", ("--pooling", "last")),  # no pair, padding on the left
        ("gpt2-without-pad", "bert_plain", ("--pooling", "mean")),
    ],
)
def test_an_encoder_is_scored_as_its_checkpoint_is_by_others(name, script, more, build):
    found = benchmark.measure(script, more, build(encoder_layouts, name), "fp32")
    assert found.is_within(BOUND) and found.spread > 100 * BOUND, found


def test_a_checkpoint_of_klue_roberta_takes_a_pair_as_a_stranger_gives_it(build):
    files = build(encoder_layouts, "klue-roberta")
    assert train("bert_plain", files).returncode == 0
    best = files / "out" / "best"
    tokenizer = AutoTokenizer.from_pretrained(best)
    inputs = tokenizer("오늘 급식 최고", "급식", return_tensors="pt")
    assert "token_type_ids" not in inputs
    model = AutoModelForSequenceClassification.from_pretrained(best)
    assert model(**inputs).logits.shape == (1, len(EMOTIONS))


# Refused, before anything is trained

REFUSED = {
    "xlnet": (("--pooling", "cls"), "does not put <cls> first", "--pooling mean"),
    "convbert": ((), "the logits of a line move by"),
    "fnet": (("--pooling", "mean"), "the logits of a line move by"),
    "tokenizer-too-large": ((), "the model has 500 tokens"),
    "vocabulary-without-hangul": ((), "are unknown to the tokenizer"),
    "llama-as-encoder": ((), "does not see the text", "last"),
    "t5": ((), "is an encoder with a decoder"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_encoder_that_cannot_be_right_is_refused(name, build):
    more, *told = REFUSED[name]
    files = build(encoder_layouts, name)
    assert_refused(train("bert_plain", files, *more), *told)
    assert not (files / "out").exists()


def test_a_causal_model_with_fewer_tokens_than_its_tokenizer_is_refused(build):
    files = build(causal_layouts, "llama-more-tokens")
    assert_refused(train("gpt_train", files), "the tokenizer gives the token id")


# Tokenizers


@pytest.mark.parametrize("name", ["klue-bert", "roberta", "xlm-roberta", "modernbert", "gemma"])
def test_a_special_token_in_a_text_is_text(name, tmp_path):
    name = {"gemma": "gemma-as-encoder"}.get(name, name)
    encoder_layouts.build(name, tmp_path)
    tokenizer, model, _ = encoder.load_to_train(tmp_path, EMOTIONS, "mean")
    added = AddedToken("<|more|>", special=True)  # one that has no role, as of decoders
    tokenizer.add_tokens([added])
    special = {*tokenizer.all_special_tokens, str(added)}
    told = make_row(form=f"오늘 {' '.join(sorted(special))} 급식")
    [plain, tricky] = encode([make_row(form="오늘 급식"), told], tokenizer, model)
    more = tokenizer.convert_tokens_to_ids(str(added))
    special = {*tokenizer.all_special_ids, more} - {tokenizer.unk_token_id}
    counts = [[each for each in ids["input_ids"] if each in special] for ids in (plain, tricky)]
    assert counts[0] == counts[1] != []


class WithoutAList:
    """A tokenizer that tells its special tokens, and not which were added, as mistral-common's."""

    all_special_tokens = ("<s>", "[INST]")

    @property
    def added_tokens_decoder(self):
        raise NotImplementedError


def test_special_tokens_are_those_that_a_tokenizer_tells():
    assert vocabulary.as_text(["<s>급식 [INST]"], WithoutAList()) == ["< s>급식 [ INST]"]


class Words:
    """A tokenizer of a class that knows 0 as the unknown token, and 1 as a special one."""

    unk_token_id, eos_token_id, all_special_ids = 0, 1, (0, 1)


@pytest.mark.parametrize(("unknown", "level"), [(1, "INFO"), (10, "WARNING"), (60, None)])
def test_the_share_of_unknown_tokens_is_told(unknown, level, caplog):
    rows = [[1] * 50 + [0] * unknown + [2] * (100 - unknown)]
    with caplog.at_level(logging.INFO):
        if level is None:
            with pytest.raises(utils.InputError, match=r"60\.0 % of the tokens of train"):
                vocabulary.check_unknown(Words, rows)
            return
        vocabulary.check_unknown(Words, rows)
    [record] = caplog.records
    assert record.levelname == level and f"{unknown}.0 %" in record.getMessage()


@pytest.mark.parametrize(("piece", "answer"), [(" joy", " joy"), ("joy", "joy")])
def test_answers_are_put_as_they_take_fewer_tokens(piece, answer):
    pieces = [("<unk>", 0.0), (piece, -1.0), *((each, -9.0) for each in " joynet")]
    backend = Tokenizer(Unigram(pieces, unk_id=0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    strings = make_strings("en", ["joy"], tokenizer)
    assert strings["answers"][0] == answer
    assert strings["response"].endswith("\n") == (answer == "joy")


# Heads and adapters

FUNCTIONS = {
    "granite": HeadFunction(scale=0.25),
    "hyperclovax": HeadFunction(scale=0.125),
    "cohere": HeadFunction(scale=0.25),
    "gemma2": HeadFunction(cap=2.0),
    "minicpm3": HeadFunction(before=0.25),
    "llama3": HeadFunction(),
    "bert-decoder": None,  # dense, activation and norm stand before its head
}


def load_base(name, directory):
    causal_layouts.build(name, directory)
    return causal.load_base(str(directory), "fp32", torch.device("cpu"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_class_does_with_its_heads_logits_is_measured(name, tmp_path):
    found, wanted = measure_head(load_base(name, tmp_path), [5, 6, 7]), FUNCTIONS[name]
    assert (found is None) == (wanted is None)
    for one, other in zip(found or (), wanted or (), strict=True):
        assert one == other or math.isclose(one, other, rel_tol=1e-3)


def test_a_base_that_is_quantised_otherwise_is_refused_before_it_is_read(tmp_path):
    causal_layouts.build("qwen3", tmp_path)
    file = tmp_path / "config.json"
    config, args = json.loads(file.read_text()), gpt_train.argument_parser().parse_args([])
    for method, more in {"mxfp4": {}, "bitsandbytes": {"load_in_8bit": True}}.items():
        quantised = {"quantization_config": {"quant_method": method, **more}}
        file.write_text(json.dumps(config | quantised))
        with pytest.raises(utils.InputError, match=rf"\({method}\), .* give a copy .* bfloat16"):
            memory.estimate(str(tmp_path), functools.partial(causal.lora_config, args), 64, "fp32")


def test_a_model_that_sees_what_comes_later_is_warned_of(tmp_path, caplog):
    decoder = load_base("bert-decoder", tmp_path)
    warn_unless_causal(decoder, [5, 6, 7])
    assert caplog.text == ""
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"is_decoder": true', '"is_decoder": false'))
    encoder = causal.load_base(str(tmp_path), "fp32", torch.device("cpu"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompt = Prompt(make_strings("ko", EMOTIONS), tokenizer, 512, len(tokenizer))
    AnswerModel(encoder, prompt, "fp32").choose_way(prompt.encode([make_row()]))
    assert "warning: BertLMHeadModel: a token sees those behind it" in caplog.text


@pytest.mark.parametrize("targets", [(), ("q_proj",), ("all-linear",)])
def test_the_adapters_of_a_composite_are_in_its_text_decoder(targets, tmp_path):
    base = load_base("gemma3-composite", tmp_path)
    flags = ("--target-modules", *targets) if targets else ()
    args = gpt_train.argument_parser().parse_args(["--rank", "4", *flags])
    adapted = peft.get_peft_model(base, causal.lora_config(args, base))
    trained = [name for name, each in adapted.named_parameters() if each.requires_grad]
    assert trained and all(".language_model." in name for name in trained)
    assert not any("lm_head" in name for name in trained)
    outside = [name for name, _ in adapted.named_parameters() if "vision" in name]
    assert outside and not any("lora" in name for name in outside)
