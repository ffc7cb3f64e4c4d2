"""The tokenizer of a GGUF file as ``tokenizer.json`` and ``tokenizer_config.json``: byte-level BPE, with every special
token left in the vocabulary, since ids are places in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

CONTROL, USER_DEFINED = 3, 4

_GPT2: list[dict[str, Any]] = [
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
]
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _split(digits: str) -> list[dict[str, Any]]:
    pattern = {"Regex": _WORDS % digits}
    return [{"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}, _BYTES]


#: How a text is cut before its pieces are merged, by ``tokenizer.ggml.pre``; the patterns are llama.cpp's.
CUTS: dict[str, list[dict[str, Any]]] = {
    "default": _GPT2,
    "gpt-2": _GPT2,
    "smollm": [{"type": "Digits", "individual_digits": True}, *_GPT2],
    "llama-bpe": _split("{1,3}"),
    "qwen2": _split(""),
}
NORMALIZERS: dict[str, dict[str, Any]] = {"qwen2": {"type": "NFC"}}
WHOLE_WORDS_FIRST = ("llama-bpe",)


def tokenizer_files(get: Callable[..., Any]) -> dict[str, Any]:
    """Content by file name. ``get`` reads a key of the file. Raises ValueError that says why it cannot be told."""
    kind, pre = get("tokenizer.ggml.model"), get("tokenizer.ggml.pre", "default")
    if kind != "gpt2":
        raise ValueError(f"has a tokenizer of the kind {kind!r}; only byte-level BPE (gpt2) can be converted")
    if pre not in CUTS:
        raise ValueError(f"cuts its text by {pre!r}; those that can be converted are {', '.join(CUTS)}")
    tokens: list[str] = get("tokenizer.ggml.tokens")
    return {
        "tokenizer.json": _tokenizer(get, pre, tokens),
        "tokenizer_config.json": _config(get, tokens),
    }


def _tokenizer(get: Callable[..., Any], pre: str, tokens: list[str]) -> dict[str, Any]:
    kinds = get("tokenizer.ggml.token_type", [1] * len(tokens))
    return {
        "version": "1.0",
        "added_tokens": [
            _added(number, token, special=kind == CONTROL)
            for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind in (CONTROL, USER_DEFINED)
        ],
        "normalizer": NORMALIZERS.get(pre),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": CUTS[pre]},
        "post_processor": _begin(get, tokens),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "ignore_merges": pre in WHOLE_WORDS_FIRST,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in get("tokenizer.ggml.merges")],
        },
    }


def _added(number: int, token: str, *, special: bool) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": token, **plain, "special": special}


def _begin(get: Callable[..., Any], tokens: list[str]) -> dict[str, Any] | None:
    """Puts the first token before a text, where the model wants that."""
    number = get("tokenizer.ggml.bos_token_id")
    if number is None or not get("tokenizer.ggml.add_bos_token", False):
        return None
    token = tokens[number]
    first, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, second],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }


def _config(get: Callable[..., Any], tokens: list[str]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "chat_template": get("tokenizer.chat_template"),
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        number = get(f"tokenizer.ggml.{key}_token_id")
        told[f"{name}_token"] = None if number is None else tokens[number]
    return {name: value for name, value in told.items() if value is not None}
