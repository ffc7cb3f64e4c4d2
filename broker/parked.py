"""What a person does with tasks: those that wait for one go on, and any gets other limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgpack

from broker import keys
from broker.ask import ask
from broker.events import Fact, Resumed, encode_fact
from broker.lua import Scripts, pack
from broker.records import Records, unknown
from broker.settings.lanes import HUMAN
from broker.task import Outcome, Progress, encode_outcome, encode_progress


class Parked:
    """``ttl_s`` is how long the record of a task is kept that ends here."""

    def __init__(self, scripts: Scripts, records: Records, ttl_s: int) -> None:
        self._scripts = scripts
        self._records = records
        self._ttl_s = ttl_s

    def refs(self, limit: int = 1000) -> list[str]:
        """The refs that wait for a person, longest first."""
        return [ref.decode() for ref in ask(lambda: self._scripts.client.zrange(keys.PARKED, 0, limit - 1))]

    def reviewed(self) -> list[str]:
        """The refs that a person has ended and whose results are still kept, oldest first."""
        return [ref.decode() for ref in ask(lambda: self._scripts.client.zrange(keys.REVIEWED, 0, -1))]

    def resume(
        self,
        ref: str,
        status: str,
        facts: Sequence[Fact],
        *,
        queue: str = "",
        progress: Progress | None = None,
        outcome: Outcome | None = None,
        cost_nano: int = 0,
        scopes: Sequence[str] = (),
        hard_nano: int | None = None,
        raised: Mapping[str, Any] | None = None,
        epoch: int | None = None,
        over: bool = False,
    ) -> str:
        """A parked task goes on (``queued``, on its queue or another) or gets its end.

        ``epoch`` is the record's, as the caller saw it: where the task has gone on and is parked anew, the word is
        ``changed``. Else it is the status before; one that was not parked is left where it is. ``raised`` are limits by
        their names, put over those of the same name. A cost that fits no limit does nothing and the word is why (see
        ``scripts/begin.lua``), but with ``over``. Raises UnknownTask.
        """
        row = [
            ref,
            status,
            queue,
            encode_progress(progress) if progress else b"",
            encode_outcome(outcome) if outcome else b"",
            cost_nano,
            [encode_fact(fact) for fact in facts],
            "\n".join(scopes),
            -1 if hard_nano is None else hard_nano,
            "" if epoch is None else str(epoch),
            msgpack.packb(dict(raised)) if raised else b"",
            int(over),
        ]
        before = self._scripts.call("resume", pack(row), self._ttl_s)
        if not before:
            raise unknown(ref)
        return before.decode()  # type: ignore[no-any-return]

    def raise_limits(self, ref: str, hard_nano: int | None, others: Mapping[str, Any] | None = None) -> str:
        """Set a task's own limits: money, and any others by their names; one that is parked at a limit goes on, and so
        do its sub-tasks that are.

        Gives its status before, ``human`` for one that waits for a person and goes on waiting. Raises UnknownTask.
        """
        while True:
            record = self._records.one(ref)
            waits = record.status == "parked" and record.progress.lane == HUMAN
            facts = [Resumed("budget", record.progress.lane)]
            seen = -1 if waits else record.epoch
            word = self.resume(ref, "queued", facts, hard_nano=hard_nano, raised=others, epoch=seen)
            if word != "changed":
                for part in self._records.parts(ref):
                    if self._records.status(part) == "parked":
                        self.raise_limits(part, None)
                return word
            if waits:
                return HUMAN
