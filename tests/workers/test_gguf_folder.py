"""GGUF files as folders: the same tokens as llama.cpp, the same weights as gguf's own, and files that are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.errors import EngineUnavailable
from workers.engines.llamacpp import packaged_model

gguf = pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")

from workers.engines.gguf_folder import convert, converted  # noqa: E402
from workers.engines.gguf_tokenizer import CUTS, tokenizer_files  # noqa: E402

WIDTH, HEADS, KV_HEADS, INNER = 16, 4, 2, 32


def write(path: Path, kind: str = "llama", tensors: dict[str, Any] | None = None, **told: Any) -> Path:
    """A GGUF file of one layer. ``told`` are keys that stand otherwise, ``__`` for a dot."""
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_file_type(0)
    writer.add_tokenizer_model(told.get("model", "gpt2"))
    writer.add_tokenizer_pre(told.get("pre", "gpt-2"))
    writer.add_token_list(["a", "b", "ab", "<end>"])
    writer.add_token_types([1, 1, 1, 3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(3)
    for name, numbers in (tensors or weights()).items():
        writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weights() -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(3)
    kv = WIDTH // HEADS * KV_HEADS
    shapes = {
        "token_embd.weight": (4, WIDTH),
        "output_norm.weight": (WIDTH,),
        "blk.0.attn_norm.weight": (WIDTH,),
        "blk.0.ffn_norm.weight": (WIDTH,),
        "blk.0.attn_q.weight": (WIDTH, WIDTH),
        "blk.0.attn_k.weight": (kv, WIDTH),
        "blk.0.attn_v.weight": (kv, WIDTH),
        "blk.0.attn_output.weight": (WIDTH, WIDTH),
        "blk.0.ffn_gate.weight": (INNER, WIDTH),
        "blk.0.ffn_up.weight": (INNER, WIDTH),
        "blk.0.ffn_down.weight": (WIDTH, INNER),
    }
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def read(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    data = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__")
    return {
        name: np.frombuffer(data[start:], "<f4", np.prod(told["shape"]), told["data_offsets"][0]).reshape(
            told["shape"]
        )
        for name, told in header.items()
    }


def halves(numbers: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """What llama.cpp's own converter does to a query or key projection: the way there."""
    each = numbers.reshape(heads, 2, len(numbers) // heads // 2, *numbers.shape[1:])
    return each.swapaxes(1, 2).reshape(numbers.shape)


def test_weights_come_back_as_they_were_before_llama_cpps_own_conversion(tmp_path: Path) -> None:
    given = weights()
    in_file = dict(given)
    in_file["blk.0.attn_q.weight"] = halves(given["blk.0.attn_q.weight"], HEADS)
    in_file["blk.0.attn_k.weight"] = halves(given["blk.0.attn_k.weight"], KV_HEADS)
    convert(write(tmp_path / "m.gguf", tensors=in_file), tmp_path / "m")
    found = read(tmp_path / "m")
    assert len(found) == len(given)
    for name, part in (
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("ffn_up", "mlp.up_proj"),
    ):
        assert np.array_equal(found[f"model.layers.0.{part}.weight"], given[f"blk.0.{name}.weight"])
    assert np.array_equal(found["model.embed_tokens.weight"], given["token_embd.weight"])


def test_other_architectures_keep_the_order_of_their_rows(tmp_path: Path) -> None:
    given = weights()
    convert(write(tmp_path / "m.gguf", kind="qwen2"), tmp_path / "m")
    assert np.array_equal(
        read(tmp_path / "m")["model.layers.0.self_attn.q_proj.weight"], given["blk.0.attn_q.weight"]
    )
    config = json.loads((tmp_path / "m/config.json").read_text())
    assert config["model_type"] == "qwen2"
    assert config["tie_word_embeddings"] is True
    assert config["rms_norm_eps"] == 1e-5


@pytest.mark.parametrize(
    ("kind", "changes", "tensors", "why"),
    [
        ("gemma", {}, {}, "architecture 'gemma'; those that can be converted are llama"),
        ("llama", {"model": "llama"}, {}, "tokenizer of the kind 'llama'"),
        ("llama", {"pre": "tekken"}, {}, "cuts its text by 'tekken'"),
        ("llama", {}, {"rope_freqs.weight": np.ones(2, np.float32)}, "tensor 'rope_freqs.weight'"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name_and_leaves_nothing(
    tmp_path: Path, kind: str, changes: dict[str, str], tensors: dict[str, Any], why: str
) -> None:
    source = write(tmp_path / "m.gguf", kind=kind, tensors=weights() | tensors, **changes)
    with pytest.raises(EngineUnavailable, match=why) as refused:
        convert(source, tmp_path / "m")
    assert "m.gguf" in refused.value.message
    assert refused.value.mend
    assert list(tmp_path.iterdir()) == [source]


def test_a_file_that_is_none_and_a_folder_that_is_there(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and then nothing")
    with pytest.raises(EngineUnavailable, match="no GGUF file"):
        convert(broken, tmp_path / "m")
    with pytest.raises(EngineUnavailable, match="is there already"):
        convert(write(tmp_path / "m.gguf"), tmp_path)


def test_a_node_converts_a_file_once_and_again_when_it_changed(tmp_path: Path) -> None:
    source = write(tmp_path / "m.gguf")
    first = converted(source, tmp_path / "models")
    made = (first / "model.safetensors").stat().st_mtime_ns
    assert converted(source, tmp_path / "models") == first
    assert (first / "model.safetensors").stat().st_mtime_ns == made
    write(source, tensors=weights() | {"output.weight": np.ones((4, WIDTH), np.float32)})
    assert converted(source, tmp_path / "models") != first


TEXTS = (
    "What is the capital of France?",
    "  two  spaces, and a tab\there; it's 12345 o'clock\n\n\nnew lines \n",
    "Ünïcödé ñ 漢字 한국어 🙂🙂 العربية",
    "<|im_start|>user\nHi<|im_end|>\n",
    "x=3.14;y=[1,2,3] # code\n    return x**2",
)


def test_the_packaged_model_cuts_texts_as_llama_cpp_does() -> None:
    xllamacpp = pytest.importorskip("xllamacpp")
    path = packaged_model()
    assert path is not None
    reader = gguf.GGUFReader(path)

    def get(key: str, default: Any = None) -> Any:
        return default if reader.get_field(key) is None else reader.get_field(key).contents()

    mine = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_files(get)["tokenizer.json"]))
    assert mine.token_to_id("<|im_end|>") == 2
    script = (
        "import json, sys, urllib.request, xllamacpp as x\n"
        "p = x.CommonParams(); p.model.path = sys.argv[1]; p.hostnames = ['127.0.0.1']; p.port = 0\n"
        "p.n_ctx = 64; p.verbosity = 0; s = x.Server(p)\n"
        "for text in json.loads(sys.argv[2]):\n"
        "    body = json.dumps({'content': text, 'parse_special': True}).encode()\n"
        "    asked = urllib.request.Request(s.listening_address + '/tokenize', body)\n"
        "    asked.add_header('Content-Type', 'application/json')\n"
        "    print('tokens', urllib.request.urlopen(asked).read().decode(), flush=True)\n"
    )
    assert xllamacpp is not None
    ran = subprocess.run(
        [sys.executable, "-c", script, str(path), json.dumps(TEXTS)],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = [
        json.loads(line[7:])["tokens"] for line in ran.stdout.splitlines() if line.startswith("tokens ")
    ]
    assert [mine.encode(text, add_special_tokens=False).ids for text in TEXTS] == theirs


def test_every_way_to_cut_a_text_is_one_that_the_tokenizer_library_takes() -> None:
    for pre in CUTS:
        told = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": ["a", "b", "ab", "<s>"],
            "tokenizer.ggml.token_type": [1, 1, 1, 3],
            "tokenizer.ggml.merges": ["a b"],
            "tokenizer.ggml.bos_token_id": 3,
            "tokenizer.ggml.add_bos_token": True,
        }
        made = tokenizer_files(told.get)["tokenizer.json"]
        assert tokenizers.Tokenizer.from_str(json.dumps(made)).encode("ab").ids == [3, 2]


def test_the_command_converts_and_says_what_is_wrong(tmp_path: Path) -> None:
    def laneway(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "laneway", "model", "convert", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    source = write(tmp_path / "m.gguf")
    done = laneway(source, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/config.json").is_file()
    again = laneway(source, tmp_path / "out")
    assert again.returncode == 1
    assert "is there already" in again.stderr
    assert "mend:" in again.stderr
    assert laneway(tmp_path / "none.gguf", tmp_path / "out2").returncode == 2
