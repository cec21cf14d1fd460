"""An adapter of gpt_train.py and its base as one ordinary classifier of sequences.

The base is read and merged one tensor at a time and written in files of half a gibibyte: a file and
the largest tensor in float32 are what is held.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
from bitsandbytes import functional
from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

import utils
from emotion import card, outputs, targets
from emotion.answers import BASE_LOGIT
from emotion.checkpoint import HEAD_FILE, Checkpoint, check_measures, loading
from emotion.prompt import Prompt
from emotion.vocabulary import read_tokenizer

SHARD = 2**29  # bytes of a file


class Base:
    """The tensors of a model's files, read one at a time."""

    def __init__(self, name: str) -> None:
        with loading(name):
            wanted = {
                "allow_patterns": "*.safetensors",
                "ignore_patterns": ["*/*", "consolidated*"],
            }
            path = Path(name) if Path(name).is_dir() else Path(snapshot_download(name, **wanted))
            self.files: dict[str, Path] = {}
            for file in sorted(path.glob("*.safetensors")):
                with safe_open(file, "pt") as opened:
                    self.files |= dict.fromkeys(opened.keys(), file)
        if not self.files:
            raise utils.InputError(f"{name}: has no weights in safetensors; give another --model")

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor as gpt_train.py loads it: in bfloat16."""
        with safe_open(self.files[name], "pt") as opened:
            return opened.get_tensor(name).to(torch.bfloat16)

    def shape(self, name: str) -> list[int]:
        """The measures of a tensor."""
        with safe_open(self.files[name], "pt") as opened:
            return list(opened.get_slice(name).get_shape())


class Merged:
    """What a checkpoint and its base come to.

    Args:
        path: of the checkpoint.

    Raises:
        utils.InputError: it cannot be said by a class of transformers for sequences.
    """

    def __init__(self, path: Path, base: str, found: Checkpoint) -> None:
        self.path, self.found, self.settings = path, found, found.settings
        with loading(base), torch.device("meta"):
            self.config = AutoConfig.from_pretrained(base, trust_remote_code=False)
            check_measures(path, self.settings["base"], base, self.config)
            causal = AutoModelForCausalLM.from_config(self.config, trust_remote_code=False)
            self.kind = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(self.config), None)
            single = self.kind(self.config) if self.kind else nn.Module()
        embedding = causal.get_input_embeddings()
        self.embedding = next(n for n, p in causal.named_parameters() if p is embedding.weight)
        self.rounds_scale = hasattr(embedding, "scalar_embed_scale")  # as Gemma, to the weights'
        scale = "scalar_embed_scale" if self.rounds_scale else "embed_scale"  # BioGPT's is exact
        self.scale = torch.tensor(float(getattr(embedding, scale, 1)))
        self.wanted = set(single.state_dict()) - {"score.weight"}
        self.base, head = Base(base), causal.get_output_embeddings()
        self.linears = linears_of(causal, head)
        self.adapter, self.scaling = read_adapter(path)
        self.check(base, head, linears_of(single, getattr(single, "score", None)))
        if self.settings["objective"] != "head":
            self.head = self.find_head(base, causal)
        self.tokenizer = read_tokenizer(path)
        size = causal.config.get_text_config().vocab_size
        self.prompt = Prompt.of_checkpoint(self.settings, self.tokenizer, size)
        if longest := max(map(len, self.prompt.answer_ids)) - 1:
            told = f"answers of up to {longest + 1} tokens are no rows of a head"
            raise utils.InputError(f"{path}: {told}; train with others by --answers, or with head")
        if found.rule.at_least_one and len(set(self.score()[1])) > 1:
            told = "its rule takes the most probable label, which a head without biases cannot tell"
            mend = f'write "at_least_one": false into {path / "decision.json"}'
            raise utils.InputError(f"{path}: {told}; {mend}")

    def check(self, base: str, head: nn.Module, linears: dict[str, bool]) -> None:
        """Raise utils.InputError where the base is of no such kind.

        Args:
            head: of the causal model.
            linears: of the class for sequences, as `linears_of`.
        """
        function = self.settings.get("head_function")
        asks = self.settings["objective"] != "head"
        adapted = {f"{name.rpartition('.')[0]}.weight" for name in self.adapter}
        told = ""
        if not self.kind:
            told = f"transformers has no class for sequences of {self.config.model_type}"
        elif getattr(self.config, "quantization_config", None):
            told = "its weights are quantised"
        elif lost := sorted(self.wanted - self.base.files.keys()):
            told = f"its files have no {lost[0]}"
        elif lost := sorted(linears.keys() - self.linears.keys()):
            told = f"{lost[0]} is no part of both its classes, for text and for sequences"
        elif asks and (lost := sorted(adapted - self.wanted)):
            told = f"the adapter is on {lost[0]} too, which its class for sequences has not"
        elif asks and getattr(head, "bias", None) is not None:
            told = "its head has a bias, which no class for sequences has"
        elif asks and (function is None or function[2] is not None):
            told = "what its class does to logits is not known, or is a cap"
        if told:
            raise utils.InputError(f"{base}: {told}; it cannot be merged")

    def find_head(self, base: str, causal: Any) -> str:
        """The name of the head's weights in the files.

        Raises:
            utils.InputError: they are under no name that is known.
        """
        head = causal.get_output_embeddings()
        names = {module: f"{name}.weight" for name, module in causal.named_modules()}
        if names[head] in self.base.files:
            return names[head]
        if self.config.get_text_config().tie_word_embeddings:
            return names[causal.get_input_embeddings()]
        others = self.base.files.keys() - causal.state_dict().keys()  # buffers of old among them
        found = [name for name in others if self.base.shape(name) == list(head.weight.shape)]
        if len(found) != 1:
            raise utils.InputError(f"{base}: its files have no {names[head]}; it cannot be merged")
        return found[0]

    def tensors(self, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and value of each tensor, in float32, to be written in `dtype`."""
        for name in sorted(self.wanted):
            weight = self.merged(name)
            if name == self.embedding and dtype != torch.bfloat16:  # in which training scales it
                types = (torch.bfloat16, dtype) if self.rounds_scale else (torch.float32,) * 2
                before, now = (self.scale.to(each) for each in types)
                weight = (weight.bfloat16() * before).float() / now
            yield name, weight
        yield "score.weight", self.score()[0]

    def merged(self, name: str) -> torch.Tensor:
        """A weight of the base as 4 bits hold it, with what the adapter adds."""
        weight = self.base.tensor(name)
        is_transposed = self.linears.get(name, False)
        if is_transposed:
            weight = weight.T.contiguous()
        if name in self.linears:
            packed, state = functional.quantize_4bit(
                weight, compress_statistics=True, quant_type="nf4"
            )
            state.dtype = torch.float32  # as products in float32 are made
            weight = functional.dequantize_4bit(packed, state)
        weight, module = weight.float(), name.removesuffix(".weight")
        if f"{module}.lora_A" in self.adapter:
            down, up = (self.adapter[f"{module}.lora_{each}"].float() for each in "AB")
            weight = weight + self.scaling * (up @ down)
        return weight.T if is_transposed else weight

    def score(self) -> tuple[torch.Tensor, list[float]]:
        """The head [labels, hidden], and what is to be added to its logits."""
        if self.settings["objective"] == "head":
            with loading(self.path):
                head = load_file(self.path / HEAD_FILE)
            return head["linear.weight"], head["linear.bias"].tolist()
        before, scale, _ = self.settings["head_function"]
        ids = [answer for [answer] in self.prompt.answer_ids]
        rows = self.base.tensor(self.head)[ids].float() * before * scale
        if self.settings["objective"] == "answer":
            return rows[:-1], [0.0] * (len(rows) - 1)
        return (rows - rows.mean(0))[:-1], [BASE_LOGIT] * (len(rows) - 1)

    def tokenized_alike(self, rows: list[utils.Row]) -> int:
        """How many lines give, as one text, the tokens that they are trained on in parts."""
        read = targets.read(rows, self.tokenizer, self.prompt.normalises, self.prompt.marks)
        strings, found = self.settings["strings"], 0
        for (text, target), suffix in zip(read, self.prompt.encode(rows, True), strict=True):
            about = strings["target"] + target if target else ""
            asked = strings["prefix"] + text + about + strings["response"]
            ids = self.tokenizer(asked)["input_ids"]
            found += ids == self.prompt.prefix_ids + suffix
        return found

    def write(self, directory: Path, dtype: torch.dtype) -> None:
        """Write weights, config, tokenizer, decision rule and card."""
        weights = size = 0
        shard: dict[str, torch.Tensor] = {}
        index: dict[str, str] = {}
        for name, tensor in self.tensors(dtype):
            shard[name] = tensor.to(dtype).contiguous()
            size += shard[name].nbytes
            if size >= SHARD or name == "score.weight":
                weights += 1
                file = f"model-{weights:05}.safetensors"
                save_file(shard, directory / file, {"format": "pt"})
                index |= dict.fromkeys(shard, file)
                size, shard = 0, {}
        told = {"metadata": {}, "weight_map": index}
        outputs.write_json(directory / "model.safetensors.index.json", told)
        self.write_beside(directory, dtype)

    def write_beside(self, directory: Path, dtype: torch.dtype) -> None:
        """Write what is no weight."""
        labels, rule, (_, constants) = self.found.labels, self.found.rule, self.score()
        is_answer, strings = self.settings["objective"] == "answer", self.settings["strings"]
        given = rule.threshold
        several = given if isinstance(given, list) else [given] * len(labels)
        moved = [shifted(t, c) for t, c in zip(several, constants, strict=True)]
        threshold = moved[0] if len(set(moved)) == 1 else moved
        config = self.config
        ids = {name: number for number, name in enumerate(labels)}
        config.id2label, config.label2id = dict(enumerate(labels)), ids
        config.architectures, config.dtype = [self.kind.__name__], dtype
        config.pad_token_id = self.tokenizer.pad_token_id
        config.problem_type = f"{'single' if is_answer else 'multi'}_label_classification"
        config.threshold, config.at_least_one = threshold, rule.at_least_one
        begin, end = strings["prefix"], strings["response"]
        config.prompt = {"prefix": begin, "target": strings["target"], "response": end}
        config.normalise_text, config.target_marks = self.prompt.normalises, self.prompt.marks
        config.save_pretrained(directory)
        begins = self.prompt.prefix_ids[:1] == [self.tokenizer.bos_token_id]
        first = (self.tokenizer.bos_token if begins else "") + begin
        before, behind = (json.dumps(words, ensure_ascii=False) for words in (first, end))
        self.tokenizer.chat_template = f"{{{{ {before} + messages[0]['content'] + {behind} }}}}"
        self.tokenizer.save_pretrained(directory)
        decision = {"labels": labels, "threshold": threshold, "at_least_one": rule.at_least_one}
        outputs.write_json(directory / "decision.json", decision)
        told = card.MERGED.format(
            base=self.found.settings.get("base", {}).get("model_type"),
            function="softmax" if is_answer else "sigmoid",
            prefix=begin,
            target=strings["target"],
            response=end,
            read=card.how_texts_are_read(self.prompt.normalises, self.prompt.marks),
            moved=card.MOVED * any(constants),
        )
        (directory / "README.md").write_text(told, encoding="utf-8")


def linears_of(model: nn.Module, head: nn.Module | None = None) -> dict[str, bool]:
    """The weights that 4 bits hold but the head's, and whether they are transposed, as GPT-2's."""
    return {
        f"{name}.weight": type(each) is Conv1D
        for name, each in model.named_modules()
        if type(each) in (nn.Linear, Conv1D) and each is not head
    }


def shifted(threshold: float, constant: float) -> float:
    """The threshold of a probability whose logit lacks a constant."""
    if not 0 < threshold < 1 or not constant:
        return threshold
    return 1 / (1 + math.exp(constant - math.log(threshold / (1 - threshold))))


def read_adapter(path: Path) -> tuple[dict[str, torch.Tensor], float]:
    """The matrices of an adapter by module and "lora_A" or "lora_B", and what it is scaled by.

    Raises:
        utils.InputError: it has more than these, as DoRA has, or is scaled otherwise.
    """
    with loading(path):
        config = peft.PeftConfig.from_pretrained(str(path))
        weights = load_file(path / "adapter_model.safetensors")
    named = {}
    for name, tensor in weights.items():
        module = name.removeprefix("base_model.model.").removesuffix(".weight")
        named[module] = tensor
    others = (
        *("use_dora", "use_rslora", "use_qalora", "rank_pattern", "alpha_pattern"),
        *("layer_replication", "alora_invocation_tokens", "target_parameters"),
    )
    strange = [name for name in others if getattr(config, name, None)]
    strange += [name for name in named if not name.endswith((".lora_A", ".lora_B"))]
    if strange:
        told = f"has {strange[0]}, and plain LoRA alone is merged; ask it with gpt_inference.py"
        raise utils.InputError(f"{path}: {told}")
    return named, config.lora_alpha / config.r
