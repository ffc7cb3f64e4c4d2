"""The history of a run, kept outside Redis: JSON lines, only ever added to, stamped with the machine's monotonic clock.

All processes of a run share that clock, so that what the producers saw, what the nemesis did and what the provider was
asked stand on one line of time.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class History:
    """Thread-safe; a line is handed to the kernel before ``add`` returns, so that a killed process leaves it behind."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock = threading.Lock()

    def add(self, kind: str, **what: Any) -> None:
        line = json.dumps({"kind": kind, "at": time.monotonic(), **what}, separators=(",", ":")) + "\n"
        with self._lock:
            os.write(self._file, line.encode())

    def close(self) -> None:
        os.close(self._file)


def read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
