"""dramatiq's broker for queues of tasks: same actors and command line, our own way for messages to travel.

A queue of tasks is a sorted set of task names; what travels is the claim itself. A consumer takes and claims a handful
of tasks in one script and hands them to the queue's actor as one message, so there is nothing to acknowledge: the
actor's commit ends the claim, in the same script as the next hop. Idle consumers sleep in a blocking pop. A queue that
was not declared here with ``task_queue`` is a plain dramatiq queue.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import dramatiq
import msgpack
import redis
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.brokers.redis import RedisBroker
from dramatiq.encoder import Encoder
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import Middleware

from broker.errors import RedisFull, RedisUnavailable
from broker.hands import Hands
from broker.state import Fetched, Kept
from broker.store import Store
from broker.task import Claim

log = logging.getLogger(__name__)
Work = Callable[[Sequence[Claim]], None]
#: Nothing is taken so soon after a start: a worker that its first task kills while it tells dramatiq's main process
#: that it is up dies with a lock in hand, and the main process waits for that lock for ever.
BOOT_S = 0.25


@dataclass(frozen=True, slots=True)
class TaskQueue:
    """How a process serves a queue.

    ``messages`` are in hand at most, ``batch`` tasks in each. ``shared`` queues count against one common limit, so
    that what one holds the other does not fetch. A lower ``priority`` number is worked on first within the process.
    ``hold_s`` bounds a claim, whatever its worker does.
    """

    name: str
    messages: int
    batch: int
    hold_s: float
    priority: int = 0
    shared: int | None = None


class Beside(Protocol):
    """A thread that runs beside the workers."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class MsgpackEncoder(Encoder):
    """For plain dramatiq messages: a third of the bytes of JSON."""

    def encode(self, data: dict[str, Any]) -> bytes:
        return msgpack.packb(data)  # type: ignore[no-any-return]

    def decode(self, data: bytes) -> dict[str, Any]:
        return msgpack.unpackb(data)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False, repr=False)
class TaskMessage(dramatiq.Message[None]):
    """A handful of claims on their way to their actor. Its text names the tasks and never their payload."""

    def __str__(self) -> str:
        return f"{self.actor_name}({', '.join(claim.ref for claim in self.args[0])})"

    __repr__ = __str__


class LaneBroker(RedisBroker):
    """Queues of tasks over a ``Store``; ``lanes`` are announced as served while a worker runs here."""

    def __init__(self, store: Store, *, lanes: Sequence[str] = ()) -> None:
        self.store = store
        self.hands = Hands()
        self.task_queues: dict[str, TaskQueue] = {}
        self.clocks: dict[str, float] = {}
        self.stopping = self.hands.stopping
        self.fetching = threading.Lock()
        self.keeper = _Keeper(store, self.hands, lanes, self.stopping)
        super().__init__(  # type: ignore[no-untyped-call]  # dramatiq's Redis broker has no annotations
            client=store.client, middleware=[self.keeper]
        )
        dramatiq.set_broker(self)  # the command line serves the global one

    def task_queue(self, queue: TaskQueue, work: Work) -> None:
        """Serve a queue of tasks with ``work``, called with a handful of claims at a time on a worker's thread."""
        self.task_queues[queue.name] = queue
        actor = queue.name.replace("-", "_")
        dramatiq.actor(actor_name=actor, queue_name=queue.name, priority=queue.priority, broker=self)(work)

    def beside(self, thread: Beside) -> None:
        """Start ``thread`` when a worker process is up, and stop it before it goes down."""
        self.keeper.threads.append(thread)

    def speak(self) -> None:
        """Say at once how this node is, instead of at the keeper's next round. Raises RedisUnavailable."""
        self.keeper.speak()

    def every(self, name: str, seconds: float, work: Callable[[], None]) -> None:
        """Call ``work`` on a worker's thread every so often, never twice at a time in this process."""
        self.clocks[name] = seconds
        dramatiq.actor(actor_name=name, queue_name=name, broker=self)(work)

    def declare_queue(self, queue_name: str) -> None:
        if queue_name not in self.task_queues and queue_name not in self.clocks:
            super().declare_queue(queue_name)
        elif queue_name not in self.queues:
            # No delay queue: a task that waits for a time is in a sorted set of its own.
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        if queue_name in self.clocks:
            return ClockConsumer(queue_name, self.clocks[queue_name], timeout / 1000, self.stopping)
        queue = self.task_queues.get(queue_name)
        if queue is None:
            return super().consume(queue_name, prefetch, timeout)
        return TaskConsumer(self, queue, timeout / 1000)


class TaskConsumer(Consumer):
    """Takes claims while there is room, and sleeps where there is nothing to take."""

    def __init__(self, broker: LaneBroker, queue: TaskQueue, timeout_s: float) -> None:
        self.store, self.hands, self.stopping = broker.store, broker.hands, broker.stopping
        self.fetching = broker.fetching
        self.queue = queue
        self.timeout_s = timeout_s
        self.opens_at = time.monotonic() + BOOT_S
        self.ready: deque[TaskMessage] = deque()

    def __next__(self) -> MessageProxy | None:
        if not self.ready:
            self._fill()
        return MessageProxy(self.ready.popleft()) if self.ready else None

    def _fill(self) -> None:
        time.sleep(max(0.0, self.opens_at - time.monotonic()))
        try:
            fetched = self._fetch()
            if fetched is None:
                self.hands.wait(self.timeout_s)
            elif not fetched.claims and not fetched.alone:
                due_s = self.timeout_s if fetched.wait_s is None else fetched.wait_s
                self.store.wait(self.queue.name, min(self.timeout_s, due_s))
        except RedisUnavailable as error:
            raise _closed(error) from None

    def _fetch(self) -> Fetched | None:
        """None: no room. One consumer of the process at a time, so that shared room is not given out twice."""
        with self.fetching:
            room = self._room()
            if not room or self.stopping.is_set():
                return None
            fetched = self.store.fetch(
                self.queue.name, room * self.queue.batch, idle=self.hands.messages() == 0
            )
            self._hand_out(fetched.claims)
            if fetched.alone:
                self.hands.clear_the_table()
            return fetched

    def _room(self) -> int:
        """Messages that may still be taken."""
        if self.hands.waiting_for_quiet or self.hands.paused or self.hands.resting:
            return 0
        room = self.queue.messages - self.hands.messages(self.queue.name)
        if self.queue.shared is not None:
            room = min(room, self.queue.shared - self.hands.messages())
        return max(0, room)

    def _hand_out(self, claims: Sequence[Claim]) -> None:
        size = self.queue.batch
        parts = [claims[start : start + size] for start in range(0, len(claims), size)]
        self.hands.take(claims, self.queue.name, messages=len(parts), hold_s=self.queue.hold_s)
        actor = self.queue.name.replace("-", "_")
        self.ready.extend(TaskMessage(self.queue.name, actor, (part,), {}, {}) for part in parts)

    def ack(self, message: MessageProxy) -> None:
        """The actor is done. Where it failed, its claims go back with the cause, which counts as a start."""
        claims: Sequence[Claim] = message.args[0]
        error = message._exception
        if error is None:
            self.hands.drop(claims, self.queue.name)
        else:
            self._give_back(claims, f"{type(error).__name__}: {_first_line(error)}")

    nack = ack

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """One that Redis refuses to take back does not keep the others."""
        for message in messages:
            try:
                self._give_back(message.args[0])
            except redis.ResponseError as error:
                log.error("%s is not given back; its lease runs out: %s", message, error)

    def _give_back(self, claims: Sequence[Claim], cause: str = "") -> None:
        """Where Redis is away dramatiq calls again. After any other failure it does not: then they are out of hand all
        the same, and their leases run out."""
        try:
            self.store.release(claims, cause)
        except (RedisUnavailable, RedisFull) as lost:
            raise _closed(lost) from None
        except Exception:
            self.hands.drop(claims, self.queue.name)
            raise
        self.hands.drop(claims, self.queue.name)

    def close(self) -> None:
        while self.ready:
            self.requeue([MessageProxy(self.ready.popleft())])


class ClockConsumer(Consumer):
    """One message every so many seconds; the next one waits for the last one's end."""

    def __init__(self, name: str, seconds: float, timeout_s: float, stopping: threading.Event) -> None:
        self.name, self.seconds, self.timeout_s, self.stopping = name, seconds, timeout_s, stopping
        self.next_at = time.monotonic()
        self.in_hand = False
        self.rung = threading.Event()

    def __next__(self) -> MessageProxy | None:
        left_s = self.timeout_s if self.in_hand else self.next_at - time.monotonic()
        if left_s > 0 and self.rung.wait(min(left_s, self.timeout_s)):
            self.rung.clear()
        if self.in_hand or self.stopping.is_set() or time.monotonic() < self.next_at:
            return None
        self.in_hand = True
        self.next_at = time.monotonic() + self.seconds
        return MessageProxy(dramatiq.Message(self.name, self.name, (), {}, {}))

    def ack(self, message: MessageProxy) -> None:
        self.in_hand = False
        self.rung.set()

    nack = ack


def _closed(error: Exception) -> Exception:
    """What dramatiq's consumer thread takes for a lost connection: it comes back after a pause."""
    return ConnectionClosed(error)  # type: ignore[no-untyped-call]  # not annotated there


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]


class _Keeper(Middleware):
    """One thread a process that says what is still in hand and which lanes are served, three times a lease; more often
    while a round leaves some of what is lost or has been kept long enough to the next one."""

    def __init__(self, store: Store, hands: Hands, lanes: Sequence[str], stopping: threading.Event) -> None:
        self.store, self.hands, self.lanes = store, hands, tuple(lanes)
        self.stopping = stopping
        self.threads: list[Beside] = []
        self.node = f"{socket.gethostname()}:{os.getpid()}"
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        self.thread.start()
        for one in self.threads:
            one.start()

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        self.stopping.set()
        for one in self.threads:
            one.stop()

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
        self.ended.set()
        self.thread.join(timeout=self.store.fleet.lease_s)

    def _run(self) -> None:
        pause_s = self.store.fleet.lease_s / 3
        more = False
        while True:
            began = time.monotonic()
            kept = self._round(again=more)
            took_s = time.monotonic() - began
            if kept is None:
                self.hands.prolong(took_s + pause_s)
            more = kept is not None and kept.more
            # A pause as long as the round leaves at least half of Redis to the others.
            if self.ended.wait(min(took_s, pause_s) if more else pause_s):
                return

    def _round(self, *, again: bool) -> Kept | None:
        """None: Redis was away."""
        try:
            kept = self.speak(again=again)
        except (RedisUnavailable, redis.ResponseError) as error:
            log.warning("leases not renewed, trying again in a third of a lease: %s", error)
            return None
        if kept.recovered or kept.replaced:
            log.warning("recovered %d lost claims and %d lost places", kept.recovered, kept.replaced)
        return kept

    def speak(self, *, again: bool = False) -> Kept:
        kept = self.store.keep(
            self.hands.to_renew(), self.lanes, node=self.node, well=not self.hands.paused, again=again
        )
        self.hands.break_off(kept.broken)
        return kept


dramatiq.set_encoder(MsgpackEncoder())
