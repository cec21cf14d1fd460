"""Encoders that people bring, each as a tiny model of random weights with a tokenizer of its kind.

`build` writes one as its family lies on the hub: config, weights of the class that is published,
tokenizer. Ids, template, padding side and names of files are those of the family; sizes are not.
Vocabularies are made of the sample's training lines and hold every character of these.
"""

import functools
import json
import math
import struct
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
POSITIONS = 128  # that a model has at most, beside those that count from the pad id
LONGEST_PIECE = 4  # in characters, of wordpiece and unigram
SPREAD = 0.1  # of the random weights: wide enough for the words around a word to matter

BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
KLUE = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
GEMMA = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
KOBERT = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]")
MODERN = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
NAMED = {f"{name.strip('[]').lower()}_token": name for name in BERT}  # "pad_token": "[PAD]" ...
SEPARATED = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]")
LLAMA_3 = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
BEGINS = {"add_bos_token": True, "add_eos_token": False}  # then the template is made of these
ENCLOSED = {"add_bos_token": True, "add_eos_token": True}
QWEN = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False}
TWO_NAMES = {"model_input_names": ["input_ids", "attention_mask"]}


class Kind(NamedTuple):
    """A kind of tokenizer.

    Args:
        cls: of transformers.
        pieces: how words are cut: "wordpiece", "unigram", "jamo" (unigram of decomposed
            Hangul), "bytes" (byte-level BPE), "fallback" (BPE with bytes for what it lacks), or ""
            if the class needs no vocabulary.
        first, last: special tokens with the lowest and the highest ids.
        settings: of the class.
        template: of one text and of a pair; None for that of the class.
    """

    cls: str
    pieces: str
    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    settings: Mapping[str, Any] = {}
    template: tuple[str, str] | None = None


class Layout(NamedTuple):
    """A model and its tokenizer, to be written by `build`.

    Args:
        model_type: as transformers calls it.
        tokenizer: a key of `KINDS`.
        settings: of the config, beside the small sizes and the ids of the tokenizer.
        published: the class whose weights are on the hub.
        rewrite: called at the end with the directory, to change what transformers wrote.
        flaw: why a run cannot be right as it is; "" if it can.
        leaks: whether padding moves the scores of a line, though it is masked.
    """

    model_type: str
    tokenizer: str
    settings: Mapping[str, Any] = {}
    published: str = "AutoModel"
    rewrite: Callable[[Path], None] | None = None
    flaw: str = ""
    leaks: bool = False


# Vocabularies, made once in a process


@functools.cache
def texts() -> list[str]:
    """Texts and targets of the sample's training lines."""
    lines = (ROOT / "data/sample/train.jsonl").read_text(encoding="utf-8").splitlines()
    inputs = [json.loads(line)["input"] for line in lines]
    targets = [each["target"]["form"] for each in inputs if each["target"]["form"]]
    return [*(each["form"] for each in inputs), *targets]


def frequent(words: Iterable[str], mark: str, more: int) -> list[tuple[str, int]]:
    """Every character of words and the most frequent longer parts, with their counts.

    The trainers of wordpiece and unigram end with other pieces each time; this does not.

    Args:
        mark: what a part begins with that does not begin a word.
        more: how many longer parts.
    """
    counts: Counter[str] = Counter()
    for word in words:
        for begin, end in combinations(range(len(word) + 1), 2):
            if end - begin <= LONGEST_PIECE:
                counts[mark * (begin > 0) + word[begin:end]] += 1
    ranked = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    single = [each for each in ranked if len(each[0].removeprefix(mark)) == 1]
    longer = [each for each in ranked if len(each[0].removeprefix(mark)) > 1]
    return [*single, *longer[:more]]


@functools.cache
def wordpieces() -> list[str]:
    """Pieces of words; those that go on a word begin with ##."""
    from tokenizers import pre_tokenizers

    cut = pre_tokenizers.BertPreTokenizer()
    words = [word for text in texts() for word, _ in cut.pre_tokenize_str(text)]
    return [piece for piece, _ in frequent(words, "##", 250)]


@functools.cache
def unigrams(of_jamo: bool = False) -> list[tuple[str, float]]:
    """Pieces with their log-probabilities; those that begin a word begin with ▁.

    Args:
        of_jamo: of text that is decomposed (NFKD), as XLNet's tokenizer does with all text.
    """
    form = "NFKD" if of_jamo else "NFC"
    words = [f"▁{word}" for text in texts() for word in unicodedata.normalize(form, text).split()]
    counted = frequent(words, "", 340)
    total = sum(count for _, count in counted)
    return [(piece, math.log(count / total)) for piece, count in counted]


def merged(trainer: Any, pre_tokenizer: Any) -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces, in the order of their ids, and merges of a BPE."""
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(texts(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return by_id(model["vocab"]), [tuple(pair) for pair in model["merges"]]


def by_id(vocabulary: Mapping[str, int]) -> list[str]:
    """The pieces of a vocabulary in the order of their ids."""
    return sorted(vocabulary, key=vocabulary.__getitem__)


@functools.cache
def byte_merges() -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces and merges of a byte-level BPE."""
    from tokenizers import pre_tokenizers, trainers

    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    options = {"initial_alphabet": cut.alphabet(), "special_tokens": [], "show_progress": False}
    return merged(trainers.BpeTrainer(vocab_size=700, **options), cut)


@functools.cache
def fallback_merges() -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces and merges of a BPE that writes rare characters as bytes, <0x00> to <0xFF>."""
    from tokenizers import pre_tokenizers, trainers

    words = (f"▁{text}".replace(" ", "▁") for text in texts())
    letters = Counter(letter for word in words for letter in word)
    alphabet = sorted(letters, key=lambda letter: (-letters[letter], letter))[:400]
    options = {"initial_alphabet": alphabet, "limit_alphabet": len(alphabet)}
    options |= {"special_tokens": [], "show_progress": False}
    trainer = trainers.BpeTrainer(vocab_size=600, **options)
    pieces, merges = merged(trainer, pre_tokenizers.Metaspace())
    return [*(f"<0x{byte:02X}>" for byte in range(256)), *pieces], merges


def vocabulary(kind: Kind) -> dict[str, Any]:
    """The arguments `vocab` and, of a BPE, `merges` of a tokenizer's class."""
    first, last = kind.first, kind.last
    if kind.pieces in ("unigram", "jamo"):
        first, last = ([(token, 0.0) for token in tokens] for tokens in (first, last))
        return {"vocab": [*first, *unigrams(kind.pieces == "jamo"), *last]}
    if kind.pieces == "wordpiece":
        pieces, merges = wordpieces(), {}
    else:
        pieces, pairs = byte_merges() if kind.pieces == "bytes" else fallback_merges()
        merges = {"merges": pairs}
    rest = [piece for piece in pieces if piece not in {*first, *last}]
    return {"vocab": {piece: n for n, piece in enumerate([*first, *rest, *last])}, **merges}


@functools.cache
def tokenizer_of(name: str) -> Any:
    """The tokenizer of a kind. It is not to be changed."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    kind = KINDS[name]
    given = vocabulary(kind) if kind.pieces else {}
    if kind.cls == "PreTrainedTokenizerFast":
        backend = Tokenizer(models.BPE(**given))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        given = {"tokenizer_object": backend}
    tokenizer = getattr(transformers, kind.cls)(**given, **kind.settings)
    if kind.template:
        single, pair = kind.template
        special = {token for token in (*single.split(), *pair.split()) if token[0] != "$"}
        special = {token.split(":")[0] for token in special}
        ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in sorted(special)]
        template = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
        tokenizer.backend_tokenizer.post_processor = template
    return tokenizer


CASED = {"do_lower_case": False}
KINDS = {
    "bert": Kind("BertTokenizer", "wordpiece", BERT, settings=CASED),
    "klue-roberta": Kind("BertTokenizer", "wordpiece", KLUE, settings=CASED),
    "mpnet": Kind("MPNetTokenizer", "wordpiece", FAIRSEQ, ("[UNK]", "<mask>"), CASED),
    "funnel": Kind(
        "FunnelTokenizer",
        "wordpiece",
        ("<pad>", "<unk>", "<cls>", "<sep>", "<mask>", "<s>", "</s>"),
        settings=CASED,
    ),
    "roberta": Kind(
        "RobertaTokenizer", "bytes", FAIRSEQ, ("<mask>",), {"model_max_length": POSITIONS}
    ),
    "roberta-without-pad": Kind(
        "RobertaTokenizer", "bytes", ("<s>", "</s>", "<unk>"), ("<mask>",), {"pad_token": None}
    ),
    "luke": Kind("LukeTokenizer", "bytes", FAIRSEQ, ("<mask>", "<ent>", "<ent2>")),
    "deberta": Kind("DebertaTokenizer", "bytes", KLUE),
    "xlm-roberta": Kind("XLMRobertaTokenizer", "unigram", FAIRSEQ, ("<mask>",)),
    "camembert": Kind(
        "CamembertTokenizer",
        "unigram",
        ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"),
        ("<mask>",),
    ),
    "albert": Kind(
        "AlbertTokenizer",
        "unigram",
        ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
        settings={**CASED, "keep_accents": True},
    ),
    "fnet": Kind(
        "FNetTokenizer",
        "unigram",
        ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
        settings={**CASED, "keep_accents": True},
    ),
    "rembert": Kind("RemBertTokenizer", "unigram", ("<pad>", "[CLS]", "<unk>", "[SEP]", "[MASK]")),
    "bigbird": Kind(
        "BigBirdTokenizer",
        "unigram",
        ("<pad>", "</s>", "<s>", "<unk>"),
        ("[CLS]", "[SEP]", "[MASK]"),
    ),
    "deberta-v2": Kind(
        "DebertaV2Tokenizer", "unigram", ("[PAD]", "[CLS]", "[SEP]", "[UNK]"), ("[MASK]",)
    ),
    "xlnet": Kind(
        "XLNetTokenizer",
        "jamo",
        ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"),
        settings={"padding_side": "left"},
    ),
    "kobert": Kind(
        "XLNetTokenizer", "jamo", KOBERT, settings={**NAMED, "additional_special_tokens": []}
    ),
    "t5": Kind("T5Tokenizer", "unigram", ("<pad>", "</s>", "<unk>"), settings={"extra_ids": 0}),
    "modernbert": Kind(
        "PreTrainedTokenizerFast", "bytes", (), MODERN, NAMED | TWO_NAMES, SEPARATED
    ),
    "eurobert": Kind(
        "PreTrainedTokenizerFast",
        "bytes",
        (),
        ("<|begin_of_text|>", "<|end_of_text|>", "<|mask|>"),
        {**LLAMA_3, "pad_token": "<|end_of_text|>", "mask_token": "<|mask|>", **TWO_NAMES},
        (
            "<|begin_of_text|> $A <|end_of_text|>",
            "<|begin_of_text|> $A <|end_of_text|> $B <|end_of_text|>",
        ),
    ),
    "gemma": Kind("GemmaTokenizer", "fallback", GEMMA, settings=BEGINS),
    "embedding-gemma": Kind(
        "GemmaTokenizer", "fallback", GEMMA, settings={**ENCLOSED, "padding_side": "right"}
    ),
    "embedding-gemma-left": Kind(
        "GemmaTokenizer", "fallback", GEMMA, settings={**ENCLOSED, "padding_side": "left"}
    ),
    "llama": Kind("LlamaTokenizer", "fallback", ("<unk>", "<s>", "</s>"), settings=BEGINS),
    "llama-with-pad": Kind(
        "LlamaTokenizer",
        "fallback",
        ("<unk>", "<s>", "</s>", "<pad>"),
        settings={**BEGINS, "pad_token": "<pad>"},
    ),
    "llama-3": Kind(
        "PreTrainedTokenizerFast",
        "bytes",
        (),
        ("<|begin_of_text|>", "<|end_of_text|>"),
        LLAMA_3 | TWO_NAMES,
        ("<|begin_of_text|> $A", "<|begin_of_text|> $A <|begin_of_text|>:1 $B:1"),
    ),
    "qwen2": Kind("Qwen2Tokenizer", "bytes", (), ("<|endoftext|>", "<|im_end|>"), QWEN),
    "qwen3-embedding": Kind(
        "Qwen2Tokenizer",
        "bytes",
        (),
        ("<|endoftext|>", "<|im_end|>"),
        {**QWEN, "padding_side": "left"},
        ("$A <|endoftext|>", "$A $B <|endoftext|>"),
    ),
    "gpt2": Kind("GPT2Tokenizer", "bytes", (), ("<|endoftext|>",)),
    "canine": Kind("CanineTokenizer", ""),
    "perceiver": Kind("PerceiverTokenizer", ""),
}

# Configs


SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
    "initializer_range": SPREAD,
}
XLM_SIZE = {
    "emb_dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "max_position_embeddings": POSITIONS,
    "embed_init_std": SPREAD,
    "init_std": SPREAD,
}
SIZES: dict[str, dict[str, Any]] = {
    "distilbert": {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": POSITIONS,
        "initializer_range": SPREAD,
    },
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "initializer_range": SPREAD},
    "xlm": XLM_SIZE,
    "flaubert": XLM_SIZE,
    "funnel": {"block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64},
    "t5": {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
    | {"initializer_range": SPREAD},
    "bart": {"d_model": 32, "max_position_embeddings": POSITIONS, "init_std": SPREAD}
    | {
        f"{side}_{part}": size
        for side in ("encoder", "decoder")
        for part, size in (("layers", 2), ("ffn_dim", 64), ("attention_heads", 4))
    },
    "perceiver": {
        "d_model": 32,
        "d_latents": 32,
        "num_latents": 8,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 4,
        "num_cross_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "initializer_range": SPREAD,
    },
}
COUNTED = {"max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1}  # from the pad id + 1
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 16,
    "position_biased_input": False,
    "type_vocab_size": 0,
}
BIDIRECTIONAL = {
    **GROUPED,
    "use_bidirectional_attention": True,
    "sliding_window": 16,
    "query_pre_attn_scalar": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}
CAUSAL, MASKED = "AutoModelForCausalLM", "AutoModelForMaskedLM"


def config_of(name: str) -> Any:
    """The config of a layout, of transformers."""
    from transformers import AutoConfig

    layout, tokenizer = LAYOUTS[name], tokenizer_of(LAYOUTS[name].tokenizer)
    ids = {
        f"{each}_token_id": getattr(tokenizer, f"{each}_token_id") for each in ("pad", "bos", "eos")
    }
    settings = {"vocab_size": len(tokenizer), **ids, **SIZES.get(layout.model_type, SIZE)}
    return AutoConfig.for_model(layout.model_type, **settings | dict(layout.settings))


# What lies on the hub otherwise than transformers writes it


def old_names(directory: Path) -> None:
    """Weights as of 2019: a pickled state dict, and LayerNorm has gamma and beta."""
    import torch
    from safetensors.torch import load_file

    path = directory / "model.safetensors"
    renamed = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = {}
    for key, value in load_file(path).items():
        for new, old in renamed.items():
            key = key.replace(new, old)
        state[key] = value
    path.unlink()
    torch.save(state, directory / "pytorch_model.bin")


def only(directory: Path, **files: bytes) -> None:
    """Take the tokenizer's files away, and write these."""
    for path in directory.glob("*"):
        if path.name.startswith(("tokenizer", "special_tokens", "added_tokens", "vocab")):
            path.unlink()
    for name, content in files.items():
        (directory / name.replace("__", ".")).write_bytes(content)


def vocabulary_without_hangul(directory: Path) -> None:
    """A bare `vocab.txt` of another language: every Korean word is unknown."""
    only(directory, vocab__txt="\n".join([*BERT, *map(chr, range(33, 127))]).encode())


def vocabulary_lower_cased(directory: Path) -> None:
    """A bare `vocab.txt` that fits; but what says that it is cased is not there.

    Lower-casing takes accents off, for which it splits Hangul into jamo.
    """
    vocab = tokenizer_of("bert").get_vocab()
    only(directory, vocab__txt="\n".join(by_id(vocab)).encode())


def field(number: int, value: int | float | bytes) -> bytes:
    """A field of a protocol buffer."""
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    key, is_bytes = number << 3 | 2 * isinstance(value, bytes), isinstance(value, bytes)
    return varint(key) + (varint(len(value)) + value if is_bytes else varint(value))


def varint(value: int) -> bytes:
    """A number of a protocol buffer, 7 bits a byte."""
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def sentencepiece_model() -> bytes:
    """A `spiece.model` of KoBERT's kind, written without the library.

    A ModelProto has pieces (1: text, score, type), a TrainerSpec (2) and a NormalizerSpec (3).
    XLNet's tokenizer decomposes Hangul. KoBERT's normalizer composes it again; this one's pieces
    are of decomposed text instead.
    """
    normal, unknown, control = 1, 2, 3
    specials = [(token, 0.0, control) for token in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")]
    pieces = [("[UNK]", 0.0, unknown), *specials, *((*pair, normal) for pair in unigrams(True))]
    message = b""
    for text, score, kind in pieces:
        message += field(1, field(1, text.encode()) + field(2, float(score)) + field(3, kind))
    ids = field(40, 0) + field(41, 2) + field(42, 3) + field(43, 1)  # unk, bos, eos, pad
    names = (b"[UNK]", b"[CLS]", b"[SEP]", b"[PAD]")
    names_of_ids = b"".join(field(45 + n, name) for n, name in enumerate(names))
    message += field(2, field(3, 1) + field(4, len(pieces)) + ids + names_of_ids)
    return message + field(3, field(1, b"identity") + field(3, 1) + field(4, 1) + field(5, 1))


def spiece_alone(directory: Path) -> None:
    """KoBERT without its own Python code: nothing says what reads its `spiece.model`."""
    only(directory, spiece__model=sentencepiece_model())


def spiece_of_xlnet(directory: Path) -> None:
    """KoBERT as skt/kobert-base-v1: `spiece.model`, said to be that of an XLNet."""
    spiece_alone(directory)
    config = {"tokenizer_class": "XLNetTokenizer", **CASED, "keep_accents": True, **NAMED}
    config |= {"bos_token": "[CLS]", "eos_token": "[SEP]"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


# The layouts


LAYOUTS: dict[str, Layout] = {
    # Korean and multilingual, as people bring them
    "klue-bert": Layout("bert", "bert", published=MASKED),
    "klue-roberta": Layout("roberta", "klue-roberta", COUNTED, MASKED),
    "kcelectra": Layout("electra", "bert", {"embedding_size": 16}, "AutoModelForPreTraining"),
    "koelectra": Layout(
        "electra", "bert", {"embedding_size": 16, "hidden_size": 64}, "AutoModelForPreTraining"
    ),
    "kf-deberta": Layout(
        "deberta-v2", "bert", {**DEBERTA, "norm_rel_ebd": "layer_norm", "share_att_key": True}
    ),
    "kobigbird": Layout("big_bird", "bert", published="AutoModelForPreTraining"),
    "kobert": Layout(
        "bert",
        "kobert",
        rewrite=spiece_of_xlnet,
        flaw="needs sentencepiece, and then has a third token type",
    ),
    "kobert-bare": Layout("bert", "kobert", rewrite=spiece_alone, flaw="every word is unknown"),
    "xlm-roberta": Layout("xlm-roberta", "xlm-roberta", COUNTED, MASKED),
    "e5": Layout("xlm-roberta", "xlm-roberta", COUNTED),
    "bge-m3": Layout("xlm-roberta", "xlm-roberta", {**COUNTED, "max_position_embeddings": 258}),
    "mdeberta-v3": Layout(
        "deberta-v2", "deberta-v2", {**DEBERTA, "norm_rel_ebd": "layer_norm", "share_att_key": True}
    ),
    "jina-v3": Layout("jina_embeddings_v3", "xlm-roberta", {"type_vocab_size": 1}),
    "gte": Layout("gte", "xlm-roberta", {"type_vocab_size": 1}),
    "embedding-gemma": Layout("gemma3_text", "embedding-gemma", BIDIRECTIONAL),
    "embedding-gemma-left": Layout("gemma3_text", "embedding-gemma-left", BIDIRECTIONAL),
    "modernbert": Layout(
        "modernbert",
        "modernbert",
        {"layer_types": ["full_attention", "sliding_attention"], "local_attention": 16},
        MASKED,
    ),
    "modernbert-mean": Layout("modernbert", "modernbert", {"classifier_pooling": "mean"}, MASKED),
    "eurobert": Layout("eurobert", "eurobert", GROUPED, MASKED),
    "nomic-bert": Layout("nomic_bert", "bert"),
    # Other encoders
    "bert": Layout("bert", "bert"),
    "gamma-beta": Layout("bert", "bert", published="AutoModelForPreTraining", rewrite=old_names),
    "roberta": Layout("roberta", "roberta", COUNTED, MASKED),
    "roberta-prelayernorm": Layout("roberta-prelayernorm", "roberta", COUNTED),
    "camembert": Layout("camembert", "camembert", COUNTED, MASKED),
    "data2vec-text": Layout("data2vec-text", "roberta", COUNTED),
    "xlm-roberta-xl": Layout("xlm-roberta-xl", "xlm-roberta", COUNTED),
    "xmod": Layout(
        "xmod",
        "xlm-roberta",
        {**COUNTED, "languages": ["ko_KR", "en_XX"], "default_language": "ko_KR"},
    ),
    "ibert": Layout("ibert", "roberta", COUNTED),
    "esm": Layout(
        "esm", "xlm-roberta", {"max_position_embeddings": POSITIONS + 2, "mask_token_id": 4}
    ),
    "longformer": Layout(
        "longformer", "roberta", {**COUNTED, "attention_window": [16, 16]}, MASKED
    ),
    "luke": Layout("luke", "luke", {**COUNTED, "entity_vocab_size": 8, "entity_emb_size": 16}),
    "mpnet": Layout("mpnet", "mpnet", {"max_position_embeddings": POSITIONS + 2}),
    "distilbert": Layout("distilbert", "bert", published=MASKED),
    "albert": Layout("albert", "albert", {"embedding_size": 16}),
    "bigbird": Layout("big_bird", "bigbird"),
    "convbert": Layout("convbert", "bert", {"embedding_size": 16}, leaks=True),
    "deberta": Layout("deberta", "deberta", {**DEBERTA, "pos_att_type": ["c2p", "p2c"]}),
    "ernie": Layout("ernie", "bert"),
    "fnet": Layout("fnet", "fnet", leaks=True),
    "funnel": Layout("funnel", "funnel", {"architectures": ["FunnelModel"]}),
    "layoutlm": Layout("layoutlm", "bert"),
    "lilt": Layout("lilt", "xlm-roberta", {**COUNTED, "hidden_size": 48}),
    "megatron-bert": Layout("megatron-bert", "bert"),
    "mobilebert": Layout(
        "mobilebert",
        "bert",
        {"embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 2},
    ),
    "mra": Layout(
        "mra", "roberta", COUNTED, flaw="attention is zero without a CUDA kernel from the hub"
    ),
    "nystromformer": Layout("nystromformer", "albert", leaks=True),
    "rembert": Layout(
        "rembert", "rembert", {"input_embedding_size": 16, "output_embedding_size": 16}
    ),
    "roformer": Layout("roformer", "bert", {"embedding_size": 16}),
    "squeezebert": Layout("squeezebert", "bert", {"embedding_size": 32}),
    "yoso": Layout("yoso", "albert", COUNTED, leaks=True),
    "xlm": Layout("xlm", "bert"),
    "flaubert": Layout("flaubert", "bert"),
    "xlnet": Layout("xlnet", "xlnet"),
    "canine": Layout("canine", "canine", leaks=True),
    "perceiver": Layout("perceiver", "perceiver"),
    # Decoders as encoders, and encoders with a decoder
    "qwen3-as-encoder": Layout("qwen3", "qwen2", GROUPED, CAUSAL),
    "qwen3-without-pad-id": Layout("qwen3", "qwen2", {**GROUPED, "pad_token_id": None}, CAUSAL),
    "qwen3-embedding": Layout("qwen3", "qwen3-embedding", {**GROUPED, "pad_token_id": None}),
    "llama-as-encoder": Layout("llama", "llama-with-pad", GROUPED, CAUSAL),
    "llama-without-pad": Layout("llama", "llama", GROUPED, CAUSAL, flaw="no pad token"),
    "llama-3-without-pad": Layout("llama", "llama-3", GROUPED, CAUSAL, flaw="no pad token"),
    "gemma-as-encoder": Layout("gemma", "gemma", GROUPED, CAUSAL),
    "gpt2-without-pad": Layout("gpt2", "gpt2", published=CAUSAL, flaw="no pad token"),
    "t5": Layout(
        "t5",
        "t5",
        {"decoder_start_token_id": 0},
        "AutoModelForSeq2SeqLM",
        flaw="one batch needs one number of </s>",
    ),
    "t5-encoder": Layout(
        "t5",
        "t5",
        {"decoder_start_token_id": 0},
        "T5EncoderModel",
        flaw="its class has a decoder, whose weights are missing",
    ),
    "bart": Layout("bart", "roberta", flaw="one batch needs one number of </s>"),
    # What does not fit together
    "roberta-without-pad": Layout(
        "roberta", "roberta-without-pad", COUNTED, flaw="no pad id to count positions from"
    ),
    "tokenizer-too-large": Layout(
        "bert", "bert", {"vocab_size": 500}, flaw="ids beyond the embedding"
    ),
    "vocabulary-without-hangul": Layout(
        "bert", "bert", rewrite=vocabulary_without_hangul, flaw="every word is unknown"
    ),
    "vocabulary-lower-cased": Layout(
        "bert", "bert", rewrite=vocabulary_lower_cased, flaw="every word is unknown"
    ),
}


def build(name: str, directory: Path) -> None:
    """Write config, random weights and tokenizer of a layout; the same ones each time."""
    import torch
    import transformers

    layout = LAYOUTS[name]
    model_class = getattr(transformers, layout.published)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = config_of(name)
        is_auto = layout.published.startswith("Auto")
        model = model_class.from_config(config) if is_auto else model_class(config)
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases; else no one would see that one is lost
                parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    tokenizer_of(layout.tokenizer).save_pretrained(directory)
    if layout.rewrite:
        layout.rewrite(directory)
