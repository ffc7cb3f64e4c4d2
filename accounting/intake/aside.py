"""Stream entries that could not be read whole, each a file on the disk of the node that came upon it.

What could be read of an entry is in the ledger. The rest is of a newer version, or is no fact; a version that can read
it takes it from here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import redis

from accounting.files.ledger import LocalStore, Store
from accounting.intake import wire
from broker.errors import LedgerError
from broker.keys import EVENTS
from broker.settings import Settings

log = logging.getLogger("laneway.ingest")

FOLDER = "quarantine"
_SUFFIX = ".msgpack"
#: The entry leaves a disk for a stream that is read at once, so that a Redis that is full takes it.
_ADD = """#!lua flags=allow-oom
return redis.call('XADD', KEYS[1], '*', 'b', ARGV[1])
"""


def place(settings: Settings) -> LocalStore:
    """Where this node keeps them."""
    return LocalStore(settings.fleet.var / FOLDER)


def entries(quarantine: Store) -> list[str]:
    return [name for name in quarantine.list("") if name.endswith(_SUFFIX)]


def put(quarantine: Store, entry_id: str, entry: bytes, why: str) -> None:
    """Raises LedgerError where it cannot be written."""
    path = f"{entry_id}{_SUFFIX}"
    quarantine.put(path, entry)
    log.warning("stream entry %s: %s; the whole entry is kept as quarantine file %s", entry_id, why, path)


def given_back(client: redis.Redis, quarantine: Store, most_bytes: int) -> Iterator[None]:
    """Puts those that can be read by now into the stream again; a fact of theirs that the ledger has counts once.

    Yields whenever about ``most_bytes`` of them are there, and at the end, so that they are taken off the stream before
    more come. Where the place cannot be read or written the rest stays there, and the log says so: what waits in the
    stream is no worse for it.
    """
    given = size = 0
    try:
        for name in entries(quarantine):
            entry = quarantine.read(name)
            if not entry or not _is_readable(entry):
                continue
            if not given:
                quarantine.check()  # what cannot be removed would be given back each time
            client.register_script(_ADD)(keys=[EVENTS], args=[entry])
            quarantine.remove(name)
            given, size = given + 1, size + len(entry)
            if size >= most_bytes:
                yield
                size = 0
    except LedgerError as error:
        log.error("what was set aside and can be read by now stays there: %s", error)
    if given:
        log.info("%d entries that were set aside can be read by now, and are in the stream again", given)
    yield


def _is_readable(entry: bytes) -> bool:
    gathered = wire.Gathered([entry])
    facts = sum(rows.num_rows for _, rows in gathered.by_day())
    return bool(facts) and not gathered.flaws
