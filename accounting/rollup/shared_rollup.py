"""A large day folded by all nodes that keep the ledger.

    1. The coordinator, which is whoever rolls the day, puts an offer into the ledger's ``.tmp/rollup/``: the day's
       parts with their versions, and its spans; then it offers the day in Redis.
    2. Each node whose ledger has this offer and these very parts takes span after span, and puts the rows of each
       beside the offer. So does the coordinator while there is nothing for it to add.
    3. The coordinator adds the rows in the order of the spans, one after another, and publishes the day as ever.

Rows are the same whoever folds them and however often, and what is missing the coordinator folds itself: it needs no
other node, and no Redis. What a dead one left behind goes when the next rollup holds the ledger's lock.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self
from zlib import crc32

import pyarrow as pa

from accounting.files import ledger, schema
from accounting.files.ledger import Store
from accounting.rollup.fold import Folded
from accounting.rollup.offers import CLOSED, IN_HAND, NOWHERE, Offers
from accounting.rollup.view import View, opened
from broker.errors import LedgerError, RedisUnavailable

FOLDER = f"{ledger.TEMPORARY}/rollup"
WAIT_S = 1.0  # for others, before the coordinator looks whether a span of theirs came back
_CHECKSUM_BYTES = 4
_COLUMNS = (schema.EVENTS, schema.TASKS, schema.ATTEMPTS, schema.DAILY)
#: Rows are shared by nodes alone that make the same of the same facts.
_FORM = f"{version('laneway')} {crc32(' '.join(map(str, _COLUMNS)).encode()):08x}"

log = logging.getLogger("laneway.rollup")


class Shared:
    """The coordinator's side, for the time of a ``with``: the lots of a view, folded by whoever takes them."""

    def __init__(self, offers: Offers, store: Store, day: str, view: View) -> None:
        self._offers, self._store, self._day, self._view = offers, store, day, view
        self._offer = os.urandom(12).hex()
        self._done: set[int] = set()
        self._helpers = {offers.node}
        self._alone = False
        self._until_end = ExitStack()

    @property
    def nodes(self) -> int:
        """How many took part so far."""
        return len(self._helpers)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._offers.busy)
            stack.callback(self._withdraw)
            try:
                self._store.put(_path(self._offer), self._said())
                self._offers.make(self._offer, len(self._view.spans))
            except (LedgerError, RedisUnavailable) as error:
                self._go_on_alone(error.message)
            else:
                stack.enter_context(self._offers.held(self._offer))
            self._until_end = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._until_end.close()

    def lots(self) -> Iterator[Folded]:
        """The rows of all spans, in their order. Raises LedgerError where some cannot be made here either."""
        return map(self._lot, range(len(self._view.spans)))

    def _lot(self, number: int) -> Folded:
        try:
            self._hear()
            while number not in self._done and not self._alone:
                taken = self._offers.take(self._offer, number, as_coordinator=True)
                if taken == number:
                    return self._folded(number)
                if taken == IN_HAND:
                    self._hear(WAIT_S)
                    continue
                if taken != CLOSED:
                    self._fold_ahead(taken)
                self._hear()
                if taken == CLOSED and number not in self._done:
                    self._go_on_alone("the offer is gone from Redis")
        except RedisUnavailable as error:
            self._go_on_alone(error.message)
        return self._read(number) or self._view.lot(number)

    def _said(self) -> bytes:
        folder = ledger.partition(ledger.EVENTS, self._day)
        there = self._store.versions(folder)
        said = {
            "form": _FORM,
            "day": self._day,
            "parts": {name: there.get(name, "") for name in self._view.names},
            "spans": list(self._view.spans),
        }
        return json.dumps(said).encode()

    def _hear(self, wait_s: float = 0.0) -> None:
        if self._alone:
            return
        for number, node in self._offers.heard(self._offer, wait_s):
            self._done.add(number)
            self._helpers.add(node)

    def _folded(self, number: int) -> Folded:
        """What is wanted at once does not go by way of the store."""
        with self._offers.held(self._offer, number):
            lot = self._view.lot(number)
        self._offers.done(self._offer, number)
        return lot

    def _fold_ahead(self, number: int) -> None:
        with self._offers.held(self._offer, number):
            lot = self._view.lot(number)
            try:
                _put(self._store, self._offer, number, lot)
            except LedgerError as error:  # the day's files may still go where its rows did not
                self._go_on_alone(error.message)
                return
        self._offers.done(self._offer, number)

    def _read(self, number: int) -> Folded | None:
        data = self._store.read(_path(self._offer, number))
        try:
            return None if data is None else decode(data)
        except (pa.ArrowInvalid, OSError) as error:
            log.warning("the rows of span %d are folded again: %s", number, error)
            return None

    def _go_on_alone(self, why: str) -> None:
        if not self._alone:
            log.warning("the rest of %s is folded here alone: %s", self._day, why)
        self._alone = True

    def _withdraw(self) -> None:
        try:
            if not self._alone:
                self._offers.withdraw(self._offer)
            for name in self._store.list(FOLDER):
                if name.startswith(self._offer):
                    self._store.remove(f"{FOLDER}/{name}")
        except (LedgerError, RedisUnavailable) as error:
            log.warning("the next rollup tidies up: %s", error.message)


class Helper:
    """A node's side: it folds spans of the days that others roll."""

    def __init__(self, offers: Offers, store: Store) -> None:
        self._offers, self._store = offers, store
        self._left = self._told = ""

    def round(self, stopping: threading.Event | None = None) -> int:
        """Folds until no span is left that it may take, or the process is stopping. How many it folded.

        Raises LedgerError where it could not fold one, and leaves the rest of that day to others; RedisUnavailable.
        """
        if not self._offers.busy.acquire(blocking=False):
            return 0
        try:
            there = [offer for offer in self._offers.there() if offer != self._left]
            return sum(self._help(offer, stopping or threading.Event()) for offer in there)
        finally:
            self._offers.busy.release()

    def _help(self, offer: str, stopping: threading.Event) -> int:
        said = self._fitting(offer)
        if said is None:
            return 0
        count, number = 0, NOWHERE
        with ExitStack() as stack:
            view: View | None = None  # nothing is copied near for what others have in hand
            while not stopping.is_set():
                number = self._offers.take(offer, number)
                if number in (IN_HAND, CLOSED):
                    break
                with self._trying(offer, number):
                    view = view or self._view(stack, said)
                    _put(self._store, offer, number, view.lot(number))
                self._offers.done(offer, number)
                count += 1
        if count:
            log.info("folded %d spans of %s", count, said["day"])
        return count

    def _fitting(self, offer: str) -> dict[str, Any] | None:
        """What the offer says; None where it is not of this ledger as this node sees it, or made by other rules."""
        data = self._store.read(_path(offer))
        said: dict[str, Any] = {} if data is None else json.loads(data)
        if said.get("form") == _FORM:
            there = self._store.versions(ledger.partition(ledger.EVENTS, said["day"]))
            if said["parts"].items() <= there.items():
                return said
        if offer != self._told:  # which is looked at again each round: files of others come into sight late
            log.info("no help for a rollup: this node sees another ledger, or is of another version")
        self._told = offer
        return None

    def _view(self, stack: ExitStack, said: dict[str, Any]) -> View:
        spans = [(low, high) for low, high in said["spans"]]
        return stack.enter_context(opened(self._store, said["day"], lambda _: spans, said["parts"]))

    @contextmanager
    def _trying(self, offer: str, number: int) -> Iterator[None]:
        """A span that cannot be folded here is another's at once, and so is the rest of its day."""
        try:
            with self._offers.held(offer, number):
                yield
        except LedgerError:
            if self._offers.back(offer, number):
                self._left = offer
                raise
            log.info("a rollup ended while a span of it was folded here")


def clear(store: Store, offers: Offers | None) -> None:
    """Removes what dead coordinators left behind; for whoever holds the ledger's lock.

    Raises LedgerError where the ledger refuses.
    """
    left = store.list(FOLDER)
    try:
        for offer in {name.partition(".")[0] for name in left}:
            if offers is not None:
                offers.withdraw(offer)
    except RedisUnavailable as error:
        log.warning("an old offer stands until its lease ends: %s", error.message)
    for name in left:
        store.remove(f"{FOLDER}/{name}")


def encode(lot: Folded) -> bytes:
    """The lot as three Arrow streams, texts as the dictionaries that they are, and a checksum of all."""
    sink = pa.BufferOutputStream()
    sums = {"events": str(lot.events), "cost_nano": str(lot.cost_nano)}
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    for table in (lot.tasks.replace_schema_metadata(sums), lot.attempts, lot.daily):
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
    made = sink.getvalue()
    return b"".join((made, _checksum(made)))


def decode(data: bytes) -> Folded:
    """The lot that ``encode`` made these bytes of. Raises pa.ArrowInvalid or OSError for any others."""
    made = pa.py_buffer(data).slice(0, max(0, len(data) - _CHECKSUM_BYTES))
    if data[made.size :] != _checksum(made):
        raise pa.ArrowInvalid("they are not what was put there")
    source, options = pa.BufferReader(made), pa.ipc.IpcReadOptions(use_threads=False)
    tasks, attempts, daily = (pa.ipc.open_stream(source, options=options).read_all() for _ in range(3))
    sums = tasks.schema.metadata
    return Folded(
        int(sums[b"events"]),
        tasks.replace_schema_metadata(None),
        attempts,
        daily,
        int(sums[b"cost_nano"]),
    )


def _checksum(made: Any) -> bytes:
    return crc32(made).to_bytes(_CHECKSUM_BYTES)


def _put(store: Store, offer: str, number: int, lot: Folded) -> None:
    store.put(_path(offer, number), encode(lot))


def _path(offer: str, number: int | None = None) -> str:
    """Of the offer itself, or of the rows of a span of it."""
    return f"{FOLDER}/{offer}.json" if number is None else f"{FOLDER}/{offer}.{number}.arrow"
