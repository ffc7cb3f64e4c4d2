"""From a GGUF file to the folder that mlx-lm, vLLM and transformers load. Nothing is fetched: all is in the file.

Weights are written as float32, exactly as llama.cpp itself dequantises them. Needs the packages gguf and numpy.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, ReaderTensor, dequantize
from gguf.constants import LlamaFileType

from broker.errors import EngineUnavailable
from workers.engines.gguf_tokenizer import tokenizer_files

#: Grows with every change of what is written, so that a folder made before is not taken for one made now.
FORMAT = 1
#: What a folder of ours says of its source.
ORIGIN = "laneway.json"

OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class Architecture:
    """A kind of model that GGUF and the folder both know. ``interleaved``: GGUF keeps the rows of its query and key
    projections in llama.cpp's order of rotary pairs, which the folder does not.
    """

    name: str
    model_type: str
    interleaved: bool = False


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("LlamaForCausalLM", "llama", interleaved=True),
    "qwen2": Architecture("Qwen2ForCausalLM", "qwen2"),
    "qwen3": Architecture("Qwen3ForCausalLM", "qwen3"),
}


class Source:
    """A GGUF file that is being read. Raises EngineUnavailable for one that cannot be converted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._reader = GGUFReader(path)
        except (OSError, ValueError, IndexError, KeyError) as error:  # what it raises for a file that is none
            raise _refused(path, f"is no GGUF file that can be read: {error}") from error
        kind = str(self.get("general.architecture"))
        if kind not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise _refused(path, f"has the architecture {kind!r}; those that can be converted are {known}")
        self.kind = kind
        self.architecture = ARCHITECTURES[kind]
        if self.get(f"{kind}.expert_count", 0):
            raise _refused(path, "is a mixture of experts, which cannot be converted")
        if self.get(f"{kind}.rope.scaling.type", "none") != "none":
            raise _refused(path, "has scaled rotary positions, which cannot be converted")

    def get(self, key: str, default: Any = None) -> Any:
        field = self._reader.fields.get(key)
        return default if field is None else field.contents()

    def size(self, key: str, default: int | None = None) -> int:
        """A number of this architecture. Raises EngineUnavailable where the file does not say it."""
        found = self.get(f"{self.kind}.{key}", default)
        if found is None:
            raise _refused(self.path, f"says no {self.kind}.{key}")
        return int(found)

    def tensors(self) -> Iterator[tuple[str, ReaderTensor]]:
        """Each tensor under its name in the folder."""
        for tensor in self._reader.tensors:
            block = BLOCK.fullmatch(tensor.name)
            name = OUTER.get(tensor.name)
            if block is not None and block[2] in INNER:
                name = f"model.layers.{block[1]}.{INNER[block[2]]}.{block[3]}"
            if name is None:
                raise _refused(self.path, f"has a tensor {tensor.name!r}, which cannot be converted")
            yield name, tensor

    def quantisation(self) -> str:
        try:
            return str(LlamaFileType(self.get("general.file_type")).name).removeprefix("MOSTLY_")
        except ValueError:
            return ""


def convert(source: Path, folder: Path, progress: Callable[[int, int], None] = lambda done, of: None) -> None:
    """Write ``folder``, which must not be there yet. It appears whole or not at all. ``progress`` is told how many
    tensors of how many are done. Raises EngineUnavailable.
    """
    if folder.exists():
        raise EngineUnavailable(f"{folder} is there already", mend="name another folder, or remove it")
    gguf = Source(source)
    files = {"config.json": _config(gguf), "generation_config.json": _generation(gguf), ORIGIN: _origin(gguf)}
    try:
        files |= tokenizer_files(gguf.get)
    except ValueError as error:
        raise _refused(source, str(error)) from error
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        for name, content in files.items():
            (draft / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        _write_weights(gguf, draft / "model.safetensors", progress)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def converted(source: Path, models: Path) -> Path:
    """The folder of a GGUF file among a node's models, made by whoever comes first. Raises EngineUnavailable."""
    file = source.stat()
    identity = f"{source.resolve()} {file.st_size} {file.st_mtime_ns} {FORMAT}".encode()
    digest = hashlib.sha256(identity).hexdigest()[:12]
    models.mkdir(parents=True, exist_ok=True)
    folder = models / f"{source.stem}-{digest}"
    with (models / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            convert(source, folder)
    return folder


def _config(gguf: Source) -> dict[str, Any]:
    width, heads = gguf.size("embedding_length"), gguf.size("attention.head_count")
    names = {name for name, _ in gguf.tensors()}
    return {
        "architectures": [gguf.architecture.name],
        "model_type": gguf.architecture.model_type,
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": gguf.size("feed_forward_length"),
        "num_hidden_layers": gguf.size("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": gguf.size("attention.head_count_kv", heads),
        "head_dim": gguf.size("attention.key_length", width // heads),
        "max_position_embeddings": gguf.size("context_length"),
        "rms_norm_eps": _short(gguf.get(f"{gguf.kind}.attention.layer_norm_rms_epsilon", 1e-5)),
        "rope_theta": _short(gguf.get(f"{gguf.kind}.rope.freq_base", 10_000.0)),
        "attention_bias": "model.layers.0.self_attn.q_proj.bias" in names,
        "mlp_bias": "model.layers.0.mlp.up_proj.bias" in names,
        "tie_word_embeddings": "lm_head.weight" not in names,
        "vocab_size": len(gguf.get("tokenizer.ggml.tokens", ())),
        "torch_dtype": "float32",
    }


def _short(value: float) -> float:
    """The number that was meant by a float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _generation(gguf: Source) -> dict[str, Any]:
    ends = [gguf.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    told = {
        "bos_token_id": gguf.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": sorted({end for end in ends if end is not None}),
        "pad_token_id": gguf.get("tokenizer.ggml.padding_token_id"),
    }
    return {name: value for name, value in told.items() if value is not None}


def _origin(gguf: Source) -> dict[str, Any]:
    return {"source": gguf.path.name, "quantisation": gguf.quantisation(), "format": FORMAT}


def _write_weights(gguf: Source, path: Path, progress: Callable[[int, int], None]) -> None:
    """The safetensors format: the length of a JSON header, the header, then the numbers one after the other."""
    tensors = list(gguf.tensors())
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors:
        start, end = end, end + 4 * int(tensor.n_elements)
        shape = [int(length) for length in reversed(tensor.shape)]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    with path.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        for done, (name, tensor) in enumerate(tensors, 1):
            file.write(_numbers(gguf, name, tensor).astype("<f4").tobytes())
            progress(done, len(tensors))
        os.fsync(file.fileno())


def _numbers(gguf: Source, name: str, tensor: ReaderTensor) -> np.ndarray[Any, Any]:
    numbers: np.ndarray[Any, Any] = dequantize(tensor.data, tensor.tensor_type)
    if not gguf.architecture.interleaved or ".self_attn." not in name:
        return numbers
    heads = gguf.size("attention.head_count")
    if ".k_proj." in name:
        heads = gguf.size("attention.head_count_kv", heads)
    elif ".q_proj." not in name:
        return numbers
    pairs: np.ndarray[Any, Any] = numbers.reshape(heads, len(numbers) // heads // 2, 2, *numbers.shape[1:])
    return pairs.swapaxes(1, 2).reshape(numbers.shape)


def _refused(path: Path, what: str) -> EngineUnavailable:
    return EngineUnavailable(
        f"{path} {what}",
        mend="take a GGUF file of another model, or a model folder that needs no conversion",
    )
