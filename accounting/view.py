"""A day as it was found, and its rows lot by lot."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from accounting import parts
from accounting.fold import COLUMNS, Folded, fold
from accounting.ledger import Store
from accounting.parts import Part

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class View:
    """The day's parts, and the spans of buckets that its tasks are cut into."""

    near: Store
    parts: Sequence[Part]
    spans: Sequence[tuple[int, int]]
    nodes: int = 1

    def lot(self, number: int) -> Folded:
        """The rows of one span. Raises LedgerError where a part cannot be read."""
        return fold(parts.read(self.near, self.parts, self.spans[number], COLUMNS))

    def lots(self) -> Generator[Folded, None, None]:
        """Those of all spans, in their order: one is read and one is folded while the last one is in use."""
        read = (parts.read(self.near, self.parts, span, COLUMNS) for span in self.spans)
        with closing(_ahead(read)) as lots, closing(_ahead(map(fold, lots))) as folded:
            yield from folded


def _ahead(made: Iterator[T]) -> Generator[T, None, None]:
    """The same, the next one made by a thread while the last one is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, made, None)
        while (one := coming.result()) is not None:
            coming = thread.submit(next, made, None)
            yield one
