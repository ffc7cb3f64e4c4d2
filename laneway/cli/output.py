"""What commands print: one JSON document, or words and tables for a person."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from broker.money import shown, text

if TYPE_CHECKING:
    from rich.console import Console

PROGRESS_S = 5.0  # between two words about a long work
PIPE_WIDTH = 200  # columns of a table that no terminal cuts off
GAP = 3  # between the columns of a table
NARROW = 12  # of words where columns do not fit
LONGEST_FIGURE = 24


def progress() -> Callable[[str], None]:
    """What tells on standard error how far a long work is: not at once, and then now and again."""
    told_at = time.monotonic()

    def tell(words: str) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= PROGRESS_S:
            told_at = time.monotonic()
            click.echo(words, err=True)

    return tell


@contextmanager
def bar(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """A bar on standard error where that is a terminal and there is something to wait for."""
    if not sys.stderr.isatty() or total < 2:
        yield lambda _: None
        return
    with click.progressbar(length=total, label=label, file=sys.stderr, show_pos=True) as drawn:
        yield lambda count: drawn.update(count)


def emit(value: object) -> None:
    """One line of JSON. Characters that standard output cannot take are escaped; NaN and infinity are null."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    line = json.dumps(_finite(value), ensure_ascii=not unicode, allow_nan=False)
    if unicode:
        line = line.encode("utf-8", "backslashreplace").decode()  # a lone surrogate becomes its JSON escape
    click.echo(line)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def say(words: str) -> None:
    click.echo(plain(words))


def plain(words: str) -> str:
    """Text of strangers as it is safe on a terminal: control characters are shown, not obeyed."""
    if words.isprintable():
        return words
    return "".join(
        one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode() for one in words
    )


def shorten(words: str, limit: int = 200) -> str:
    """On one line, its end cut off."""
    line = " ".join(words[: 4 * limit].split())
    return line if len(line) <= limit and len(words) <= 4 * limit else line[:limit] + "…"


def usd(nano: int | None) -> str | None:
    """Money for JSON; None: no price is known."""
    return None if nano is None else text(nano)


def price(amount: str | None) -> str:
    """Money for a person."""
    return "unpriced" if amount is None else shown(amount)


def moment(micros: int | None) -> str | None:
    """A time in microseconds since the epoch as ISO 8601 in UTC."""
    if micros is None:
        return None
    at = datetime.fromtimestamp(micros // 1_000_000, tz=UTC).replace(microsecond=micros % 1_000_000)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def span(seconds: float | None) -> str:
    """A length of time in the largest fitting unit."""
    if seconds is None:
        return "-"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A table for a person. ``right`` names the columns of numbers, of which none is broken: where they do not fit
    beside one another, the table is several below one another, each with the columns before the first of them."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    from accounting.reports.wording import head_width, parted

    lines = [tuple(map(plain, row)) for row in rows]
    cells = [max((cell_len(line[place]) for line in lines), default=0) for place in range(len(columns))]
    figures = [name in right and cell <= LONGEST_FIGURE for name, cell in zip(columns, cells, strict=True)]
    narrow = [
        max(cell, head_width(name)) if figure else min(NARROW, max(cell, head_width(name)))
        for name, cell, figure in zip(columns, cells, figures, strict=True)
    ]
    page = console()
    whole = sum(max(cell_len(name), cell) + GAP for name, cell in zip(columns, cells, strict=True))
    keys = next((place for place, figure in enumerate(figures) if figure), len(columns))
    for places in parted(narrow, GAP, page.width - GAP, keys):
        drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for place in places:
            name, fixed = columns[place], figures[place] and whole > page.width
            drawn.add_column(
                name,
                justify="right" if name in right else "left",
                overflow="fold",
                width=narrow[place] if fixed else None,
            )
        for line in lines:
            drawn.add_row(*(Text(line[place]) for place in places))
        page.print(drawn)


def console(pipe_width: int = PIPE_WIDTH) -> Console:
    """Standard output for rich, which is loaded only by commands that draw."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else pipe_width, highlight=False)
