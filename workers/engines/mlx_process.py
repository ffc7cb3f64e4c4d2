"""``python -m workers.engines.mlx_process``: the process that owns an MLX model.

Started by ``launcher.py``. One thread has the model and its batch (``mlx_batch.py``), another the door to it.
"""

from __future__ import annotations

import ctypes
import json
import logging
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

from workers.engines.http_door import HttpDoor
from workers.engines.resident import live

#: A wheel for Linux that brings OpenBLAS under its usual names, and what must be loaded before it.
BLAS_PACKAGE = "faiss-cpu"
BLAS_PARTS = ("libquadmath", "libgfortran", "libgomp", "libopenblas")

_batches: list[Any] = []


def load_openblas(threads: int) -> bool:
    """On Linux MLX multiplies by the reference BLAS in its wheel, ten times slower than OpenBLAS. A library that is
    loaded for all to see before MLX is, is found first. False where there is none.
    """
    try:
        parts = [Path(str(file.locate())) for file in files(BLAS_PACKAGE) or () if ".libs/" in str(file)]
    except PackageNotFoundError:
        parts = []
    loaded = None
    for name in BLAS_PARTS:
        for part in parts:
            if part.name.startswith(name):
                loaded = ctypes.CDLL(str(part), ctypes.RTLD_GLOBAL)
    if loaded is None or not hasattr(loaded, "openblas_set_num_threads"):
        return False
    loaded.openblas_set_num_threads(threads)
    return True


def serve(order: dict[str, Any]) -> tuple[int, str]:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    if sys.platform == "linux" and not load_openblas(order["cpu_threads"]):
        logging.warning("no OpenBLAS: pip install %s makes MLX ten times faster on this machine", BLAS_PACKAGE)
    folder = model_folder(Path(order["model_path"]), Path(order["models"]))
    return _opened(order, folder), revision(folder)


def _opened(order: dict[str, Any], folder: Path) -> int:
    from llguidance.hf import from_tokenizer
    from mlx_lm import load

    from workers.engines.mlx_batch import Batch
    from workers.engines.mlx_chat import Chat

    loaded: list[Any] = []

    def load_here() -> tuple[Any, set[int]]:
        model, tokenizer = load(str(folder))
        loaded.append(tokenizer)
        return model, set(tokenizer.eos_token_ids)

    doors: list[HttpDoor] = []

    def after_turn() -> None:
        doors[0].loop.call_soon_threadsafe(chat.turned)

    batch = Batch(load_here, order["slots"], order["waiting"], after_turn)
    batch.start()
    (tokenizer,) = loaded
    forms = from_tokenizer(tokenizer._tokenizer, eos_token=sorted(tokenizer.eos_token_ids))
    chat = Chat(batch, tokenizer, forms, order["model"], context_of(folder, order["context_tokens"]))
    doors.append(HttpDoor(chat.answer, order["key"]))
    _batches.append(batch)
    return doors[0].open()


def model_folder(path: Path, models: Path) -> Path:
    """The folder itself, or what is made of a GGUF file, once on a node."""
    if path.is_dir():
        return path
    from workers.engines.gguf_folder import converted

    return converted(path, models)


def context_of(folder: Path, wanted: int) -> int:
    """Never more than the model was trained for."""
    known = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    return min(wanted, known) if isinstance(known, int) else wanted


def revision(folder: Path) -> str:
    """How the weights are kept: "Q4_1 as float32" after a conversion, "4 bits" for MLX's own quantisation."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = str(config.get("torch_dtype") or config.get("dtype") or "")
    quantised = config.get("quantization") or {}
    if "bits" in quantised:
        return f"{quantised['bits']} bits"
    origin = folder / "laneway.json"
    if origin.exists():
        return f"{json.loads(origin.read_text(encoding='utf-8'))['quantisation']} as {kind}"
    return kind


def stop() -> None:
    for batch in _batches:
        batch.stop()


if __name__ == "__main__":
    live(serve, stop)
