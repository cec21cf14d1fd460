"""Tiny random causal language models of every layout that people bring, made offline.

`build("gemma2", directory)` writes a config, random weights and a tokenizer as the family has them;
`AutoTokenizer` and `AutoModelForCausalLM` load them from there. Scales, caps and windows are set so
that leaving one out shows: weights are large, a short window is shorter than any prompt.
"""

import functools
import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import utils
from emotion.prompt_words import KOREAN, PROMPTS

SEED = 42
ROWS = 64  # those of an embedding are a multiple of it: more than the tokenizer has tokens
WINDOW = 32  # tokens; the prompt alone is longer
WIDE = 4096  # longer than any prompt
SPREAD = 0.03  # of weights: scores depend on what stands far before
SIZES: dict[str, Any] = {  # by every name that a config has for it
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "dff", "d_inner"), 128),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 1024),
    **dict.fromkeys(("initializer_range", "init_std"), SPREAD),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    **{"num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16},
    **{"num_experts_per_tok": 2, "moe_intermediate_size": 64, "n_shared_experts": 1},
    **{"shared_expert_intermediate_size": 64, "shared_intermediate_size": 64, "decoder_layers": 2},
    **{"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_d_ssm": 128},
    **{"mamba_chunk_size": 16, "rotary_dim": 8, "hidden_size_per_layer_input": 16},
}
SPECIAL = ("bos", "eos", "pad")
PROMPTS_SEEN = 10
VOCABULARIES = {  # tokens, and how many characters are tokens; 0: bytes are
    **{"bytes": (800, 0), "digits": (800, 0)},  # split as GPT-2 and as GPT-4 do
    **{"spaces": (720, 400), "unigram": (1000, 800)},  # of words behind a mark for the space
    "jamo": (600, 1000),  # of parts of syllables
}
GPT_4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LATENT = {  # attention through a bottleneck, as of DeepSeek
    **{"kv_lora_rank": 32, "q_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16},
    **{"v_head_dim": 16, "num_key_value_heads": 4},
}


class Layout(NamedTuple):
    """What a model is made of.

    Args:
        model_type: that its config names.
        tokenizer: a key of `KINDS`.
        settings: of its config, beside `SIZES`; of the text part, if it has several.
        vision: settings of the tower beside the text part.
        rows_missing: the rows that the embedding has less than the tokenizer has tokens.
        quantised: whether it is saved in 4 bits, for products in float16.
    """

    model_type: str
    tokenizer: str = "gpt2"
    settings: Mapping[str, Any] = MappingProxyType({})
    vision: dict[str, Any] | None = None
    rows_missing: int = 0
    quantised: bool = False


class Kind(NamedTuple):
    """What a tokenizer is made of.

    Args:
        pieces: a key of `VOCABULARIES`.
        first, last: special tokens before and after those of the vocabulary.
        roles: which of them is the beginning, the end, padding; and more arguments of the class.
        bos: whether the beginning is put before every text.
        family: the tokenizer's class.
    """

    pieces: str
    first: tuple[str, ...]
    last: tuple[str, ...]
    roles: dict[str, Any]
    bos: bool = False
    family: str = "TokenizersBackend"


END, UNKNOWN = "<|endoftext|>", {"unk_token": "<unk>"}
SENTENCES = {"bos_token": "<s>", "eos_token": "</s>", **UNKNOWN}
LEFT = {"padding_side": "left"}
KINDS = {
    "gpt2": Kind("bytes", (), (END,), {"bos_token": END, "eos_token": END}, family="GPT2Tokenizer"),
    "gpt2-bos": Kind(
        *("bytes", ("<s>", "<pad>", "</s>", "<unk>"), ()),
        {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "</s>"},
        bos=True,
        family="GPT2Tokenizer",
    ),
    "gpt-neox": Kind(
        *("bytes", (END, "<|padding|>"), ()),
        {"bos_token": END, "eos_token": END, "pad_token": "<|padding|>"},
        family="GPTNeoXTokenizer",
    ),
    "polyglot": Kind("bytes", (), (END, "<|sep|>"), {"eos_token": END, "pad_token": END}),
    "kakao": Kind(
        *("bytes", ("[EOS]", "[BOS]", "[PAD]", "[UNK]"), ()),
        {"bos_token": "[BOS]", "eos_token": "[EOS]", "pad_token": "[PAD]", "unk_token": "[UNK]"},
    ),
    "kogpt2": Kind(
        *("spaces", ("<s>", "</s>", "<usr>", "<pad>", "<unk>"), ()),
        {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", **UNKNOWN},
    ),
    "llama2": Kind(
        *("spaces", ("<unk>", "<s>", "</s>"), ()),
        SENTENCES | LEFT | {"legacy": True},
        bos=True,
        family="LlamaTokenizer",
    ),
    "mistral": Kind(
        *("spaces", ("<unk>", "<s>", "</s>"), ()),
        SENTENCES | LEFT | {"legacy": False, "pad_token": "<unk>"},
        bos=True,
        family="LlamaTokenizer",
    ),
    "phi3": Kind(
        *("spaces", ("<unk>", "<s>", "</s>"), (END,)),
        SENTENCES | LEFT | {"legacy": False, "eos_token": END, "pad_token": END},
        family="LlamaTokenizer",
    ),
    "llama3": Kind(
        *("digits", (), ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")),
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        bos=True,
    ),
    "kanana": Kind(
        *("digits", (), ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")),
        LEFT
        | {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
        | {"pad_token": "<|end_of_text|>"},
        bos=True,
    ),
    "qwen": Kind(
        *("digits", (), (END, "<|im_start|>", "<|im_end|>")),
        {"eos_token": "<|im_end|>", "pad_token": END},
        family="Qwen2Tokenizer",
    ),
    "gemma": Kind(
        *("spaces", ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"), ()),
        {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", **UNKNOWN} | LEFT,
        bos=True,
        family="GemmaTokenizer",
    ),
    "cohere": Kind(
        *("bytes", ("<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<BOS_TOKEN>"), ("<EOS>",)),
        {"pad_token": "<PAD>", "bos_token": "<BOS_TOKEN>", "eos_token": "<EOS>"} | LEFT,
        bos=True,
        family="CohereTokenizer",
    ),
    "bloom": Kind(
        *("bytes", ("<unk>", "<s>", "</s>", "<pad>"), ()), SENTENCES | {"pad_token": "<pad>"} | LEFT
    ),
    "exaone": Kind(
        *("digits", ("[PAD]", "[BOS]", "[EOS]", "[UNK]"), ("[|endofturn|]",)),
        {"pad_token": "[PAD]", "bos_token": "[BOS]", "eos_token": "[|endofturn|]"},
    ),
    "hyperclovax": Kind(
        *("digits", (), (END, "<|endofturn|>")),
        {"bos_token": END, "pad_token": END, "eos_token": "<|endofturn|>", "unk_token": END},
    ),
    "granite": Kind("bytes", (END,), (), {"bos_token": END, "eos_token": END, "pad_token": END}),
    "deepseek": Kind(
        *("digits", ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"), ()),
        {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}
        | {"pad_token": "<｜end▁of▁sentence｜>"},
        bos=True,
    ),
    "no-end": Kind("bytes", (), (END,), {"eos_token": END}),
    "xglm": Kind(
        *("unigram", ("<s>", "<pad>", "</s>", "<unk>"), ()),
        SENTENCES | {"pad_token": "<pad>"},
        family="XGLMTokenizer",
    ),
    "xlnet": Kind(
        *("jamo", ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"), ()),
        SENTENCES | LEFT | {"pad_token": "<pad>"},
        family="XLNetTokenizer",
    ),
}
MIXED = {"num_hidden_layers": 4}  # so that one layer in four is of another kind
CAPS = {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0}
SCALES = {
    **{"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "attention_multiplier": 0.0625,
}
DELTA = {"layer_types": ["linear_attention", "full_attention"]}
TOWER = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "patch_size": 16},
    **{"num_attention_heads": 2, "image_size": 32},
}
TEXT_4 = {
    **{"num_hidden_layers": 3, "global_head_dim": 16, "final_logit_softcapping": 2.0},
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
}
LAYOUTS: dict[str, Layout] = {
    # attention alone, rotary positions
    "gpt-neox": Layout("gpt_neox", "gpt-neox"),
    "polyglot": Layout("gpt_neox", "polyglot"),
    "llama2": Layout("llama", "llama2"),
    "llama3": Layout("llama", "llama3"),
    "kanana": Layout("llama", "kanana", {"tie_word_embeddings": True}),
    "llama-no-pad": Layout("llama", "no-end", {"pad_token_id": None}),
    "llama-more-tokens": Layout("llama", "mistral", rows_missing=16),
    "llama-4-bit": Layout("llama", "kanana", quantised=True),
    "mistral": Layout("mistral", "mistral", {"sliding_window": WIDE}),
    "mistral-window": Layout("mistral", "mistral", {"sliding_window": WINDOW}),
    "qwen2": Layout("qwen2", "qwen"),
    "qwen2-window": Layout(
        *("qwen2", "qwen"),
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": Layout("qwen3", "qwen", {"tie_word_embeddings": True}),
    "ax-light": Layout("qwen3", "qwen"),  # A.X 3.1 Light and 4.0 are of Qwen's or Llama's classes
    "ax-k1": Layout(
        *("axk1", "deepseek"),
        LATENT | {"n_group": 2, "topk_group": 1, "mlp_layer_types": ["dense", "sparse"]},
    ),
    "exaone4": Layout("exaone4", "exaone", MIXED | {"sliding_window": WIDE}),
    "exaone4-window": Layout("exaone4", "exaone", MIXED | {"sliding_window": WINDOW}),
    "solar-open": Layout("solar_open", "kanana"),
    "gemma": Layout("gemma", "gemma", {"hidden_size": 72}),  # its root is no bf16 number
    "gemma2": Layout("gemma2", "gemma", CAPS | {"sliding_window": WINDOW}),
    "gemma2-wide": Layout("gemma2", "gemma", CAPS | {"sliding_window": WIDE}),
    "gemma3": Layout("gemma3_text", "gemma", {"sliding_window": WIDE, "num_hidden_layers": 6}),
    "gemma3-window": Layout("gemma3_text", "gemma", {"sliding_window": WINDOW}),
    "gemma3-composite": Layout("gemma3", "gemma", {"sliding_window": WIDE}, vision=TOWER),
    "gemma3n": Layout(
        *("gemma3n_text", "gemma"),
        {"sliding_window": WIDE, "final_logit_softcapping": 2.0, "num_kv_shared_layers": 1}
        | {"laurel_rank": 8, "num_hidden_layers": 3, "activation_sparsity_pattern": [0.0] * 3}
        | {"layer_types": ["sliding_attention", "full_attention", "full_attention"]},
    ),
    "gemma4": Layout("gemma4_text", "gemma", TEXT_4 | {"sliding_window": WIDE}),
    "gemma4-composite": Layout(
        *("gemma4", "gemma", TEXT_4 | {"sliding_window": WINDOW}),
        vision=TOWER | {"num_key_value_heads": 2, "head_dim": 16, "image_size": None},
    ),
    "vaultgemma": Layout("vaultgemma", "gemma", CAPS | {"sliding_window": WINDOW}),
    "phi": Layout("phi"),
    "phi3": Layout("phi3", "phi3"),
    "stablelm": Layout("stablelm", "gpt-neox"),
    "olmo": Layout("olmo", "gpt-neox"),
    "olmo2": Layout("olmo2"),
    "olmo3": Layout("olmo3", settings=MIXED | {"sliding_window": WINDOW}),
    "smollm3": Layout("smollm3", "llama3", MIXED),
    "starcoder2": Layout("starcoder2"),
    "gpt-j": Layout("gptj", "kakao"),
    "codegen": Layout("codegen"),
    "gpt-neox-japanese": Layout("gpt_neox_japanese", "polyglot"),
    "persimmon": Layout("persimmon", "llama2"),
    "hyperclovax": Layout(
        *("hyperclovax", "hyperclovax"),
        {"logits_scaling": 0.125, "attention_multiplier": 0.0625, "residual_multiplier": 0.5},
    ),
    "cohere": Layout("cohere", "cohere", {"logit_scale": 0.25}),
    "cohere2": Layout("cohere2", "cohere", MIXED | {"logit_scale": 0.25, "sliding_window": WINDOW}),
    "granite": Layout("granite", "granite", SCALES),
    "nanochat": Layout("nanochat", "kakao", {"final_logit_softcapping": 2.0}),
    "minicpm3": Layout("minicpm3", "llama2", LATENT | {"dim_model_base": 16, "scale_emb": 3}),
    "helium": Layout("helium", "llama2"),
    "nemotron": Layout("nemotron", "gemma"),
    "glm4": Layout("glm4", "qwen"),
    "ministral3": Layout("ministral3", "kanana"),
    "seed-oss": Layout("seed_oss", "exaone"),
    "hunyuan": Layout("hunyuan_v1_dense", "exaone"),
    "ernie4.5": Layout("ernie4_5", "mistral"),
    "modernbert-decoder": Layout("modernbert-decoder", "gpt-neox", {"local_attention": WINDOW}),
    "diffllama": Layout("diffllama", "llama2"),
    # learned positions
    "gpt2": Layout("gpt2"),
    "kogpt2": Layout("gpt2", "kogpt2"),
    "gpt2-bos": Layout("gpt2", "gpt2-bos"),
    "gpt-neo": Layout(
        "gpt_neo", settings={"attention_types": [[["global", "local"], 1]], "window_size": WINDOW}
    ),
    "gpt-bigcode": Layout("gpt_bigcode"),
    "openai-gpt": Layout("openai-gpt", "kogpt2", {"initializer_range": 0.4}),
    "opt": Layout("opt", "gpt2-bos"),
    "xglm": Layout("xglm", "xglm"),
    "biogpt": Layout("biogpt", "kogpt2", {"hidden_size": 72}),
    "ctrl": Layout("ctrl", "kogpt2"),
    "bert-decoder": Layout("bert", "kogpt2", {"is_decoder": True}),
    "bart-decoder": Layout("bart", "gpt2-bos"),
    # relative positions and ALiBi
    "bloom": Layout("bloom", "bloom"),
    "falcon": Layout("falcon", "no-end", {"bias": True}),
    "falcon-alibi": Layout("falcon", "no-end", {"alibi": True, "parallel_attn": False}),
    "falcon-40b": Layout("falcon", "no-end", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "mpt": Layout("mpt", "gpt-neox"),
    "xlnet": Layout("xlnet", "xlnet"),
    # mixtures of experts
    "mixtral": Layout("mixtral", "mistral"),
    "qwen2-moe": Layout("qwen2_moe", "qwen"),
    "qwen3-moe": Layout("qwen3_moe", "qwen"),
    "gpt-oss": Layout("gpt_oss", "llama3", {"sliding_window": WINDOW}),
    "granite-moe": Layout("granitemoe", "granite", SCALES),
    "olmoe": Layout("olmoe", "gpt-neox"),
    "phi-moe": Layout("phimoe", "phi3"),
    "dbrx": Layout(
        *("dbrx", "gpt2"),
        {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}}
        | {"ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2}},
    ),
    "llama4": Layout("llama4_text", "llama3", {"intermediate_size_mlp": 128} | MIXED),
    "exaone-moe": Layout("exaone_moe", "exaone", MIXED | {"sliding_window": WINDOW}),
    "deepseek-v2": Layout("deepseek_v2", "deepseek", LATENT | {"first_k_dense_replace": 1}),
    "deepseek-v3": Layout(
        *("deepseek_v3", "deepseek"),
        LATENT | {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    ),
    # recurrent layers
    "qwen3.5": Layout("qwen3_5_text", "qwen", DELTA),
    "qwen3.5-composite": Layout(
        *("qwen3_5", "qwen", DELTA),
        vision={"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
        | {"out_hidden_size": 64, "num_position_embeddings": 16},
    ),
    "qwen3-next": Layout("qwen3_next", "qwen", DELTA),
    "lfm2": Layout(
        *("lfm2", "llama3"),
        MIXED | {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    ),
    "falcon-h1": Layout(
        *("falcon_h1", "llama3"),
        {"lm_head_multiplier": 0.25, "key_multiplier": 0.5, "embedding_multiplier": 4.0},
    ),
    "jamba": Layout("jamba", "mistral", {"attn_layer_period": 2, "attn_layer_offset": 1}),
    "bamba": Layout("bamba", "llama3", {"attn_layer_indices": [1]}),
    "granite-hybrid": Layout(
        *("granitemoehybrid", "granite", SCALES | {"layer_types": ["mamba", "attention"]})
    ),
    "mamba": Layout("mamba", "gpt-neox"),
    "mamba2": Layout("mamba2", "gpt-neox", {"num_heads": 8, "n_groups": 1, "state_size": 16}),
    "falcon-mamba": Layout("falcon_mamba", "gpt-neox"),
    "rwkv": Layout("rwkv", "gpt-neox"),
    "recurrent-gemma": Layout(
        *("recurrent_gemma", "gemma"),
        {"logits_soft_cap": 2.0, "attention_window_size": WINDOW, "num_key_value_heads": 1}
        | {"block_types": ["recurrent", "attention"], "w_init_variance_scale": 1.0},
    ),
}


def build(name: str, directory: Path) -> None:
    """Write the model of a layout into a directory: config, weights, tokenizer."""
    import torch
    import transformers

    layout = LAYOUTS[name]
    tokenizer = make_tokenizer(layout.tokenizer)
    config = make_config(layout, tokenizer)
    torch.manual_seed(SEED)
    has_tower = layout.vision is not None
    classes = transformers.AutoModelForImageTextToText, transformers.AutoModelForCausalLM
    model = classes[0 if has_tower else 1].from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms of ones and biases of zeros hide that they are left out
                parameter += 0.1 * torch.randn_like(parameter)
    model.to(torch.bfloat16).save_pretrained(directory)
    if layout.quantised:
        quantise(directory)
    tokenizer.save_pretrained(directory)


def quantise(directory: Path) -> None:
    """Save a model in 4 bits where it lies, for products in float16."""
    import torch
    import transformers

    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float16
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, quantization_config=settings, dtype=torch.float16, device_map={"": "cpu"}
    )
    model.save_pretrained(directory)


def make_config(layout: Layout, tokenizer: Any) -> Any:
    """The config of a layout, that fits a tokenizer."""
    from transformers import CONFIG_MAPPING

    rows = -(-len(tokenizer) // ROWS) * ROWS
    if layout.rows_missing:
        rows = len(tokenizer) - layout.rows_missing
    special = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in SPECIAL}
    known = SIZES | {"vocab_size": rows, "vocab_size_per_layer_input": rows} | special
    if layout.vision is None:
        return fill(CONFIG_MAPPING[layout.model_type], known, layout.settings)
    text = fill(CONFIG_MAPPING[f"{layout.model_type}_text"], known, layout.settings)
    vision = {name: value for name, value in layout.vision.items() if value is not None}
    made = {"text_config": text.to_dict(), "vision_config": vision, "mm_tokens_per_image": 4}
    family = CONFIG_MAPPING[layout.model_type]
    images = [each for each in fields(family) if each.endswith(("token_id", "token_index"))]
    made |= {name: rows - 1 - number for number, name in enumerate(images)}  # no text has them
    return fill(family, made | {"tie_word_embeddings": text.tie_word_embeddings}, {})


def fields(family: Any) -> set[str]:
    """The settings that a class of configs declares."""
    import dataclasses

    return {field.name for field in dataclasses.fields(family)}


def fill(family: Any, known: dict[str, Any], settings: Mapping[str, Any]) -> Any:
    """A config with what is known, as far as its class declares it, and with the settings."""
    declared = fields(family)
    return family(**{name: each for name, each in known.items() if name in declared} | {**settings})


@functools.cache
def make_tokenizer(name: str) -> Any:
    """The tokenizer of a kind."""
    import transformers
    from tokenizers import Tokenizer, decoders, models

    kind = KINDS[name]
    pieces, merges = train(kind.pieces)
    tokens = list(dict.fromkeys([*kind.first, *pieces, *kind.last]))
    arguments = kind.roles | ({"add_bos_token": True} if kind.bos else {})
    family = getattr(transformers, kind.family)
    if kind.pieces in ("unigram", "jamo"):  # what was learnt first is the likeliest
        scores = [
            0.0 if token in kind.first else -math.log(2 + tokens.index(token)) for token in tokens
        ]
        scored = list(zip(tokens, scores, strict=True))
        tokenizer = family(vocab=scored, unk_id=tokens.index("<unk>"), **arguments)
    elif kind.family != "TokenizersBackend":
        numbered = {token: number for number, token in enumerate(tokens)}
        tokenizer = family(vocab=numbered, merges=merges, **arguments)
    else:
        numbered = {token: number for number, token in enumerate(tokens)}
        has_spaces = kind.pieces == "spaces"
        settings = {"unk_token": "<unk>", "byte_fallback": True} if has_spaces else {}
        backend = Tokenizer(models.BPE(numbered, merges, **settings))
        backend.pre_tokenizer = splitting(kind.pieces)
        backend.decoder = decoders.Metaspace() if has_spaces else decoders.ByteLevel()
        tokenizer = family(tokenizer_object=backend, **arguments)
    tokenizer.add_special_tokens({"additional_special_tokens": [*kind.first, *kind.last]})
    return tokenizer


@functools.cache
def train(pieces: str) -> tuple[list[str], list[tuple[str, str]]]:
    """A vocabulary learnt from the sample corpus, and its merges; the same in every process."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    size, characters = VOCABULARIES[pieces]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = splitting(pieces)
    if pieces == "jamo":
        normal = [normalizers.NFKD(), normalizers.StripAccents()]
        tokenizer.normalizer = normalizers.Sequence(normal)
    alphabet = ["▁"] if characters else pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(characters), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    if pieces == "spaces":  # other characters fall back to bytes
        tokens = [f"<0x{number:02X}>" for number in range(256)] + tokens
    return tokens, [tuple(pair) for pair in model["merges"]]


def splitting(pieces: str) -> Any:
    """How text is split before its pieces are looked up."""
    from tokenizers import Regex, pre_tokenizers

    if pieces == "bytes":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pieces == "digits":
        by = pre_tokenizers.Split(Regex(GPT_4), behavior="isolated")
        of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([by, of])
    return pre_tokenizers.Metaspace()


def corpus(characters: int) -> list[str]:
    """The lines of the sample, and the prompts, often enough to be learnt.

    Args:
        characters: leave all but the most frequent out; 0: none.
    """
    rows = utils.read_corpus(utils.SAMPLE / "train.jsonl")
    lines = [text for row in rows for text in utils.text_and_target(row) if text]
    for language in PROMPTS.values():
        strings = [each for each in language.values() if isinstance(each, str)]
        said = [*"\n".join(strings).split("\n"), ", ".join(KOREAN.values()), " or ".join(KOREAN)]
        lines += PROMPTS_SEEN * said
    if not characters:
        return lines
    counts = Counter("".join(lines))
    kept = set(sorted(counts, key=lambda each: (-counts[each], each))[:characters])
    return ["".join(each if each in kept else " " for each in line) for line in lines]
