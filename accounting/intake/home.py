"""The one ledger that the facts of a Redis go into: divided between two, the reports of neither are whole.

The ledger has an id in a file of its own, and Redis keeps the id of the one that got facts last. A ledger that is
mounted at another place, or was moved as a whole, is still the same. Another one gets its facts all the same, so that
nothing waits for a person; but the log and the doctor tell.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import Any

import redis

from accounting.files.ledger import ID, Store
from broker.errors import LedgerChanged
from broker.keys import PREFIX

HOME = PREFIX + "ledger"
MEND = (
    "unless the ledger was changed on purpose, set fleet.ledger to the same folder or bucket on all nodes, and move the"
    " files under the wrong one's events/ into the other's"
)

log = logging.getLogger("laneway.ingest")

_ENTER = """#!lua flags=allow-oom
local home = redis.call('GET', KEYS[1])
if home ~= ARGV[1] then redis.call('SET', KEYS[1], ARGV[1]) end
return home
"""


def enter(client: redis.Redis, store: Store) -> None:
    """Before facts are written to the ledger: an error in the log where the last ones went into another one. Raises
    LedgerError where its id cannot be read or written."""
    mine = _id(store)
    home = client.register_script(_ENTER)(keys=[HOME], args=[mine])
    if home not in (None, mine):
        log.error("%s; %s", _apart(home, mine), MEND)


def apart(client: redis.Redis, store: Store) -> str:
    """What is wrong where the last facts of this Redis went into another ledger, else "". Raises LedgerError."""
    home: Any = client.get(HOME)
    mine = store.read(ID)
    return "" if home is None or home == mine else _apart(home, mine or b"none yet")


def _id(store: Store) -> bytes:
    """That of the ledger, made where it has none."""
    while not (found := store.read(ID)):
        over = "" if found is None else store.version(ID)  # an empty one is what a copy left that had no room
        with suppress(LedgerChanged):  # another node was as early
            store.put(ID, os.urandom(8).hex().encode(), over=over)
    return found


def _apart(home: bytes, mine: bytes) -> str:
    theirs, ours = (one.decode(errors="replace") for one in (home, mine))
    return f"the last facts of this Redis went into another ledger, {theirs}, than fleet.ledger here, {ours}"
