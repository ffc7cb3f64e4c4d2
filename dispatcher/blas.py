"""numpy as the dispatcher wants it: its matrix library with one thread.

Our matrices are small. With a thread a core, several processes on one machine wait for each other's spinning threads:
learning 400 examples took 13 s on a busy machine with two cores, and 0.05 s with one thread. The setting is read once,
when numpy is first imported, and taken back afterwards, because the engines that a worker starts inherit the
environment and want their threads. Where numpy is there already, nothing changes.
"""

from __future__ import annotations

import os

_THREADS = "OPENBLAS_NUM_THREADS"
_unset = _THREADS not in os.environ
if _unset:
    os.environ[_THREADS] = "1"

import numpy as np  # noqa: E402 - the setting above comes first
from numpy.typing import NDArray  # noqa: E402

if _unset:
    del os.environ[_THREADS]

Matrix = NDArray[np.float32]
Labels = NDArray[np.intp]
Floats = NDArray[np.float64]
Hashes = NDArray[np.uint64]

__all__ = ["Floats", "Hashes", "Labels", "Matrix", "np"]
