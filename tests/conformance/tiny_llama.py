"""A Llama of random weights whose tokens are bytes: what a model's folder is made of, in a third of a megabyte.

It leans towards quotes and closing brackets, so that JSON which it is held to comes to an end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, LAYERS, HEADS, INNER, CONTEXT = 32, 10, 2, 64, 4096
BOS, EOS = 256, 257
LEANS = {'"': 3.0, "]": 2.5, "}": 2.0}
TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + ':' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
#: A template that tells of tools, in whose form mlx-lm recognises the tool calls of Qwen and Hermes.
WITH_TOOLS = (
    "{% if tools %}{% for tool in tools %}{{ tool.function.name }}{% endfor %}"
    "<tool_call>{# tool_call.name #}</tool_call>{% endif %}" + TEMPLATE
)


def byte_letters() -> list[str]:
    """How byte-level BPE writes each byte: GPT-2's table."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def make(folder: Path, template: str = TEMPLATE) -> Path:
    folder.mkdir(parents=True)
    files: dict[str, Any] = {
        "config.json": _config(),
        "generation_config.json": {"eos_token_id": [EOS]},
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "chat_template": template,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    _write(folder / "model.safetensors", _weights())
    return folder


def _config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "head_dim": WIDTH // HEADS,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": CONTEXT,
        "vocab_size": 258,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }


def _tokenizer() -> dict[str, Any]:
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    words = {letter: number for number, letter in enumerate(byte_letters())} | {"<s>": BOS, "</s>": EOS}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": BOS, "content": "<s>", **plain},
            {"id": EOS, "content": "</s>", **plain},
        ],
        "pre_tokenizer": bytewise,
        "decoder": bytewise,
        "model": {"type": "BPE", "vocab": words, "merges": []},
    }


def _weights() -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(5)
    rows = {"q": WIDTH, "k": WIDTH // HEADS, "v": WIDTH // HEADS}
    weights = {
        "model.embed_tokens.weight": random.normal(0, 0.2, (258, WIDTH)),
        "lm_head.weight": random.normal(0, 0.1, (258, WIDTH)),
        "model.norm.weight": np.ones(WIDTH),
    }
    # The same in every token, so that the head's column below is a leaning.
    weights["model.embed_tokens.weight"][:, 0] = 2
    for letter, by in LEANS.items():
        weights["lm_head.weight"][ord(letter), 0] += by / 4
    weights["lm_head.weight"][[BOS, EOS], 0] -= 2
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{name}{norm}.weight"] = np.ones(WIDTH)
        for kind, count in rows.items():
            weights[f"{name}self_attn.{kind}_proj.weight"] = random.normal(0, 0.1, (count, WIDTH))
        weights[f"{name}self_attn.o_proj.weight"] = random.normal(0, 0.02, (WIDTH, WIDTH))
        weights[f"{name}mlp.gate_proj.weight"] = random.normal(0, 0.1, (INNER, WIDTH))
        weights[f"{name}mlp.up_proj.weight"] = random.normal(0, 0.1, (INNER, WIDTH))
        weights[f"{name}mlp.down_proj.weight"] = random.normal(0, 0.02, (WIDTH, INNER))
    return weights


def _write(path: Path, weights: dict[str, np.ndarray[Any, Any]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, numbers in weights.items():
        start, end = end, end + 4 * numbers.size
        header[name] = {"dtype": "F32", "shape": list(numbers.shape), "data_offsets": [start, end]}
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    numbers_in_turn = b"".join(numbers.astype("<f4").tobytes() for numbers in weights.values())
    path.write_bytes(len(told).to_bytes(8, "little") + told + numbers_in_turn)
