"""``python -m workers.engines.mlx_process``: the process that owns an MLX model.

Started by ``launcher.py``. One thread has the model and its batch (``mlx_batch.py``), another the door to it
(``mlx_chat.py``).
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

from workers.engines.resident import live

#: A wheel for Linux that brings OpenBLAS under its usual names, and what must be loaded before it.
BLAS_PACKAGE = "faiss-cpu"
BLAS_PARTS = ("libquadmath", "libgfortran", "libgomp", "libopenblas")

_stops: list[Callable[[], None]] = []


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
    threading.excepthook = end
    if sys.platform == "linux" and not load_openblas(order["cpu_threads"]):
        logging.warning("no OpenBLAS: with the package %s, MLX is ten times faster here", BLAS_PACKAGE)
    port, revision, stop = import_module("workers.engines.mlx_chat").serve(order)
    _stops.append(stop)
    return port, revision


def end(died: threading.ExceptHookArgs) -> None:
    """A thread that dies takes the process along: without its model's thread a door must not stand open."""
    threading.__excepthook__(died)
    os._exit(1)


def stop() -> None:
    for one in _stops:
        one()


if __name__ == "__main__":
    live(serve, stop)
