"""A model's folder, as mlx-lm and vLLM load it: found or made of a GGUF file, and what it says of itself."""

from __future__ import annotations

import json
from pathlib import Path

from workers.engines.gguf_folder import ORIGIN, converted


def found(path: Path, models: Path) -> Path:
    """The folder itself, or what is made of a GGUF file, once on a node. Raises EngineUnavailable."""
    return path if path.is_dir() else converted(path, models)


def context_of(folder: Path, wanted: int) -> int:
    """Never more than the model was trained for."""
    known = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    return min(wanted, known) if isinstance(known, int) else wanted


def revision(folder: Path) -> str:
    """How the weights are kept: "Q4_1 as float32" after a conversion, "4 bits" for MLX's own quantisation."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    quantised = config.get("quantization") or {}
    if "bits" in quantised:
        return f"{quantised['bits']} bits"
    kind = str(config.get("torch_dtype") or config.get("dtype") or "")
    origin = folder / ORIGIN
    if not origin.exists():
        return kind
    return f"{json.loads(origin.read_text(encoding='utf-8'))['quantisation']} as {kind}"
