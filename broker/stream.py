"""The stream of facts, read back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import redis

from broker import keys
from broker.ask import ask

#: Entries of the stream that are read at a time: the facts of one call are one entry, which may have hundreds of them.
ENTRIES_AT_ONCE = 50


def newest_entries(
    client: redis.Redis, most: int, *, after: str = "-", until: str = "+"
) -> Iterator[bytes | None]:
    """The newest entries of the stream of facts, newest first and read as they are asked for: ``most`` at most,
    between these places. None: one that is no entry."""
    while most > 0:
        count = min(most, ENTRIES_AT_ONCE)
        page = _read_back(client, until, after, count)
        for _, row in page:
            yield row.get(b"b")
        if len(page) < count:
            return
        most -= count
        until = f"({page[-1][0].decode()}"


def _read_back(
    client: redis.Redis, until: str, after: str, count: int
) -> list[tuple[bytes, dict[bytes, bytes]]]:
    page: Any = ask(lambda: client.xrevrange(keys.EVENTS, until, after, count))
    return page  # type: ignore[no-any-return]
