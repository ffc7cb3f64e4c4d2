"""A day as it was found, and its rows lot by lot."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from tempfile import gettempdir
from typing import TypeVar

import pyarrow as pa

from accounting.files import ledger, parts
from accounting.files.ledger import Store
from accounting.files.parts import Part, Span
from accounting.rollup.fold import COLUMNS, Folded, fold
from accounting.rollup.lots import Lot, Lots
from broker.errors import LedgerError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class View:
    """The names of the day's parts, the spans of buckets that its tasks are cut into, and their facts."""

    names: Sequence[str]
    spans: Sequence[Span]
    facts: Lots
    nodes: int = 1

    def lot(self, number: int) -> Folded:
        """The rows that the facts of one span fold into. Raises LedgerError where ``made`` does."""
        return self.made(number, fold)

    def made(self, number: int, make: Callable[[Lot], T]) -> T:
        """What is made of the facts of one span. Raises LedgerError where a part cannot be read, no temporary file be
        written, or nothing be made of the facts."""
        try:
            with room():
                return make(self.facts.read(number))
        except OverflowError as error:
            raise LedgerError(
                f"a span of the day cannot be folded: {error}", mend="find the facts with such amounts"
            ) from error
        except (pa.ArrowException, LookupError) as error:  # a page's own header has no checksum
            mend = "a part of the day is damaged: put it back from a copy"
            raise LedgerError(f"a span of the day cannot be folded: {error!r}", mend=mend) from error

    def lots(self) -> Iterator[Folded]:
        """Those of all spans, in their order."""
        return map(self.lot, range(len(self.spans)))


@contextmanager
def opened(
    store: Store,
    day: str,
    cut: Callable[[Sequence[Part]], Sequence[Span]],
    only: Container[str] | None = None,
    tell: Callable[[int, int], None] = lambda *_: None,
    columns: Sequence[str] = COLUMNS,
) -> Iterator[View]:
    """The day as it is now: all its parts, or ``only`` those of these names, in the spans that ``cut`` makes of them.
    ``tell`` and ``columns`` are as in ``Lots``.

    Raises LedgerError where a part cannot be read, or where there is no room for temporary files.
    """
    folder = ledger.partition(ledger.EVENTS, day)
    with room(), store.nearby(folder) as near:
        found = {part.path.rpartition("/")[2]: part for part in parts.of_day(near, day)}
        if only is not None:
            found = {name: part for name, part in found.items() if name in only}
        spans = cut([*found.values()])
        with closing(Lots([*found.values()], spans, columns, tell)) as facts:
            yield View([*found], spans, facts)


@contextmanager
def room() -> Iterator[None]:
    """For temporary files: raises LedgerError where one has none. The ledger's own failures are LedgerErrors by now."""
    try:
        yield
    except OSError as error:
        raise LedgerError(
            f"a temporary file cannot be written under {gettempdir()}: {error}",
            mend="make room there, or name a folder on a larger disk in TMPDIR; nothing was published",
        ) from error
