"""The two GPT scripts: prompt, layout, arithmetic, objectives, memory, and whole runs."""

import argparse
import contextlib
import functools
import itertools
import json
import math
import os
import re
import shutil
import signal

import numpy as np
import peft
import psutil
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from causal_layouts import make_tokenizer
from conftest import EMOTIONS, assert_refused, call, make_row, write_rows
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    MambaConfig,
    PreTrainedTokenizerFast,
)

import gpt_train
import utils
from emotion import (
    answer_model,
    answers,
    causal,
    checkpoint,
    data,
    memory,
    memory_plan,
    rules,
    scoring,
    systems,
    task,
)
from emotion.answer_model import AnswerModel
from emotion.outputs import read_json
from emotion.prompt import Prompt, attention_mask
from emotion.prompt_words import PROMPTS, make_strings
from emotion.statistics import best_constant_answer, constant_decisions
from emotion.vocabulary import as_text

CPU = torch.device("cpu")
MODEL = utils.SAMPLE / "gpt-neox-tiny"
TEXTS = [
    "오늘 급식 최고",
    "### 응답:\n기쁨",
    "대상: 없음 : ### 입력:",
    "너무 무섭다 " * 20,
    "<|endoftext|>슬픔",
    "싫다",
]
ROWS = [
    make_row(str(n), form=f"{text} 급식", target="급식" if n % 2 else None)
    for n, text in enumerate(TEXTS)
]
PRECISIONS = {"fp32": 1e-5, "bf16": 2e-3, "fp16": 2e-3}  # how far scores of one line may lie apart


def byte_tokenizer():
    """Every byte a token: an answer has six or nine of them, and some begin alike."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<|endoftext|>": 0} | {byte: number for number, byte in enumerate(alphabet, start=1)}
    tokenizer = Tokenizer(models.BPE(vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def sample_tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


TOKENIZERS = {"single tokens": sample_tokenizer, "bytes": byte_tokenizer}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def tiny_model(tokenizer, architecture="gpt_neox", attention="sdpa", **settings):
    """A causal language model with random weights in float32; its head is its own still."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    size |= {"vocab_size": len(tokenizer), "intermediate_size": 64, "initializer_range": 0.3}
    if architecture == "mamba":
        config = MambaConfig(**size, state_size=4)
    elif architecture == "llama":
        config = LlamaConfig(**size, num_key_value_heads=2, **settings)
    else:
        config = GPTNeoXConfig(**size, **settings)
    if architecture != "mamba":
        settings = {"attn_implementation": attention}
    return AutoModelForCausalLM.from_config(config, **settings).eval()


def make_prompt(tokenizer, language="ko", max_length=2048, labels=EMOTIONS):
    return Prompt(make_strings(language, labels), tokenizer, max_length, len(tokenizer))


def plain_log_probabilities(model, prompt, suffix):
    """The log-probability of each answer, one at a time, by whole passes without a cache."""
    asked, found = prompt.prefix_ids + suffix, []
    for ids in prompt.answer_ids:
        logits = model(input_ids=torch.tensor([asked + ids])).logits[0].float()
        steps = logits.log_softmax(-1)[len(asked) - 1 : -1]
        found.append(steps[range(len(ids)), ids].sum())
    return torch.stack(found)


def scores_of(model, suffixes, objective="answer", lines=None):
    model.eval().prompt.objective = objective
    return answer_model.score(model, suffixes, lambda lines: None, lines)


def parse(*arguments):
    return gpt_train.argument_parser().parse_args(["--rank", "4", "--dropout", "0", *arguments])


def load_adapted(*arguments, base=MODEL, precision="fp32"):
    """A model in 4 bits with adapters that are not zero."""
    args, prompt = parse(*arguments), make_prompt(sample_tokenizer())
    torch.manual_seed(0)
    model = causal.load_base(str(base), precision, CPU)
    model = peft.get_peft_model(model, causal.lora_config(args, model))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    return AnswerModel(model, prompt, precision)


def gradients_of(model, labels, objective="answer"):
    """The gradients of a batch of ROWS in training."""
    model.train()
    model.zero_grad()
    found = model(model.prompt.encode(ROWS))
    answers.LOSSES[objective](found, labels).backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.model.named_parameters()
        if parameter.grad is not None
    }


# Prompt


def test_the_eight_emotions_are_asked_for_in_these_words_and_other_labels_by_themselves():
    """Which a checkpoint was trained with: a prompt in other words is another model."""
    assert make_strings("ko", EMOTIONS) == {
        "prefix": "명령어와 입력을 읽고 알맞은 응답을 쓰세요.\n\n### 명령어:\n"
        "입력의 글쓴이가 대상에게 보이는 감정을 고르세요: "
        "기쁨, 기대, 신뢰, 깜짝, 혐오, 공포, 분노, 슬픔. "
        "감정이 없으면 없음이라고 답하세요.\n\n### 입력:\n",
        "target": "\n대상: ",
        "response": "\n\n### 응답:\n",
        "answers": ["기쁨", "기대", "신뢰", "깜짝", "혐오", "공포", "분노", "슬픔", "없음"],
    }
    assert make_strings("en", EMOTIONS) == {
        "prefix": "Read the instruction and the input, then write the response.\n\n"
        "### Instruction:\nWhich emotion does the writer of the input show towards the target: "
        "joy, anticipation, trust, surprise, disgust, fear, anger or sadness? "
        "If there is no emotion, answer none.\n\n### Input:\n",
        "target": "\nTarget: ",
        "response": "\n\n### Response:",
        "answers": [
            *(" joy", " anticipation", " trust", " surprise", " disgust", " fear", " anger"),
            *(" sadness", " none"),
        ],
    }
    other = make_strings("ko", ("공포", "joy", "awe"))
    assert other["answers"] == ["공포", "기쁨", "awe", "없음"]
    assert "고르세요: 공포, 기쁨, awe. 감정이" in other["prefix"]
    one = make_strings("en", ("awe",))
    assert one["answers"] == [" awe", " none"] and "the target: awe? If" in one["prefix"]


@pytest.mark.parametrize("language", PROMPTS)
def test_the_prompt_has_the_layout_that_kullm_was_tuned_with(language):
    tokenizer = byte_tokenizer()
    prompt = make_prompt(tokenizer, language)
    [suffix] = prompt.encode([make_row(form="오늘 급식 최고", target="급식")])
    text = tokenizer.decode(prompt.prefix_ids + suffix)
    parts = {"ko": ("명령어", "입력", "응답"), "en": ("Instruction", "Input", "Response")}
    headings = [line for line in text.split("\n") if line.startswith("###")]
    assert headings == [f"### {part}:" for part in parts[language]]
    assert "오늘 급식 최고\n" in text and ": 급식\n" in text
    assert all(answer.strip() in text for answer in prompt.strings["answers"])
    assert len(prompt.answer_ids) == len(EMOTIONS) + 1


def test_a_text_that_looks_like_the_prompt_stays_text(tokenizer):
    prompt = make_prompt(tokenizer)
    strings = prompt.strings
    [response] = prompt.tokenize(strings["response"])
    for row, suffix in zip(ROWS, prompt.encode(ROWS), strict=True):
        text, target = utils.text_and_target(row)
        [text] = as_text([text], tokenizer)
        asked = text + (strings["target"] + target if target else "") + strings["response"]
        assert tokenizer.decode(suffix) == asked
        assert suffix[-len(response) :] == response
        assert tokenizer.eos_token_id not in suffix  # "<|endoftext|>" in a text is no end of it


@pytest.mark.parametrize("kind", ["gpt2", "llama2", "kogpt2"])  # the last two begin words with ▁
def test_the_parts_of_a_prompt_are_tokenised_apart(kind):
    prompt = make_prompt(make_tokenizer(kind))
    strings = prompt.strings
    rows = [make_row(form="오늘 급식 최고", target=target) for target in ("급식", None)]
    parts = ["오늘 급식 최고", strings["target"] + "급식", strings["response"]]
    [text, target, response] = prompt.tokenize(*parts)
    assert prompt.encode(rows) == [text + target + response, text + response]


def test_truncation_shortens_the_text_alone_and_is_told(tokenizer, caplog):
    whole = make_prompt(tokenizer)
    [about, call_for] = whole.tokenize(whole.strings["target"] + "급식", whole.strings["response"])
    end = about + call_for
    longest = max(map(len, whole.answer_ids))
    prompt = make_prompt(tokenizer, max_length=len(whole.prefix_ids) + len(end) + longest + 3)
    rows = [
        make_row("a", form="급식 정말 좋다 " * 100, target="급식"),
        make_row("b", form="급식", target="급식"),
    ]
    [text] = whole.tokenize(utils.text_and_target(rows[0])[0])
    with caplog.at_level("WARNING", "emotion"):
        [cut, short] = prompt.encode(rows)
        prompt.shortest_and_longest()
    [told] = [record.getMessage() for record in caplog.records]
    assert f" of 2 texts fill the {prompt.max_length} tokens of a prompt with its answer; " in told
    assert cut == text[:3] + end
    assert len(prompt.prefix_ids) + len(cut) + longest == prompt.max_length
    first = prompt.pack([cut, short])["kept"][0, 0]
    assert first == len(prompt.prefix_ids) + len(cut) - 1  # foretells the answer
    with pytest.raises(utils.InputError, match="--max-length 20: the prompt alone takes"):
        make_prompt(tokenizer, max_length=20)
    least = whole.max_length - whole.room + len(call_for)
    with pytest.raises(utils.InputError, match=f"the prompt alone takes {least} tokens"):
        make_prompt(tokenizer, max_length=least)
    shortest = make_prompt(tokenizer, max_length=least + 1)
    assert shortest.encode([make_row("d", target=None)])
    [suffix] = shortest.encode([make_row("e")], predicts=True)  # nothing is left of its target
    assert suffix[1:] == call_for
    with pytest.raises(utils.InputError, match=r"'c': input\.target\.form"):
        prompt.encode([make_row("c", form="급식 " * 50, target="급식 " * 49 + "급식")])


def test_answers_that_the_tokenizer_cannot_tell_apart_are_refused():
    strings, tokenizer = make_strings("ko", EMOTIONS), byte_tokenizer()
    with pytest.raises(utils.InputError, match="cannot tell the answers '기쁨' and '기쁨' apart"):
        Prompt(strings | {"answers": ["기", "기쁨", "기쁨"]}, tokenizer, 512, 300)
    # where one begins as another is, each has an end
    answers = ["기", "기쁨", "없음"]
    longer = Prompt(strings | {"answers": answers}, tokenizer, 512, 300).answer_ids
    assert [ids[-1] for ids in longer] == [tokenizer.eos_token_id] * 3
    assert [tokenizer.decode(ids[:-1]) for ids in longer] == answers


def test_the_answers_are_single_tokens_of_the_sample_and_begin_alike_in_bytes():
    assert [len(ids) for ids in make_prompt(sample_tokenizer()).answer_ids] == [1] * 9
    beginnings = [ids[0] for ids in make_prompt(byte_tokenizer()).answer_ids]
    assert len(set(beginnings)) < len(beginnings)


# Layout


@given(
    st.integers(1, 8).flatmap(
        lambda length: st.lists(
            st.lists(
                st.tuples(st.integers(-1, 2), st.integers(-1, 1)), min_size=length, max_size=length
            ),
            min_size=1,
            max_size=2,
        )
    ),
    st.integers(0, 3),
)
def test_the_mask_hides_later_tokens_and_those_of_other_lines_and_answers(rows, prefix):
    line, branch = torch.tensor(rows).unbind(-1)
    mask = attention_mask(line, branch, prefix)
    assert mask.dtype == torch.float32
    assert mask.shape == (len(rows), 1, len(rows[0]), prefix + len(rows[0]))
    assert (mask[..., :prefix] == 0).all()
    for row, (query, key) in itertools.product(
        range(len(rows)), itertools.product(range(len(rows[0])), repeat=2)
    ):
        (line, branch), (of_line, of_branch) = rows[row][query], rows[row][key]
        sees = key <= query and of_line in (-1, line) and of_branch in (-1, branch)
        added = mask[row, 0, query, prefix + key]
        assert added == (0 if sees else torch.finfo(torch.float32).min)


def test_the_mask_is_made_on_the_device_of_the_batch():
    line = torch.zeros((2, 5), dtype=torch.long, device="meta")  # no number can leave it
    assert attention_mask(line, line, 3).device.type == "meta"


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_eager_and_fused_attention_give_the_same(tokenizer, architecture):
    prompt, found = make_prompt(tokenizer), []
    suffixes = prompt.encode(ROWS)
    for attention in ("eager", "sdpa"):
        model = AnswerModel(tiny_model(tokenizer, architecture, attention), prompt, "fp32")
        with torch.inference_mode():
            packed = model(suffixes)
        found.append((packed, scores_of(model, suffixes)))
    (packed, scores), (others, other_scores) = found
    assert torch.allclose(packed, others, atol=1e-4)
    assert scores == pytest.approx(other_scores, abs=1e-5)


@given(
    st.lists(st.integers(1, 600), min_size=1, max_size=60),
    st.none() | st.integers(1, 20),
    st.sampled_from([256, scoring.TOKENS]),
    st.sampled_from([0, 0.25]),
)
def test_batches_by_length_hold_each_line_once_and_as_many_as_fit(lengths, lines, tokens, padding):
    batches = scoring.batches_by_length(lengths, lines, tokens, padding)
    order = list(itertools.chain(*batches))
    assert sorted(order) == list(range(len(lengths)))
    in_order = [lengths[index] for index in order]
    assert in_order == sorted(lengths, reverse=True)
    for batch, after in itertools.zip_longest(batches, batches[1:]):
        longest = lengths[batch[0]]
        shortest = (1 - padding) * longest
        most = lines or max(1, tokens // longest)
        assert 1 <= len(batch) <= most
        assert lengths[batch[-1]] >= shortest
        if after and len(batch) < most:  # ended early rather than pad by more
            assert lengths[after[0]] < shortest


# Scores


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_packed_scores_are_those_of_one_line_at_a_time(tokenizer, architecture):
    """Float32: order, size and padding of a batch leave no trace, nor does the shared beginning."""
    model, prompt = tiny_model(tokenizer, architecture), make_prompt(tokenizer)
    suffixes = prompt.encode(ROWS)
    with torch.no_grad():
        plain = torch.stack([plain_log_probabilities(model, prompt, each) for each in suffixes])
    model = AnswerModel(model, prompt, "fp32")
    model.train()  # no dropout here; the head normalises over the vocabulary
    with torch.no_grad():
        packed = model(suffixes)
    assert (packed - plain).abs().max() < 1e-4  # sums of up to nine logarithms of about -6
    for objective in ("answer", "multilabel"):
        expected = answers.to_scores(plain.double(), objective).numpy()
        assert expected.std() > 0.02
        for lines in (1, 4, None):
            scores = scores_of(model, suffixes, objective, lines)
            assert scores == pytest.approx(expected, abs=1e-5)
        backwards = scores_of(model, suffixes[::-1], objective)
        assert backwards[::-1] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("is_fast", [True, False])
def test_a_head_reads_the_last_token_of_each_line(tokenizer, is_fast):
    """As transformers' own classifiers do, packed, cached, or a row a line; and learns."""
    model = tiny_model(tokenizer)
    prompt = Prompt(make_strings("ko", EMOTIONS), tokenizer, 2048, len(tokenizer), "head")
    suffixes = prompt.encode(ROWS)
    asked = AnswerModel(model, prompt, "fp32", len(EMOTIONS))
    asked.is_fast = is_fast
    expected = []
    for suffix in suffixes:
        input_ids = torch.tensor([prompt.prefix_ids + suffix])
        last = model(input_ids=input_ids, output_hidden_states=True).hidden_states[-1][0, -1]
        expected.append(asked.head.linear(last))
    expected = torch.stack(expected)
    assert (asked(suffixes) - expected).abs().max() < 1e-5
    plain = expected.detach().sigmoid().numpy()
    for lines in (1, 4, None):
        assert scores_of(asked, suffixes, "head", lines) == pytest.approx(plain, abs=1e-5)
    losses = nn.functional.binary_cross_entropy_with_logits(expected, LABELS.float())
    wanted = torch.autograd.grad(losses, list(asked.head.parameters()))
    gradients_of(asked, LABELS.float(), "head")
    for parameter, gradient in zip(asked.head.parameters(), wanted, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


def test_packed_scores_are_those_of_a_left_padded_batch():
    tokenizer = sample_tokenizer()
    model, prompt = tiny_model(tokenizer), make_prompt(tokenizer)
    lines = [prompt.prefix_ids + suffix for suffix in prompt.encode(ROWS)]
    tokenizer.padding_side = "left"
    inputs = tokenizer.pad({"input_ids": lines}, return_tensors="pt")
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        last = model(**inputs, position_ids=positions, logits_to_keep=1).logits[:, 0]
    tokens = [ids[0] for ids in prompt.answer_ids[:-1]]
    packed = scores_of(AnswerModel(model, prompt, "fp32"), prompt.encode(ROWS))
    assert packed == pytest.approx(last[:, tokens].softmax(-1).numpy(), abs=1e-5)


# One arithmetic


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A model of another architecture, its head tied to its embeddings."""
    directory = tmp_path_factory.mktemp("llama")
    model = tiny_model(sample_tokenizer(), "llama", tie_word_embeddings=True)
    model.to(torch.bfloat16).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_all_but_products_in_4_bits_is_computed_in_float32(llama, architecture, precision):
    base = llama if architecture == "llama" else MODEL
    model = load_adapted(base=base, precision=precision)
    seen, decoder = set(), model.causal.get_decoder()

    def look(module, inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        seen.add((type(module).__name__, hidden.dtype))

    masks = set()
    decoder.register_forward_pre_hook(
        lambda module, args, given: masks.add(given.get("attention_mask")), with_kwargs=True
    )
    for module in decoder.modules():
        is_layer = type(module).__name__.endswith(("DecoderLayer", "NeoXLayer", "Norm"))
        if is_layer or isinstance(module, nn.Embedding):
            module.register_forward_hook(look)
    gradients_of(model, LABELS.float())
    scores_of(model, model.prompt.encode(ROWS))
    assert len(seen) == 3 and {dtype for _, dtype in seen} == {torch.float32}
    masks.discard(None)  # the shared beginning has none
    assert {mask.dtype for mask in masks} == {scoring.DTYPES[precision]}  # else layers keep copies
    in_4_bits, stored = set(), {id(model.causal.get_input_embeddings().weight)}
    stored.add(id(model.causal.get_output_embeddings().weight))
    for module in model.modules():
        if isinstance(module, Linear4bit):
            assert module.compute_dtype == scoring.DTYPES[precision]
            in_4_bits |= {id(module.weight), id(module.bias)}
    for name, parameter in model.named_parameters():
        if id(parameter) not in in_4_bits:
            kept = torch.bfloat16 if id(parameter) in stored else torch.float32
            assert parameter.dtype == kept, name


def test_a_base_without_its_head_is_refused_where_that_is_read(tmp_path):
    """transformers draws what is missing, anew at each loading."""
    base = shutil.copytree(MODEL, tmp_path / "base")
    weights = load_file(MODEL / "model.safetensors")
    del weights["embed_out.weight"]
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(utils.InputError, match="lacks 1 weights of GPTNeoXForCausalLM, as lm_head"):
        causal.load_base(str(base), "fp32", CPU)
    assert causal.load_base(str(base), "fp32", CPU, reads_head=False)
    del weights["gpt_neox.final_layer_norm.bias"]
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(utils.InputError, match=r"lacks 1 weights of .*, as gpt_neox\.final_layer"):
        causal.load_base(str(base), "fp32", CPU, reads_head=False)


def test_an_adapter_on_the_head_is_taught():
    model = load_adapted("--target-modules", "query_key_value", "lm_head")
    assert "the adapter is on its head too" in model.choose_way(model.prompt.encode(ROWS)[:2])
    found = gradients_of(model, LABELS.float())
    assert all(found[name].abs().sum() > 0 for name in found if "lm_head" in name)
    assert any("lm_head" in name for name in found)


def test_a_base_that_came_in_4_bits_stays_what_it_is_however_it_is_stored(tmp_path):
    logits = []
    for stored in (torch.uint8, torch.bfloat16):
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_quant_storage=stored
        )
        given = {"quantization_config": quantization, "dtype": torch.bfloat16}
        model = GPTNeoXForCausalLM.from_pretrained(MODEL, **given)
        model.save_pretrained(tmp_path / str(stored))
        base = causal.load_base(str(tmp_path / str(stored)), "fp32", scoring.device())
        weight = base.gpt_neox.layers[0].mlp.dense_h_to_4h.weight
        assert weight.dtype == stored
        with torch.inference_mode():
            logits.append(base(torch.arange(9, device=base.device)[None]).logits)
    assert torch.equal(*logits)


@pytest.mark.parametrize(("precision", "far"), PRECISIONS.items())
@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_scores_do_not_depend_on_the_batch_nor_on_who_asks(
    llama, architecture, precision, far, tmp_path
):
    """One line at a time, in batches, as packed in training, and by a checkpoint read back."""
    base = llama if architecture == "llama" else MODEL
    model = load_adapted(base=base, precision=precision)
    rows, prompt = ROWS + utils.read_corpus(utils.SAMPLE / "dev.jsonl")[:12], model.prompt
    suffixes = prompt.encode(rows)
    alone = scores_of(model, suffixes, lines=1)
    assert alone.std() > 0.02
    for lines in (16, None):
        assert abs(scores_of(model, suffixes, lines=lines) - alone).max() <= far
    model.train()
    packed = model(suffixes).detach()
    # other products, so that bf16 rounds them otherwise
    assert abs(answers.to_scores(packed.double(), "answer").numpy() - alone).max() <= 2 * far
    model.model.save_pretrained(tmp_path)
    prompt.tokenizer.save_pretrained(tmp_path)
    prompt.save(tmp_path, EMOTIONS, model.causal.config, None)
    found, named = checkpoint.check_adapter(tmp_path, 0.5)
    assert named == str(base) and found.labels == list(EMOTIONS)
    again = causal.load_checkpoint(tmp_path, named, found, precision, CPU)
    assert again.prompt.encode(rows) == suffixes
    assert abs(scores_of(again, suffixes) - alone).max() <= far


def test_evaluation_leaves_the_weights_as_they_were_and_trainable():
    """bitsandbytes repacks them on a CPU with AVX512-BF16, and then gives no gradients."""
    model = load_adapted(precision="bf16")
    before = gradients_of(model, LABELS.float())
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    scores_of(model, model.prompt.encode(ROWS))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    after = gradients_of(model, LABELS.float())
    assert list(before) == list(after)
    assert all(torch.equal(gradient, after[name]) for name, gradient in before.items())
    assert all(after[name].abs().sum() > 0 for name in after) and len(after) == 2 * 4


# Training


def adapted_layers(model):
    names = [name for name, _ in model.named_parameters() if "lora_" in name]
    return {name.rpartition(".lora_")[0].rpartition(".")[2] for name in names}


def test_what_is_trained_is_the_adapter_of_queries_keys_and_values():
    model = load_adapted()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        assert parameter.dtype == torch.float32 or not parameter.requires_grad
    assert adapted_layers(model) == {"query_key_value"}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 4 * 4 * (128 + 3 * 128)  # layers, rank, in and out


def test_target_modules_follow_the_architecture(monkeypatch):
    model = tiny_model(byte_tokenizer(), "llama")
    assert causal.lora_config(parse(), model).target_modules == {"k_proj", "q_proj", "v_proj"}
    mamba = tiny_model(byte_tokenizer(), "mamba")
    assert causal.lora_config(parse(), mamba).target_modules == {"in_proj"}
    model = load_adapted("--target-modules", "all-linear")
    dense = {"dense", "dense_h_to_4h", "dense_4h_to_h"}
    assert adapted_layers(model) == {"query_key_value"} | dense
    monkeypatch.setattr(causal, "ATTENTION", {"attention"})
    known = "dt_proj, in_proj, out_proj, x_proj"
    with pytest.raises(utils.InputError, match=f"--target-modules: say which of {known} to adapt"):
        causal.lora_config(parse(), mamba)


LABELS = torch.tensor(
    [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [0] * 8,
        [1, 0, 0, 1, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 1, 1, 0],
        [0] * 8,
        [1] * 8,
    ]
)


def plain_loss(log_probabilities, present, objective):
    """The loss of one line, spelt out."""
    if objective == "answer":
        wanted = [index for index in range(8) if present[index]] or [8]
        return sum(-log_probabilities[index] / len(wanted) for index in wanted)
    middle = sum(log_probabilities) / 9
    logits = [log_probabilities[index] - middle - 1.7 for index in range(8)]
    probabilities = [1 / (1 + torch.exp(-logit)) for logit in logits]
    pairs = zip(probabilities, present, strict=True)
    return -sum((p if y else 1 - p).log() for p, y in pairs) / 8


@pytest.mark.parametrize("objective", ["answer", "multilabel"])
def test_the_gradients_are_those_of_a_plain_reference(tokenizer, objective):
    """One line at a time with full logits, against the packed batch through the answers' head."""
    prompt, model = make_prompt(tokenizer), tiny_model(tokenizer)
    losses = []
    for suffix, present in zip(prompt.encode(ROWS), LABELS, strict=True):
        log_probabilities = plain_log_probabilities(model, prompt, suffix)
        losses.append(plain_loss(log_probabilities, present, objective))
    (sum(losses) / len(losses)).backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    gradients = gradients_of(AnswerModel(model, prompt, "fp32"), LABELS.float(), objective)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        bound = 1e-5 * max(1, expected[name].abs().max())
        assert (gradient - expected[name]).abs().max() < bound, name


def test_no_tensor_over_vocabulary_and_sequence_is_made():
    tokenizer = sample_tokenizer()
    model = AnswerModel(tiny_model(tokenizer), make_prompt(tokenizer), "fp32")
    sizes = []
    model.head.register_forward_hook(
        lambda module, inputs, output: sizes.append((inputs[0].shape, output.shape))
    )
    gradients_of(model, LABELS.float())
    assert sizes == [((1, len(ROWS), 32), (len(ROWS), 9))]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_the_same_with_activations_computed_again(precision):
    model = load_adapted("--dropout", "0.3", precision=precision)
    gradients = []
    for again in (False, True):
        if again:
            model.causal.activation_checkpointing_enable()
        torch.manual_seed(1)
        gradients.append(gradients_of(model, LABELS.float()))
    assert len(gradients[0]) == len(gradients[1]) == 2 * 4
    for name, gradient in gradients[0].items():
        assert gradient.abs().sum() > 0 and torch.equal(gradient, gradients[1][name]), name


# Memory


def estimate(name=MODEL, precision="fp32", max_length=512, **changes):
    args = parse()
    vars(args).update(changes)
    adapter = functools.partial(causal.lora_config, args)
    return memory.estimate(str(name), adapter, max_length, precision)


def test_the_estimate_counts_what_the_model_holds():
    model = load_adapted()
    held = estimate().held
    stored = trained = frozen = 0
    for parameter in model.parameters():
        if parameter.dtype == torch.uint8:
            state = parameter.quant_state
            stored += parameter.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
        elif parameter.requires_grad:
            trained += parameter.nbytes
        else:
            frozen += parameter.nbytes
    assert held["weights in 4 bits"] == pytest.approx(stored, rel=0.01)
    assert held["all else: embeddings, head, norms, experts"] == frozen
    assert held["adapter, its gradients, optimiser state"] == 4 * trained


def packed(tokens):
    return memory.Layout(0).batch([tokens])


def kept_by(need, tokens):
    return need.training(packed(tokens), False)["activations of every layer, kept"]


def test_the_estimate_counts_what_a_pass_keeps():
    model = load_adapted()
    need = estimate()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    model.train()
    suffixes = model.prompt.encode(utils.read_corpus(utils.SAMPLE / "dev.jsonl")[:16])
    tokens = model.prompt.pack(suffixes)["input_ids"].numel()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(suffixes)
    mask = 4 * tokens**2  # of a model of a real size a small part
    assert kept_by(need, tokens) == pytest.approx(
        sum(storage.nbytes() for storage in kept.values()) - mask, rel=0.15
    )


def test_the_estimate_counts_what_rows_of_their_own_keep():
    """Beside what layers keep: logits, and the head once more in float32."""
    model, need, kept = load_adapted(), estimate(), {}
    model.is_fast = False
    suffixes = model.prompt.encode(utils.read_corpus(utils.SAMPLE / "dev.jsonl")[:16])
    inputs = model.prompt.rows(suffixes)
    batch = model.layout().batch([model.length(each) for each in suffixes])
    assert batch.tokens == inputs["input_ids"].numel()
    assert batch.logits == len(inputs["input_ids"]) * len(inputs["kept"].unique())
    head = model.causal.get_output_embeddings().weight

    def keep(tensor):
        storage = tensor.untyped_storage()
        if head.shape[0] in tensor.shape:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(suffixes)
    kept.pop(head.untyped_storage().data_ptr(), None)
    logits = 4 * batch.logits * head.shape[0]  # log-probabilities
    assert sum(need.head.values()) == 4 * head.numel()
    assert sum(storage.nbytes() for storage in kept.values()) == logits + 4 * head.numel()
    tokenizer, strings = sample_tokenizer(), make_strings("ko", EMOTIONS)
    asked = Prompt(strings, tokenizer, 2048, len(tokenizer), "head")
    own = AnswerModel(model.model, asked, "fp32", len(EMOTIONS))
    assert own.layout().batch([60]).logits == 0  # no gradient reaches those


def test_weights_that_are_not_finite_are_told_as_such():
    model = load_adapted()
    model.causal.get_input_embeddings().weight.data.fill_(math.nan)
    with pytest.raises(utils.InputError, match="the logits are not finite"):
        model.choose_way(model.prompt.encode(ROWS))


def test_the_estimate_grows_with_tokens_layers_and_the_adapter(tmp_path):
    need = estimate()
    assert kept_by(need, 2000) == 2 * kept_by(need, 1000)
    again = need.training(packed(1000), True)["inputs of every layer, kept"]
    assert again == 1000 * 4 * 4 * 128 < kept_by(need, 1000) / 5  # layers, bytes, hidden size
    least, most = (sum(need.training(packed(1000), each).values()) for each in (True, False))
    assert least < most
    assert need.scoring(2000) > need.scoring(1000) > need.scoring(0) > 0
    assert need.scoring(1) - need.scoring(0) == 8 * 512 + 16 * 128  # the widest layer, and hidden
    least = sum(need.training(packed(0), False).values())
    coming = [sum(need.training(packed(n), True).values()) - least for n in (1, 2)]
    assert coming[1] - 2 * coming[0] == 2 * 8  # a mask of tokens by tokens
    assert kept_by(estimate(rank=64), 1000) > kept_by(need, 1000)
    trained = "adapter, its gradients, optimiser state"
    assert estimate(rank=64).held[trained] == 16 * need.held[trained]
    config = GPTNeoXConfig.from_pretrained(MODEL)
    config.num_hidden_layers = 8
    config.save_pretrained(tmp_path)
    deeper = estimate(tmp_path)
    assert kept_by(deeper, 1000) == pytest.approx(2 * kept_by(need, 1000), rel=0.1)
    assert deeper.held[trained] == 2 * need.held[trained]
    with pytest.raises(utils.InputError, match=r"--max-length 4096: .* takes 2048 tokens"):
        estimate(max_length=4096)
    for asked in (["mixer"], ["query_key_value", "mixer"]):
        with pytest.raises(
            utils.InputError, match=r"--target-modules mixer: .* not found in the base"
        ):
            estimate(target_modules=asked)
    one, both, head = (
        estimate(target_modules=["all-linear", *more]).held[trained]
        for more in ([], ["dense"], ["lm_head"])
    )
    assert one == both < head


@pytest.fixture
def leave_free(monkeypatch):
    """A function that lets so many bytes of memory be free."""

    def leave(free):
        memory = psutil.virtual_memory()._replace(available=free)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2**40))  # in all

    return leave


def arguments_of(batch_size, epochs=1, **more):
    given = {"resume": False, **more}
    return argparse.Namespace(batch_size=batch_size, epochs=epochs, seed=0, **given)


def test_a_plan_says_what_fits(leave_free):
    need, lengths, layout = estimate(), [100] * 64, memory.Layout(50)
    assert memory_plan.largest_batch(lengths, layout, arguments_of(64), 64) == (6450, 6450**2, 0)
    held = sum(need.held.values())
    kept, again = (held + sum(need.training(packed(6450), each).values()) for each in (False, True))
    for free, computes_again, advice in (
        (kept, False, None),
        (kept - 1, True, None),
        (again, True, None),
        (again - 1, True, "take --batch-size 32"),
        (held, True, "take a smaller --model or a larger device"),
    ):
        leave_free(free)
        assert memory_plan.free_memory() == free
        found = memory_plan.make(need, free, lengths, layout, arguments_of(64))
        assert found.again == computes_again
        assert (found.advice is None) if advice is None else found.advice.endswith(advice)
        assert f"activations are {'computed again' if computes_again else 'kept'}" in found.table
        fits = held + need.scoring(found.tokens_to_score) <= free
        assert fits or found.tokens_to_score == 256
        assert found.tokens_to_score <= scoring.TOKENS
    cannot = need._replace(computes_again=False)
    found_again = memory_plan.make(cannot, kept - 1, lengths, layout, arguments_of(64))
    assert not found_again.again and found_again.advice.endswith("; take --batch-size 32")
    assert "computed again" not in found_again.table
    resumed = memory_plan.make(need, held, lengths, layout, arguments_of(64, resume=True))
    assert resumed.advice.endswith("; take a larger device")  # its model stays
    resumed = memory_plan.make(need, kept, lengths, layout, arguments_of(64, resume=True))
    assert resumed.table == memory_plan.make(need, kept, lengths, layout, arguments_of(64)).table
    for rows, bytes_of_head in ((layout, 0), (memory.Layout(None), sum(need.head.values()))):
        table = memory_plan.make(need, kept, lengths, rows, arguments_of(64)).table
        assert ("head in float32" in table) == bool(bytes_of_head)
    for told in ("weights in 4 bits", "in all", f"free on {scoring.device()}"):
        assert re.search(rf"^  {told} +[\d,.]+$", found.table, re.MULTILINE)
    assert "a GPU of 24 GB: --batch-size up to 128, up to 128 with" in found.table


def test_processes_that_share_a_cpu_share_its_memory(leave_free, monkeypatch):
    monkeypatch.setattr(scoring, "device", lambda: torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    leave_free(2**30)
    assert memory_plan.free_memory() == 2**29


def test_rows_of_their_own_are_counted_with_their_padding_masks_and_logits():
    few, all_of_them = memory.Layout(None, rows=3, logits=2), memory.Layout(None, 3, None)
    assert few.batch([100, 60]) == (6 * 112, 6 * 112**2, 6 * 4)
    assert few.batch([100, 99]) == (6 * 112, 6 * 112**2, 6 * 3)
    assert all_of_them.batch([100, 60]) == (6 * 112, 6 * 112**2, 6 * 112)
    need, batch = estimate(), few.batch([100, 60])
    vocabulary = AutoConfig.from_pretrained(MODEL).vocab_size
    more = sum(need.training(batch, False).values())
    less = sum(need.training(batch._replace(logits=0), False).values())
    assert more - less == 24 * vocabulary * memory.OF_A_LOGIT


def test_what_a_plan_advises_is_what_it_counts_when_that_is_given():
    lengths = np.random.default_rng(0).integers(1, 400, 300).tolist()
    layout, size = memory.Layout(50), 16
    advised, given = (
        memory_plan.largest_batch(lengths, layout, arguments_of(each), size) for each in (24, size)
    )
    assert advised == given


def test_the_largest_batch_is_one_of_random_batches():
    def largest(lengths, prefix, size, epochs=1):
        layout = memory.Layout(prefix)
        return memory_plan.largest_batch(lengths, layout, arguments_of(size, epochs), size).tokens

    lengths = np.arange(1, 101).tolist()
    assert largest([90, 10, 80, 9], None, 4) == 2 * 96  # in two parts, padded
    assert largest([90, 10, 80, 9], None, 1) == 96
    assert largest(lengths, 7, 100, 3) == 7 + sum(lengths)
    assert largest(lengths, 0, 1) == 100
    assert sum(lengths[-10:]) >= largest(lengths, 0, 10, 2) > 10 * np.mean(lengths)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("prefix", [None, 5])
def test_what_is_resumed_with_a_smaller_batch_is_planned_as_it_is_run(
    prefix, processes, monkeypatch
):
    """The same steps in more parts, which are sorted by length where lines are padded."""
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    lengths = np.random.default_rng(0).integers(1, 400, 300).tolist()
    layout, args = memory.Layout(prefix), arguments_of(16, lines_at_once=4, resume=True)
    padded = lengths if prefix is None else None
    taken = [
        layout.batch([lengths[index] for index in part[rank::processes]]).tokens
        for step in task.in_random_order(300, 16 * processes, 0, 0)
        for part in task.in_parts(step, 4 * processes, padded)
        for rank in range(processes)
        if part[rank::processes]
    ]
    assert memory_plan.largest_batch(lengths, layout, args, 4).tokens == max(taken)
    made = memory_plan.make(estimate(), 2**40, lengths, layout, args)
    assert f"batches of up to {max(taken)} tokens (4 lines)" in made.table


# Whole runs


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Arguments of a run of an epoch on a few lines of the sample."""
    root = tmp_path_factory.mktemp("small")
    rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")
    train = write_rows(root / "train.jsonl", rows[:48])
    dev = write_rows(root / "dev.jsonl", rows[48:72])
    files = ["--train-file", train, "--dev-file", dev]
    return ["--model", MODEL, *files, "--epochs", 1, "--lr", "1e-3", "--precision", "fp32"]


@contextlib.contextmanager
def told_to_stop_in_an_evaluation(monkeypatch):
    """Inside, a training is told to stop once its first epoch has been scored."""
    evaluate = rules.best_f1

    def stop(*scored):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*scored)

    with monkeypatch.context() as patch:
        patch.setattr(rules, "best_f1", stop)
        yield


def read_scores(directory, split):
    return systems.read_scores(directory / f"{split}.scores.jsonl")[:2]


def train(*arguments, code=0):
    outcome = call("gpt_train.py", *arguments)
    assert outcome.returncode == code, outcome.stderr
    assert outcome.stderr.count("\n") == (code != 0), outcome.stderr
    return outcome


def test_a_sample_run_trains_and_is_predicted_with(sample_run, tmp_path):
    run, process = sample_run("gpt_train", "--epochs", 2)
    assert process.stderr == ""
    metrics = read_json(run / "metrics.json")
    dev = utils.read_corpus(utils.SAMPLE / "dev.jsonl", labelled=True)
    answer = read_json(run / "run.json")["constant_answer"]
    train = utils.read_corpus(utils.SAMPLE / "train.jsonl", labelled=True)
    assert answer == best_constant_answer(utils.encode_labels(train, EMOTIONS), EMOTIONS)
    always = constant_decisions(len(dev), EMOTIONS, answer)
    baseline = utils.micro_f1(utils.encode_labels(dev, EMOTIONS), always)
    assert f"always {', '.join(answer)}: micro-F1 {baseline:.4f}" in process.stdout
    assert metrics["dev"]["micro_f1"] > baseline + 0.10
    assert "test" not in metrics
    wanted = {"adapter_model.safetensors", "adapter_config.json", "prompt.json", "decision.json"}
    assert wanted | {"tokenizer.json"} <= {file.name for file in (run / "best").iterdir()}
    assert not (run / "checkpoints").exists()
    settings = read_json(run / "best" / "prompt.json")
    assert settings["labels"] == list(EMOTIONS) and settings["objective"] == "answer"
    assert settings["strings"] == make_strings("ko", EMOTIONS)
    assert "«" in process.stdout and "M of them trained" in process.stdout
    assert f"gpt_inference.py --model-ckpt-path {run / 'best'}" in process.stdout

    outcome = call("gpt_inference.py", "--sample", cwd=tmp_path)
    assert outcome.returncode == 2
    assert "outputs/gpt_train/best: there is no such checkpoint" in outcome.stderr
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "gpt_train").symlink_to(run)  # relative to where the user is
    outcome = call("gpt_inference.py", "--sample", cwd=tmp_path)
    assert outcome.returncode == 0 and outcome.stderr == "", outcome.stderr
    assert "at 0.5" in outcome.stdout
    predicted = tmp_path / "outputs" / "gpt_inference"
    found = read_json(predicted / "metrics.json")["dev"]["micro_f1"]
    assert found == pytest.approx(metrics["dev"]["micro_f1"], abs=0.01)
    decision = read_json(run / "best" / "decision.json")
    rule = rules.Rule(decision["threshold"], decision["at_least_one"])
    for split in ("dev", "test"):
        rows = utils.read_corpus(utils.SAMPLE / f"{split}.jsonl")
        ids, scores = read_scores(predicted, split)
        assert ids == [row["id"] for row in rows]
        assert abs(scores - read_scores(run, split)[1]).max() <= 2e-3
        assert scores.sum(1) == pytest.approx(1, abs=1e-5)
        predictions = utils.read_corpus(predicted / f"{split}.jsonl", labelled=True)
        kept = [(row["id"], row["input"]) for row in predictions]
        assert kept == [(row["id"], row["input"]) for row in rows]
        assert (utils.encode_labels(predictions, EMOTIONS) == rule(scores)).all()


def test_multilabel_english_and_windows(tmp_path, monkeypatch):
    """Another objective, language and labels; windows smaller than the file keep its order."""
    rows = []
    for number in range(24):
        row = make_row(str(number), f"line {number} " + "so good " * (number % 7), target=None)
        rows.append(row | {"output": {"awe": number % 2 == 1, "joy": "False"}})
    file = write_rows(tmp_path / "rows.jsonl", rows)
    options = ["--objective", "multilabel", "--language", "en", "--max-length", 320]
    options += ["--epochs", 1, "--threshold", 0.3, "--precision", "fp32"]
    run, again = tmp_path / "run", tmp_path / "again"
    files = ["--train-file", file, "--dev-file", file]
    train("--model", MODEL, *files, *options, "--output-dir", run)
    settings = read_json(run / "best" / "prompt.json")
    assert settings["objective"] == "multilabel" and settings["max_length"] == 320
    assert settings["labels"] == ["awe", "joy"]
    assert settings["strings"]["answers"] == ["awe", "joy", "none"]  # in fewer tokens
    assert settings["strings"]["response"].endswith("Response:\n")
    assert read_json(run / "best" / "decision.json")["threshold"] == 0.3
    monkeypatch.setattr(data, "WINDOW", 7)
    where = ["--model-ckpt-path", run / "best", "--output-dir", again, "--precision", "fp32"]
    outcome = call("gpt_inference.py", *where, "--dev-file", file, "--batch-size", 3)
    assert outcome.returncode == 0 and outcome.stderr == "", outcome.stderr
    first, second = (
        [json.loads(line) for line in (each / "dev.scores.jsonl").read_text().splitlines()]
        for each in (run, again)
    )
    assert [line["id"] for line in second] == [row["id"] for row in rows]
    sums = []
    for one, other in zip(first, second, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)
        sums.append(sum(one["scores"].values()))
    assert abs(np.array(sums) - 1).max() > 1e-3  # no distribution over the labels


def test_a_head_is_saved_resumed_and_gone_on_with(small, monkeypatch, tmp_path):
    """In best/, in checkpoints, by --adapter; and gpt_inference.py gives the run's own scores."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    arguments = [*small, "--epochs", 2, "--objective", "head", "--precision", "fp32"]
    told = train(*arguments, "--output-dir", whole).stdout
    assert "tokens of answers" not in told
    best = whole / "best"
    where = ["--model-ckpt-path", best, "--output-dir", tmp_path / "again", "--precision", "fp32"]
    outcome = call("gpt_inference.py", *where, "--dev-file", small[small.index("--dev-file") + 1])
    assert outcome.returncode == 0 and outcome.stderr == "", outcome.stderr
    expected = read_scores(whole, "dev")[1]
    assert read_scores(tmp_path / "again", "dev")[1] == pytest.approx(expected, abs=1e-6)
    with told_to_stop_in_an_evaluation(monkeypatch):
        train(*arguments, "--output-dir", run, code=130)
    [saved] = (run / "checkpoints").iterdir()
    assert (saved / "head.safetensors").exists()
    train(*arguments, "--output-dir", run, "--resume")
    assert_same_end(run, whole, "best/head.safetensors", "best/adapter_model.safetensors")
    slow = [*arguments, "--lr", 1e-12, "--head-lr", 1e-2, "--epochs", 1, "--output-dir"]
    told = train(*slow, tmp_path / "further", "--adapter", best).stdout
    assert "learning rate 1e-12; objective head" in told
    assert read_scores(tmp_path / "further", "dev")[1] == pytest.approx(expected, abs=1e-5)
    told = train(*slow, tmp_path / "taught").stdout
    assert "learning rate 1e-12, of the head 0.01; objective head" in told
    adapter = peft.load_peft_weights(str(tmp_path / "taught/best"))
    moved = [float(each.abs().max()) for name, each in adapter.items() if "lora_B" in name]
    assert moved and max(moved) < 1e-8
    scores = np.array(read_scores(tmp_path / "taught", "dev")[1])
    assert scores.std(axis=0).min() > 1e-3  # by the head alone
    (best / "head.safetensors").unlink()
    where[3] = tmp_path / "none"
    assert_refused(call("gpt_inference.py", *where), "has no head (head.safetensors)")


def test_a_long_line_makes_no_others_long_where_lines_are_padded(small, monkeypatch, tmp_path):
    """On the slow way, whose plan counts the padding, too."""
    at, plain, read = small.index("--train-file") + 1, AnswerModel.plain, []
    rows = utils.read_corpus(small[at])
    rows[3] |= make_row(form="오늘 급식 최고 " * 120, target=None)
    train_file = write_rows(tmp_path / "train.jsonl", rows)

    def remember(self, suffixes, pads=True):
        if torch.is_grad_enabled():
            read.append([self.tokens(suffix) for suffix in suffixes])
        return plain(self, suffixes, pads)

    monkeypatch.setattr(AnswerModel, "plain", remember)
    monkeypatch.setattr(AnswerModel, "distance_of_fast_way", lambda *_: "is not to be taken")
    make, plans, free = memory_plan.make, [], iter([2**33])
    monkeypatch.setattr(memory_plan, "make", lambda *told: plans.append(told) or make(*told))
    monkeypatch.setattr(memory_plan, "free_memory", lambda: next(free))  # nothing is loaded yet
    arguments = [*small[:at], train_file, *small[at + 1 :], "--output-dir", tmp_path / "out"]
    told = train(*arguments).stdout
    assert "is not to be taken" in told
    _, *parts = read  # before the first, a step was tried on the shortest and the longest line
    assert sum(map(len, parts)) == len(rows)
    assert all(max(part) <= 4 * min(part) for part in parts)
    assert max(map(max, parts)) > 4 * min(map(min, parts))
    taken = max(len(part) * max(part) for part in parts)
    assert [told[1] for told in plans] == [2**33] * 2
    _, _, lengths, layout, args = plans[-1]
    assert memory_plan.largest_batch(lengths, layout, args, args.batch_size).tokens == taken
    assert f"batches of up to {taken} tokens" in told


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_every_precision_trains(small, precision, tmp_path):
    train(*small, "--precision", precision, "--output-dir", tmp_path / "out")
    record = read_json(tmp_path / "out" / "run.json")
    assert record["precision"] == precision
    losses = [entry["loss"] for entry in record["history"] if "loss" in entry]
    assert losses and np.isfinite(losses).all()
    weights = peft.load_peft_weights(str(tmp_path / "out" / "best"))
    assert all(tensor.abs().sum() > 0 for tensor in weights.values())  # lora_B begins at zero


def assert_same_end(run, whole, *names):
    """Scores of dev, and on a CPU files to the bit; gradients of attention on a GPU are not."""
    if on_cpu := scoring.device().type == "cpu":
        for name in names:
            assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    expected = pytest.approx(read_scores(whole, "dev")[1], abs=1e-5 if on_cpu else 1e-2)
    assert read_scores(run, "dev")[1] == expected


def test_a_run_is_the_same_with_activations_computed_again_and_in_small_batches_scored(
    small, leave_free, tmp_path
):
    arguments = parse()
    assert arguments.save_steps == 500 and arguments.val_batch_size is None
    kept, again = tmp_path / "kept", tmp_path / "again"
    train(*small, "--output-dir", kept)
    whole = train(*small, "--estimate", "--output-dir", tmp_path / "none").stdout
    in_all = float(re.search(r"in all +([\d.,]+)", whole)[1])
    leave_free((in_all - 0.5) * 2**20)
    train(*small, "--val-batch-size", 3, "--output-dir", again)
    assert not read_json(kept / "run.json")["activations_again"]
    assert read_json(again / "run.json")["activations_again"]
    assert_same_end(again, kept, "best/adapter_model.safetensors")


def test_what_cannot_fit_is_refused_with_advice_that_works(small, leave_free, tmp_path):
    """--estimate prints its table whatever there is, and writes nothing."""
    out = tmp_path / "out"
    arguments = [*small, "--batch-size", 32, "--output-dir", out]
    leave_free(1 << 20)
    table = train(*arguments, "--estimate").stdout
    for told in (
        "weights in 4 bits",
        "optimiser state",
        f"free on {scoring.device()}",
        "a GPU of 12 GB",
    ):
        assert told in table
    leave_free(0.95 * 2**20 * float(re.search(r"in all +([\d.,]+)", table)[1]))
    refused = train(*arguments, code=2).stderr
    assert "training needs" in refused and not out.exists()
    size = re.search(r"take --batch-size (\d+)", refused)[1]
    train(*arguments, "--batch-size", size)
    assert (out / "metrics.json").exists() and "activations_again" in read_json(out / "run.json")


def test_a_checkpoint_holds_no_base_and_resume_ends_the_same(small, monkeypatch, tmp_path):
    """Told to stop once the first of two epochs has been evaluated."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    arguments = [*small, "--epochs", 2]
    train(*arguments, "--output-dir", whole)
    with told_to_stop_in_an_evaluation(monkeypatch):
        told = train(*arguments, "--output-dir", run, code=130).stderr
    [checkpoint] = (run / "checkpoints").iterdir()
    assert str(checkpoint) in told and "--resume" in told
    files = [file for file in checkpoint.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    assert size < (MODEL / "model.safetensors").stat().st_size / 3
    [weights] = [file for file in files if file.suffix == ".safetensors"]
    assert all("lora_" in name for name in load_file(weights))
    resumed = train(*arguments, "--output-dir", run, "--resume").stdout
    assert "epoch 1/2" not in resumed and "epoch 2/2" in resumed
    names = "dev.scores.jsonl", "metrics.json", "best/adapter_model.safetensors"
    assert_same_end(run, whole, *names)
    assert not (run / "checkpoints").exists()


def test_the_sample_model_is_laid_out_as_the_polyglot_one():
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= 4 * 2**20
    tokenizer, model = sample_tokenizer(), GPTNeoXForCausalLM.from_pretrained(MODEL)
    assert "token_type_ids" in tokenizer("급식") and tokenizer.pad_token == tokenizer.eos_token
    assert model.config.use_parallel_residual and not model.config.tie_word_embeddings
    attention = model.gpt_neox.layers[0].attention
    assert attention.rotary_ndims * 2 == attention.head_size
    text = "오늘 급식 진짜 맛있다 ABC 🍀"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
