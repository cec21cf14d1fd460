"""The two GPT scripts: prompt, packing, scores, objectives, and whole runs on the sample as a user makes them."""

import json
import math

import numpy as np
import peft
import psutil
import pytest
import torch
from conftest import ROOT, make_row, run_script, write_rows
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from tqdm import tqdm
from transformers import (
    AutoTokenizer,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import gpt_inference
import gpt_train
import utils

MODEL = utils.SAMPLE / "gpt-neox-tiny"
TEXTS = ["오늘 급식 최고", "### 응답:\n기쁨", "대상: 없음 : ### 입력:", "너무 무섭다 " * 20, "<|endoftext|>슬픔", "싫다"]
ROWS = [make_row(str(n), form=f"{text} 급식", target="급식" if n % 2 else None) for n, text in enumerate(TEXTS)]
ARGUMENTS = ["--model", str(MODEL), "--rank", "4", "--dropout", "0"]


def byte_tokenizer():
    """Every byte a token: an answer has six or nine of them, and some begin alike."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<|endoftext|>": 0} | {byte: number for number, byte in enumerate(alphabet, start=1)}
    tokenizer = Tokenizer(models.BPE(vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


TOKENIZERS = {"single tokens": lambda: AutoTokenizer.from_pretrained(MODEL), "bytes": byte_tokenizer}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def tiny_model(tokenizer, architecture="gpt_neox", seed=0):
    """A causal language model with random weights in float32; its head is its own still."""
    torch.manual_seed(seed)
    size = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**size, intermediate_size=64, num_key_value_heads=2, initializer_range=0.3)).eval()
    return GPTNeoXForCausalLM(GPTNeoXConfig(**size, intermediate_size=64, initializer_range=0.3)).eval()


def make_prompt(tokenizer, language="ko", max_length=2048):
    return gpt_inference.Prompt(utils.PROMPTS[language], tokenizer, max_length)


def plain_log_probabilities(model, prompt, suffix):
    """The log-probability of each answer, one at a time, by whole passes without a cache. With gradients."""
    asked, answers = prompt.prefix_ids + suffix, []
    for ids in prompt.answer_ids:
        logits = model(input_ids=torch.tensor([asked + ids])).logits[0].float()
        steps = logits.log_softmax(-1)[len(asked) - 1 : -1]
        answers.append(steps[range(len(ids)), ids].sum())
    return torch.stack(answers)


def scores_of(model, prompt, suffixes, objective="answer", batch_size=4, precision="fp32"):
    with gpt_inference.evaluating(model, precision), tqdm(disable=True) as bar:
        cache = gpt_inference.run_prefix(model, prompt)
        return gpt_inference.score(model, prompt, objective, suffixes, cache, batch_size, bar)


def load_adapted(*arguments):
    """The tiny model of the sample in 4 bits with adapters that are not zero, and its prompt."""
    args = gpt_train.parser.parse_args([*ARGUMENTS, *arguments])
    prompt = make_prompt(AutoTokenizer.from_pretrained(MODEL))
    torch.manual_seed(0)
    model = gpt_inference.with_answer_head(gpt_inference.load_base(str(MODEL)), prompt.answer_ids)
    model = gpt_train.add_adapter(model, args)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    return model, prompt, args


# Prompt


@pytest.mark.parametrize("language", utils.PROMPTS)
def test_the_prompt_has_the_layout_that_kullm_was_tuned_with(language):
    tokenizer = byte_tokenizer()
    prompt = make_prompt(tokenizer, language)
    [suffix] = prompt.encode([make_row(form="오늘 급식 최고", target="급식")])
    text = tokenizer.decode(prompt.prefix_ids + suffix)
    instruction, given, response = ("명령어", "입력", "응답") if language == "ko" else ("Instruction", "Input", "Response")
    assert [line for line in text.split("\n") if line.startswith("###")] == [
        f"### {instruction}:",
        f"### {given}:",
        f"### {response}:",
    ]
    assert "오늘 급식 최고\n" in text and ": 급식\n" in text
    assert all(answer.strip() in text for answer in prompt.strings["answers"])
    assert len(prompt.answer_ids) == len(utils.EMOTIONS) + 1


def test_a_text_that_looks_like_the_prompt_stays_text(tokenizer):
    prompt = make_prompt(tokenizer)
    [response] = prompt.tokenize(prompt.strings["response"])
    for row, suffix in zip(ROWS, prompt.encode(ROWS), strict=True):
        text, target = utils.text_and_target(row)
        assert (
            tokenizer.decode(suffix)
            == text + (prompt.strings["target"] + target if target else "") + prompt.strings["response"]
        )
        assert suffix[-len(response) :] == response
        assert tokenizer.eos_token_id not in suffix  # "<|endoftext|>" in a text is no end of it


def test_truncation_shortens_the_text_alone(tokenizer):
    whole = make_prompt(tokenizer)
    [end] = whole.tokenize(whole.strings["target"] + "급식" + whole.strings["response"])
    longest = max(map(len, whole.answer_ids))
    prompt = make_prompt(tokenizer, max_length=len(whole.prefix_ids) + len(end) + longest + 3)
    rows = [make_row("a", form="급식 정말 좋다 " * 100, target="급식"), make_row("b", form="급식", target="급식")]
    [text], [cut, short] = whole.tokenize(utils.text_and_target(rows[0])[0]), prompt.encode(rows)
    assert cut == text[:3] + end
    assert len(prompt.prefix_ids) + len(cut) + longest == prompt.max_length
    packed = prompt.pack([cut, short])
    first = packed["logits_to_keep"][0, 0]
    assert first == len(prompt.prefix_ids) + len(cut) - 1  # the last token of the prompt foretells the answer
    with pytest.raises(utils.InputError, match="--max-length 20: the prompt alone takes"):
        make_prompt(tokenizer, max_length=20)
    with pytest.raises(utils.InputError, match=r"'c': input\.target\.form"):
        prompt.encode([make_row("c", form="급식 " * 50, target="급식 " * 49 + "급식")])


def test_answers_that_the_tokenizer_cannot_tell_apart_are_refused():
    tokenizer = byte_tokenizer()
    strings = utils.PROMPTS["ko"] | {"answers": ("기", "기쁨")}
    with pytest.raises(utils.InputError, match="cannot tell the answers '기' and '기쁨' apart"):
        gpt_inference.Prompt(strings, tokenizer, 512)


def test_the_answers_are_single_tokens_of_the_sample_and_begin_alike_in_bytes():
    assert [len(ids) for ids in make_prompt(AutoTokenizer.from_pretrained(MODEL)).answer_ids] == [1] * 9
    beginnings = [ids[0] for ids in make_prompt(byte_tokenizer()).answer_ids]
    assert len(set(beginnings)) < len(beginnings)


# Scores


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_packed_scores_are_those_of_one_line_at_a_time(tokenizer, architecture):
    """Float32: the order, the size and the padding of a batch leave no trace, nor does the shared beginning's cache."""
    model, prompt = tiny_model(tokenizer, architecture), make_prompt(tokenizer)
    suffixes = prompt.encode(ROWS)
    with torch.no_grad():
        plain = torch.stack([plain_log_probabilities(model, prompt, suffix) for suffix in suffixes])
    gpt_inference.with_answer_head(model, prompt.answer_ids)
    with torch.no_grad():
        uncached = model(**prompt.pack(suffixes)).logits
    assert (uncached - plain).abs().max() < 1e-4  # sums of up to nine logarithms of about -6
    for objective in gpt_train.LOSSES:
        expected = gpt_inference.to_scores(plain.double(), objective).numpy()
        assert expected.std() > 0.02
        for batch_size in (1, 4, 100):
            assert scores_of(model, prompt, suffixes, objective, batch_size) == pytest.approx(expected, abs=1e-5)
        backwards = scores_of(model, prompt, suffixes[::-1], objective)
        assert backwards[::-1] == pytest.approx(expected, abs=1e-5)


def test_packed_scores_are_those_of_a_left_padded_batch():
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model, prompt = tiny_model(tokenizer), make_prompt(tokenizer)
    lines = [prompt.prefix_ids + suffix for suffix in prompt.encode(ROWS)]
    tokenizer.padding_side = "left"
    inputs = tokenizer.pad({"input_ids": lines}, return_tensors="pt")
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        last = model(**inputs, position_ids=positions, logits_to_keep=1).logits[:, 0]
    answers = [ids[0] for ids in prompt.answer_ids[:-1]]
    gpt_inference.with_answer_head(model, prompt.answer_ids)
    packed = scores_of(model, prompt, prompt.encode(ROWS))
    assert packed == pytest.approx(last[:, answers].softmax(-1).numpy(), abs=1e-5)


def test_scores_in_4_bits_do_not_depend_on_the_batch():
    model, prompt, _ = load_adapted()
    suffixes = prompt.encode(ROWS)
    alone = np.concatenate([scores_of(model, prompt, [suffix]) for suffix in suffixes])
    assert scores_of(model, prompt, suffixes, batch_size=6) == pytest.approx(alone, abs=1e-5)
    assert scores_of(model, prompt, suffixes, batch_size=6, precision="bf16") == pytest.approx(alone, abs=0.1)


def test_evaluation_leaves_the_model_as_it_was_and_trainable():
    """bitsandbytes repacks weights in evaluation where the CPU has AVX512-BF16, and then gives no gradients."""
    model, prompt, _ = load_adapted()
    before = {name: (parameter.dtype, parameter.clone()) for name, parameter in model.named_parameters()}
    model.train()
    scores_of(model, prompt, prompt.encode(ROWS))
    assert model.training
    for name, parameter in model.named_parameters():
        assert parameter.dtype == before[name][0] and torch.equal(parameter, before[name][1])
    gpt_train.answer_loss(model(**prompt.pack(prompt.encode(ROWS))).logits, torch.eye(8)[: len(ROWS)]).backward()
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in model.named_parameters() if "lora_A" in name)


# Training


def test_what_is_frozen_stays_in_its_type_and_what_is_trained_is_the_adapter():
    model, _, args = load_adapted()
    assert model.get_base_model().is_activation_checkpointing
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        assert parameter.dtype in ((torch.float32,) if parameter.requires_grad else (torch.bfloat16, torch.uint8)), name
    adapted = {name.rpartition(".lora_")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_" in name}
    assert adapted == {"query_key_value"}
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trainable == 4 * args.rank * (128 + 3 * 128)


def test_target_modules_follow_the_architecture():
    assert gpt_train.attention_projections(tiny_model(byte_tokenizer(), "llama")) == ["k_proj", "q_proj", "v_proj"]
    with pytest.raises(utils.InputError, match="--target-modules"):
        gpt_train.attention_projections(nn.ModuleDict({"mixer": nn.Linear(2, 2)}))
    model, _, _ = load_adapted("--target-modules", "all-linear")
    adapted = {name.rpartition(".lora_")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_" in name}
    assert adapted == {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}


LABELS = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0], [0] * 8, [1, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1, 1, 0], [0] * 8, [1] * 8])


@pytest.mark.parametrize("objective", gpt_train.LOSSES)
def test_the_gradients_are_those_of_a_plain_reference(tokenizer, objective):
    """One line at a time, full logits, the loss spelt out; against the packed batch through the answers' head."""
    prompt, labels = make_prompt(tokenizer), LABELS.float()
    suffixes = prompt.encode(ROWS)
    model = tiny_model(tokenizer)
    losses = []
    for suffix, present in zip(suffixes, labels, strict=True):
        log_probabilities = plain_log_probabilities(model, prompt, suffix)
        if objective == "answer":
            wanted = [index for index in range(8) if present[index]] or [8]
            losses.append(sum(-log_probabilities[index] / len(wanted) for index in wanted))
        else:
            middle = sum(log_probabilities) / 9
            probabilities = [1 / (1 + torch.exp(1.7 + middle - log_probabilities[index])) for index in range(8)]
            losses.append(-sum((p if y else 1 - p).log() for p, y in zip(probabilities, present, strict=True)) / 8)
    expected = sum(losses) / len(losses)
    expected.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    gpt_inference.with_answer_head(model, prompt.answer_ids)
    loss = gpt_train.LOSSES[objective](model(**prompt.pack(suffixes)).logits, labels)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        assert (parameter.grad - gradients[name]).abs().max() < 1e-5 * max(1, gradients[name].abs().max()), name


def test_no_tensor_over_vocabulary_and_sequence_is_made():
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model, prompt = tiny_model(tokenizer), make_prompt(tokenizer)
    gpt_inference.with_answer_head(model, prompt.answer_ids)
    sizes = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: sizes.append((inputs[0].shape, output.shape)))
    model(**prompt.pack(prompt.encode(ROWS)))
    assert sizes == [((1, len(ROWS), 32), (len(ROWS), 9))]


def test_an_adapter_saved_and_loaded_gives_the_same_scores(tmp_path):
    model, prompt, _ = load_adapted()
    suffixes = prompt.encode(ROWS)
    model.save_pretrained(tmp_path)
    prompt.tokenizer.save_pretrained(tmp_path)
    prompt.save(tmp_path, "multilabel", model.config)
    again, prompt_again, objective = gpt_inference.load_checkpoint(tmp_path, str(MODEL))
    assert objective == "multilabel" and prompt_again.encode(ROWS) == suffixes
    assert scores_of(again, prompt_again, suffixes) == pytest.approx(scores_of(model, prompt, suffixes), abs=1e-6)
    assert peft.PeftConfig.from_pretrained(tmp_path).base_model_name_or_path == str(MODEL)


# Memory


def test_the_estimate_counts_what_the_model_holds():
    model, _, args = load_adapted()
    held, _ = gpt_train.estimate_memory(args)
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
    assert held["embeddings, head, norms, biases"] == frozen
    assert held["adapter and its gradients"] == 2 * trained


def test_what_cannot_fit_is_refused_with_advice_before_the_model_is_loaded(monkeypatch):
    prompt = make_prompt(AutoTokenizer.from_pretrained(MODEL))
    train = [{"input_ids": [5] * 100}] * 64
    args = gpt_train.parser.parse_args([*ARGUMENTS, "--batch-size", "64"])
    table, advice = gpt_train.check_memory(args, prompt, train)
    assert advice is None and "in all" in table and "a GPU of 24 GB: --batch-size up to 128" in table
    need = sum(float(line.split()[-1].replace(",", "")) for line in table.splitlines() if line.startswith("  in all")) * 2**20
    memory = psutil.virtual_memory()
    for share, told in ((0.5, "take --batch-size"), (0.01, "take a smaller --model")):
        free = memory._replace(available=need * share)
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: free)
        assert told in gpt_train.check_memory(args, prompt, train)[1]


def test_estimate_prints_a_table_and_writes_nothing(tmp_path):
    process = run_script("gpt_train.py", "--sample", "--estimate", "--output-dir", tmp_path / "out")
    assert process.returncode == 0 and process.stderr == ""
    for told in ("weights in 4 bits", "optimiser state", "in all", "free on cpu", "a GPU of 12 GB"):
        assert told in process.stdout
    assert not (tmp_path / "out").exists()


def test_the_longest_batch_is_one_of_random_batches():
    lengths = np.arange(1, 101)
    assert gpt_train.longest_batch(lengths, 7, 100, 3, 0) == 7 + lengths.sum()
    assert gpt_train.longest_batch(lengths, 0, 1, 1, 0) == 100
    assert lengths[-10:].sum() >= gpt_train.longest_batch(lengths, 0, 10, 2, 0) > 10 * lengths.mean()


# Whole runs


def read_scores(directory, split):
    lines = [json.loads(line) for line in (directory / f"{split}.scores.jsonl").read_text().splitlines()]
    return [line["id"] for line in lines], np.array([[line["scores"][name] for name in utils.EMOTIONS] for line in lines])


def test_a_sample_run_trains_and_is_predicted_with(tmp_path):
    process = run_script("gpt_train.py", "--sample", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    run = tmp_path / "outputs" / "gpt_train"
    metrics = json.loads((run / "metrics.json").read_text())
    dev = utils.read_corpus(utils.SAMPLE / "dev.jsonl", labelled=True)
    baseline, _ = utils.majority_micro_f1(utils.encode_labels(dev))
    assert metrics["dev"]["micro_f1"] > baseline + 0.10
    assert "test" not in metrics
    assert {"adapter_model.safetensors", "adapter_config.json", "prompt.json", "decision.json", "tokenizer.json"} <= {
        file.name for file in (run / "best").iterdir()
    }
    assert (
        "«" in process.stdout
        and "in 4 bits, frozen" in process.stdout
        and "gpt_inference.py --model-ckpt-path" in process.stdout
    )

    process = run_script("gpt_inference.py", "--sample", "--batch-size", 5, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    predicted = tmp_path / "outputs" / "gpt_inference"
    assert json.loads((predicted / "metrics.json").read_text()) == metrics
    for split in ("dev", "test"):
        rows = utils.read_corpus(utils.SAMPLE / f"{split}.jsonl")
        ids, scores = read_scores(predicted, split)
        assert ids == [row["id"] for row in rows]
        assert scores == pytest.approx(read_scores(run, split)[1], abs=1e-3)
        assert scores.sum(1) == pytest.approx(1, abs=1e-5)
        threshold = json.loads((run / "best" / "decision.json").read_text())["threshold"]
        predictions = utils.read_corpus(predicted / f"{split}.jsonl", labelled=True)
        assert [(p["id"], p["input"]) for p in predictions] == [(row["id"], row["input"]) for row in rows]
        assert (utils.encode_labels(predictions) == (scores >= threshold)).all()
    assert "at 0.5" in process.stdout


def test_multilabel_english_and_windows(tmp_path, monkeypatch):
    """Another objective and language end to end; prediction in windows smaller than the file keeps the order."""
    rows = [
        make_row(str(n), form=f"line {n} " + "so good " * (n % 7), target=None, labels=("joy",) * (n % 2)) for n in range(24)
    ]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    files = ["--train-file", file, "--dev-file", file]
    options = ["--objective", "multilabel", "--language", "en", "--max-length", 320, "--epochs", 1, "--threshold", 0.3]
    process = run_script("gpt_train.py", "--model", MODEL, *files, *options, "--output-dir", tmp_path / "run")
    assert process.returncode == 0, process.stderr
    best = tmp_path / "run" / "best"
    settings = json.loads((best / "prompt.json").read_text())
    assert settings["objective"] == "multilabel" and settings["max_length"] == 320
    assert settings["strings"]["answers"] == list(utils.PROMPTS["en"]["answers"])
    assert json.loads((best / "decision.json").read_text())["threshold"] == 0.3
    ids, scores = read_scores(tmp_path / "run", "dev")
    assert not math.isclose(scores[0].sum(), 1, abs_tol=1e-3)
    model, prompt, objective = gpt_inference.load_checkpoint(best, str(MODEL))
    monkeypatch.setattr(utils, "WINDOW", 7)
    with gpt_inference.evaluating(model):
        cache = gpt_inference.run_prefix(model, prompt)
        chunks = list(gpt_inference.score_file(file, 24, model, prompt, objective, cache, 4))
    assert [len(window) for window, _ in chunks] == [7, 7, 7, 3]
    assert [row["id"] for window, _ in chunks for row in window] == ids
    assert np.concatenate([values for _, values in chunks]) == pytest.approx(scores, abs=1e-3)


def test_resume_goes_on_from_the_last_checkpoint_and_ends_the_same(tmp_path):
    """Two epochs, with the run cut after the first by taking the later files away."""
    file = write_rows(tmp_path / "rows.jsonl", utils.read_corpus(utils.SAMPLE / "train.jsonl")[:48])
    run = tmp_path / "out"
    command = ["--model", MODEL, "--train-file", file, "--dev-file", file, "--epochs", 2, "--lr", "1e-3", "--output-dir", run]
    whole = run_script("gpt_train.py", *command)
    assert whole.returncode == 0, whole.stderr
    scores = (run / "dev.scores.jsonl").read_text()
    _, second = sorted((run / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    second.rename(tmp_path / "taken away")
    resumed = run_script("gpt_train.py", *command, "--resume")
    assert resumed.returncode == 0 and resumed.stderr == "", resumed.stderr
    assert "epoch 1/2" not in resumed.stdout and "epoch 2/2" in resumed.stdout
    assert (run / "dev.scores.jsonl").read_text() == scores


def test_the_sample_model_is_laid_out_as_the_polyglot_one():
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= 4 * 2**20
    tokenizer, model = AutoTokenizer.from_pretrained(MODEL), GPTNeoXForCausalLM.from_pretrained(MODEL)
    assert "token_type_ids" in tokenizer("급식") and tokenizer.pad_token == tokenizer.eos_token
    assert model.config.use_parallel_residual and not model.config.tie_word_embeddings
    assert model.gpt_neox.layers[0].attention.rotary_ndims * 2 == model.gpt_neox.layers[0].attention.head_size
    text = "오늘 급식 진짜 맛있다 ABC 🍀"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_readme_names_the_scripts():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "python gpt_train.py --estimate" in readme and "python gpt_inference.py --model-ckpt-path" in readme
