"""Task state in Redis: each method is one round trip for many tasks, and one atomic script for each.

Nothing here decides anything: a script refuses what is stale or double and otherwise does what its caller decided.
Every call may be repeated after a lost reply without doing anything twice, but for ``note``, whose fact then stands
twice; ``replay`` and ``drop`` of dead letters say False the second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import redis

from broker import keys, rows
from broker.ask import ask, pages
from broker.clock import US_PER_S, Clock
from broker.dead_letters import DeadLetters
from broker.errors import BadTask
from broker.events import Fact, Finished, encode_fact
from broker.lanes import Lanes
from broker.limits import Limits
from broker.lua import Scripts, array_of, pack
from broker.machine_days import MachineDays
from broker.parked import Parked
from broker.records import Records, unknown
from broker.settings.fleet import Fleet
from broker.state import Fetched, Heard, Intent, Kept, Move
from broker.task import Claim, Outcome, Task, encode_outcome

ENDS_AT_ONCE = 500
_CANCELLED = Outcome("cancelled", "cancelled by its producer")
_DEAD = Outcome("failed", "dead letter: it took its worker along again and again")


class Store:
    """The task state of one fleet. Thread-safe, as its Redis client is.

    Its own methods are what producers and workers do with tasks; what is read of it, and what operators say, is asked
    of its parts.
    """

    def __init__(self, client: redis.Redis, fleet: Fleet) -> None:
        self.client = client
        self.fleet = fleet
        self.lease_us = round(fleet.lease_s * US_PER_S)
        self.clock = Clock(client)
        self.scripts = Scripts(client)
        self.records = Records(self.scripts)
        self.lanes = Lanes(self.scripts, self.clock, self.lease_us)
        self.limits = Limits(self.scripts, self.clock)
        self.parked = Parked(self.scripts, self.records, fleet.idempotency_ttl_s)
        self.dead_letters = DeadLetters(self.scripts, fleet.idempotency_ttl_s)
        self.machine_days = MachineDays(self.scripts)
        self._rules = [
            fleet.max_starts,
            fleet.idempotency_ttl_s,
            encode_fact(Finished("cancelled", None, "", _CANCELLED.reason)),
            encode_outcome(_CANCELLED),
            encode_outcome(_DEAD),
        ]
        self._commit_rules = [*self._rules, self.lease_us]
        self._begin = self.scripts.joined("begin")
        self._commit = self.scripts.joined("commit", *self._commit_rules)

    def submit(self, tasks: Sequence[Task]) -> list[str]:
        """One word a task: ``new``, ``same`` (it was there already) or ``conflict`` (the id has another payload).

        Raises BadTask or TaskTooLarge before anything is stored, RedisFull or RedisUnavailable when nothing was.
        """
        packed, group = rows.of_tasks(tasks)
        return [word.decode() for word in self.scripts.call("submit", pack(packed), *group)]

    def fetch(self, queue: str, want: int, *, idle: bool, due_us: int | None = None) -> Fetched:
        """Take and claim up to ``want`` tasks. ``idle``: this process has nothing in hand.

        ``due_us``: of a pool only those whose deadline is before that, on Redis's clock; None: all.
        """
        due = "" if due_us is None else due_us
        now, until_due, alone, found = self.scripts.call("fetch", queue, want, self.lease_us, int(idle), due)
        now_us = int(now)
        self.clock.seen(now_us)
        claims = [claim for row in found if (claim := self._claim(row, queue, now_us))]
        return Fetched(tuple(claims), None if until_due < 0 else until_due / US_PER_S, bool(alone))

    def waiting(self, queue: str) -> int:
        """How many tasks are in a queue or pool."""
        return int(ask(lambda: self.client.zcard(keys.queue_key(queue))))

    def claims(
        self, refs: Sequence[tuple[str, int]], queue: str, *, stale: bool = False
    ) -> list[Claim | None]:
        """The claims of tasks that a batch holds, as (ref, epoch): None for one that was lost or settled meanwhile.

        ``stale``: also those; what is committed for them only corrects what was booked.
        """
        found = self.scripts.call("claims", pack([[ref, str(epoch)] for ref, epoch in refs]), int(stale))
        return [row and self._claim(row, queue, int(row[5])) for row in found]

    def _claim(self, row: Sequence[bytes], queue: str, now_us: int) -> Claim | None:
        """None for a record that cannot be read: the task is ended and kept with its cause, its neighbours go on."""
        try:
            return rows.claim_of(row, queue, now_us)
        except (BadTask, ValueError) as error:
            ref, epoch, *_ = row
            cause = f"unreadable record: {error}"
            self._commit([rows.of_burial(ref.decode(errors="replace"), epoch.decode(), cause)])
            return None

    def begin(self, intents: Sequence[Intent]) -> list[str]:
        """Reserve the worst case of each call in all of its scopes, or in none, and record the intent.

        One word each: ``go``, ``lost``, ``cancel``, or why it must not leave (see ``scripts/begin.lua``).
        """
        return [word.decode() for word in self._begin(list(map(rows.of_intent, intents)))]

    def heard(self, calls: Sequence[Heard]) -> list[tuple[int, float, float]]:
        """Tell the fleet how calls to endpoints went. Of each endpoint: its failures in a row, and for how many seconds
        it is shut for them, and wants no calls by its own word."""
        told = self.scripts.call("heard", pack(list(map(rows.of_heard, calls))))
        return [
            (int(failures), int(shut_us) / US_PER_S, int(blocked_us) / US_PER_S)
            for failures, shut_us, blocked_us in told
        ]

    def step(self, moves: Sequence[Move]) -> list[Claim]:
        """``commit``, and the claims to go on with: those of steps after which the task is still ours."""
        words = [word.partition("|") for word in self.commit(moves)] if moves else []
        now_us = self.clock.now_us()
        return [
            replace(
                move.claim,
                progress=move.progress,
                epoch=int(epoch),
                cost_nano=move.claim.cost_nano + move.cost_nano,
                claimed_us=now_us,
                enqueued_us=now_us,
            )
            for move, (word, _, epoch) in zip(moves, words, strict=True)
            if word == "goes on"
        ]

    def tool_result(self, key: str) -> str | None:
        """The result that is kept under that key, None where none is."""
        found = ask(lambda: self.scripts.client.get(keys.tool_result_key(key)))
        return None if found is None else found.decode()

    def keep_tool_result(self, key: str, text: str, ttl_s: float) -> None:
        ask(lambda: self.client.set(keys.tool_result_key(key), text, px=round(ttl_s * 1000)))

    def commit(self, moves: Sequence[Move]) -> list[str]:
        """Settle and move. One word each: ``moved``, ``goes on|epoch``, ``done before``, ``late`` or ``cancelled``."""
        packed, group = rows.of_moves(moves)
        if group:  # large enough to go alone
            words = self.scripts.call("commit", array_of(packed), *self._commit_rules, *group)
        else:
            words = self._commit(packed)
        return [word.decode() for word in words]

    def release(self, claims: Iterable[Claim], cause: str = "") -> None:
        """Give claims back: unharmed, or with the cause for which their worker failed on them."""
        self.release_held([(claim.ref, claim.epoch) for claim in claims], cause)

    def release_held(self, held: Iterable[tuple[str, int]], cause: str) -> None:
        """The same for claims of which (ref, epoch) alone is known."""
        told = [[ref, str(epoch), cause] for ref, epoch in held]
        if told:
            self.scripts.call("release", pack(told), *self._rules)

    def keep(
        self,
        held: Sequence[tuple[str, int]],
        lanes: Sequence[str],
        *,
        node: str = "",
        well: bool = True,
        again: bool = False,
    ) -> Kept:
        """Renew the leases of (ref, epoch) in hand, say which lanes ``node`` serves, look after what is lost.

        ``well`` False: the node's engine makes no tokens just now. ``again``: the round before left more.
        """
        broken, recovered, replaced, more = self.scripts.call(
            "keep",
            pack([[ref, str(epoch)] for ref, epoch in held]),
            self.lease_us,
            pack([[lane, node, int(well)] for lane in lanes]),
            *self._rules,
            self.fleet.result_ttl_s * US_PER_S,
            self.fleet.node if lanes else "",
            int(again),
        )
        claims = frozenset((ref.decode(), int(epoch)) for ref, epoch in broken)
        return Kept(claims, recovered, replaced, bool(more))

    def wait(self, queue: str, timeout_s: float) -> None:
        """Block until something is put on the queue, or the time is over."""
        ask(lambda: self.client.blpop([keys.wake_key(queue)], timeout=max(0.01, timeout_s)))

    def cancel(self, ref: str) -> str:
        """The status now: ``cancelled``, ``cancelling`` (a call is under way) or the end it had reached. Its sub-tasks
        are cancelled with it, also those that are submitted later.

        Raises UnknownTask.
        """
        _, ttl, fact, outcome, _ = self._rules
        word: bytes = self.scripts.call("cancel", ref, ttl, fact, outcome)
        if not word:
            raise unknown(ref)
        asked = {ref}
        parts = self.records.parts(ref)
        while parts:
            part = parts.pop()
            if part not in asked:
                asked.add(part)
                self.scripts.call("cancel", part, ttl, fact, outcome)
                parts += self.records.parts(part)  # what comes after its cancel ends of itself
        return word.decode()

    def note(self, ref: str, fact: Fact) -> None:
        """Add a fact to a task. Raises UnknownTask."""
        if not self.scripts.call("note", ref, encode_fact(fact)):
            raise unknown(ref)

    def watch(self, reader: str, refs: Sequence[str]) -> int:
        """Have ``reader`` told of each ref's end. Gives how many of them are unknown."""
        return sum(int(self.scripts.call("watch", keys.reply_key(reader), *part)) for part in pages(refs))

    def next_ends(self, reader: str, timeout_s: float) -> list[str]:
        """The next refs that ended or were parked, as many as there are; none when the time is over."""
        found = ask(
            lambda: self.scripts.client.blmpop(
                max(0.01, timeout_s), 1, keys.reply_key(reader), direction="LEFT", count=ENDS_AT_ONCE
            )
        )
        return [ref.decode() for ref in found[1]] if found else []

    def memory_used(self) -> float:
        """The used part of Redis's maxmemory, 0.0 where it has none."""
        info = ask(lambda: self.client.info("memory"))
        return info["used_memory"] / info["maxmemory"] if info.get("maxmemory") else 0.0
