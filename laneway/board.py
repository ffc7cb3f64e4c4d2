"""Progress on standard error: live bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from broker.settings.lanes import HUMAN
from laneway.client import Result

LINE_EVERY_S = 5.0
NAMES = {HUMAN: "a person", "": "no lane"}


class Board:
    """A context manager. One bar for all tasks, and one for each lane with those that ended on it."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._lanes: Counter[str] = Counter()
        self._console = Console(stderr=True)
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._started = self._said = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description:<14}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[stage]}"),
                console=self._console,
            )
            self._bars["all"] = self._progress.add_task("tasks", total=self._total, stage="starting")
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.update(self._bars["all"], stage="done" if kind is None else "broken off")
            self._progress.stop()

    def stage(self, words: str) -> None:
        """What is done just now."""
        if self._progress is not None:
            self._progress.update(self._bars["all"], stage=words)
        else:
            self._line(words)

    def ended(self, result: Result) -> None:
        """A task ended, or waits for a person."""
        name = NAMES.get(result.lane, result.lane)
        self._lanes[name] += 1
        if self._progress is not None:
            if name not in self._bars:
                self._bars[name] = self._progress.add_task(f"  {name}", total=self._total, stage="")
            self._progress.advance(self._bars[name])
            self._progress.advance(self._bars["all"])
        elif time.monotonic() - self._said > LINE_EVERY_S:
            self.tick()

    def tick(self) -> None:
        """Some time has passed, whether anything happened or not."""
        if self._progress is None:
            lanes = ", ".join(f"{name} {count}" for name, count in self._lanes.most_common())
            self._line(f"{self._lanes.total()} of {self._total} tasks done{': ' if lanes else ''}{lanes}")

    def _line(self, words: str) -> None:
        self._said = time.monotonic()
        self._console.print(f"{self._said - self._started:5.1f} s  {words}", highlight=False, markup=False)
