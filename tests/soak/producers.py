"""Producers: they submit what is planned, insist on it under the same id, and write down what they see."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from zlib import crc32

import redis

from broker.errors import LanewayError, ResultTimeout
from broker.money import nano
from broker.state import Record
from broker.store import Store
from broker.task import TERMINAL, reference
from laneway.client import Client
from tests.soak.history import History
from tests.soak.plan import Planned

PAGE = 200
LOOK_EVERY_S = 1.0
PATIENCE_S = 120.0
AGAIN = 100


class Producers:
    """Threads of one process, each submission through the faulty network."""

    def __init__(self, client: Client, history: History) -> None:
        self.client, self.history = client, history
        self.accepted: dict[str, Planned] = {}
        self.raised: set[str] = set()
        self.known: dict[str, dict[str, object]] = {}
        self.closing = threading.Event()

    def submit_all(self, tasks: Iterator[Planned], *, per_s: float, threads: int = 6) -> None:
        """Everything that is planned, evenly over time; returns when each is accepted."""
        began = time.monotonic()
        with ThreadPoolExecutor(threads) as pool:
            running = []
            for number, task in enumerate(tasks):
                time.sleep(max(0.0, began + number / per_s - time.monotonic()))
                if self.closing.is_set():
                    break
                running.append(pool.submit(self._produce, task))
            for one in running:
                one.result()

    def submit_together(self, tasks: Sequence[Planned]) -> None:
        for task in tasks:
            self._announce(task)
        self._insist(lambda: self.client.submit_many([task.arguments for task in tasks]), "several")
        for task in tasks:
            self.history.add("accepted", ref=_ref(task))
            self.accepted[_ref(task)] = task

    def _announce(self, task: Planned) -> None:
        hard_usd = task.arguments.get("budget", {}).get("hard_usd")
        self.history.add("submitting", ref=_ref(task), type=task.arguments["type"], hard_usd=hard_usd)

    def _produce(self, task: Planned) -> None:
        ref = _ref(task)
        self._announce(task)
        self._insist(lambda: self.client.submit(**task.arguments), ref)
        self.history.add("accepted", ref=ref)
        self.accepted[ref] = task
        if task.again:
            self._insist(lambda: self.client.submit(**task.arguments), ref)
            self.history.add("accepted", ref=ref)
        if task.cancel_s is not None:
            self.closing.wait(task.cancel_s)
            word = self._insist(lambda: self.client.store.cancel(ref), ref)
            self.history.add("cancel", ref=ref, word=word)
        elif crc32(ref.encode()) % 5 == 0:
            self._wait_for(ref)

    def _insist(self, deed: Callable[[], object], ref: str) -> object:
        """Again and again until it is answered: that is what a promise of one task an id is for."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            try:
                return deed()
            except (LanewayError, redis.RedisError) as error:
                self.history.add("refused", ref=ref, error=type(error).__name__)
                time.sleep(0.2)
        self.history.add("gave up", ref=ref)
        return None

    def _wait_for(self, ref: str) -> None:
        workspace, _, task_id = ref.partition("/")
        try:
            result = self.client.result(task_id, workspace=workspace, timeout_s=3)
        except ResultTimeout:
            return
        except (LanewayError, redis.RedisError) as error:
            self.history.add("refused", ref=ref, error=type(error).__name__)
            return
        self.history.add("waited", ref=ref, status=result.status, digest=text_digest(result.output))

    def watch(self) -> None:
        """Looks at what is not at its end, and at a few of the others each time: a result must stay what it was."""
        turn = 0
        while not self.closing.wait(LOOK_EVERY_S):
            refs = sorted(self.accepted)
            ended = [ref for ref in refs if ref in self.known]
            turn += AGAIN
            again = [ended[(turn + step) % len(ended)] for step in range(min(AGAIN, len(ended)))]
            self.look([ref for ref in refs if ref not in self.known] + again)

    def look(self, refs: Sequence[str]) -> dict[str, Record]:
        """The records as they are now. A page that Redis does not answer for is left out."""
        seen: dict[str, Record] = {}
        for start in range(0, len(refs), PAGE):
            part = refs[start : start + PAGE]
            try:
                records = self.client.store.records.many(part)
            except (LanewayError, redis.RedisError):
                continue
            for ref, record in zip(part, records, strict=True):
                seen[ref] = record
                self._write_down(ref, record)
        return seen

    def _write_down(self, ref: str, record: Record) -> None:
        """What ended or is parked, once, and again where it is not what it was."""
        ended = record.status in TERMINAL
        now = observed(record) if ended or record.status == "parked" else None
        if now is None:
            if ref in self.known and self.known[ref]["status"] in TERMINAL:
                self.history.add("seen", ref=ref, **observed(record))
            self.known.pop(ref, None)
            return
        if self.known.get(ref) == now:
            return
        self.known[ref] = now
        self.history.add("seen", ref=ref, **now)
        wanted = self.accepted[ref].raise_usd
        if wanted and not ended and "the task's own limit" in str(now["reason"]) and ref not in self.raised:
            self.raised.add(ref)
            self._raise(ref, wanted)

    def _raise(self, ref: str, usd: str) -> None:
        try:
            before = self.client.store.parked.raise_limits(ref, nano(usd))
            self.history.add("raised", ref=ref, before=before)
        except (LanewayError, redis.RedisError):
            self.raised.discard(ref)


def _ref(task: Planned) -> str:
    return reference(task.arguments.get("workspace", "default"), task.arguments["task_id"])


def observed(record: Record) -> dict[str, object]:
    outcome = record.outcome
    return {
        "status": record.status,
        "digest": text_digest(outcome.output if outcome else None),
        "reason": outcome.reason if outcome else "",
        "cost": record.cost_nano,
        "attempts": [one.attempt_id for one in record.progress.attempts],
    }


def text_digest(text: str | None) -> str:
    return "" if text is None else hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def sample(store: Store, history: History, closing: threading.Event, every_s: float) -> None:
    """What each limited scope has used, straight from the server, many times over the run."""
    while not closing.wait(every_s):
        try:
            states = store.limits.states()
        except (LanewayError, redis.RedisError):
            continue
        rows = [
            [one.scope, one.period, one.window, one.limit_nano, one.spent_nano, one.reserved_nano, one.closed]
            for one in states
        ]
        history.add("budgets", rows=rows)
