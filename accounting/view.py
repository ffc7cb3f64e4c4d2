"""A day as it was found, and its rows lot by lot."""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pyarrow as pa

from accounting import ledger, parts
from accounting.fold import COLUMNS, Folded, fold
from accounting.ledger import Store
from accounting.parts import Lot, Part, Span

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class View:
    """The names of the day's parts, and the spans of buckets that its tasks are cut into.

    ``parts`` have the facts of those, but may be cut in another way; the facts of ``width`` buckets are read at once.
    """

    names: Sequence[str]
    parts: Sequence[Part]
    spans: Sequence[Span]
    width: int
    nodes: int = 1

    def lot(self, number: int) -> Folded:
        """The rows of one span. Raises LedgerError where a part cannot be read."""
        return fold(parts.read(self.parts, self.spans[number], COLUMNS))

    def lots(self) -> Generator[Folded, None, None]:
        """Those of all spans, in their order; the next one is folded while the last one is in use."""
        with closing(_ahead(map(fold, self._facts()))) as folded:
            for lot in folded:
                yield lot
                del lot
                pa.default_memory_pool().release_unused()

    def _facts(self) -> Iterator[Lot]:
        """Those of each span."""
        for low in range(0, parts.BUCKETS, self.width):
            spans = [span for span in self.spans if low <= span[0] < low + self.width]
            for lot in parts.lots(self.parts, spans, COLUMNS):
                yield lot
                del lot
                pa.default_memory_pool().release_unused()  # each thread has a pool of its own


@contextmanager
def opened(
    store: Store,
    day: str,
    cut: Callable[[Sequence[Part]], Sequence[Span]],
    only: Container[str] | None = None,
) -> Iterator[View]:
    """The day as it is now: all its parts, or ``only`` those of these names, in the spans that ``cut`` makes of them.

    Raises LedgerError where a part cannot be read.
    """
    folder = ledger.partition(ledger.EVENTS, day)
    with store.nearby(folder) as near, TemporaryDirectory(prefix="laneway-") as scratch:
        found = {part.path.rpartition("/")[2]: part for part in parts.of_day(near, day)}
        if only is not None:
            found = {name: part for name, part in found.items() if name in only}
        spans = cut([*found.values()])
        fitting, width = parts.fitting([*found.values()], spans, Path(scratch))
        yield View([*found], fitting, spans, width)


def _ahead(made: Iterator[T]) -> Generator[T, None, None]:
    """The same, the next one made by a thread while the last one is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, made, None)
        while (one := coming.result()) is not None:
            coming = thread.submit(next, made, None)
            yield one
