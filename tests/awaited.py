"""What a test waits for: a fact, and no longer than it takes."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(fact: Callable[[], object], within_s: float = 10) -> None:
    until = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < until, f"not within {within_s} s"
        time.sleep(0.02)
