"""The days of machines: how long each was on, and what of its cost is whose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from broker import keys
from broker.ask import ask
from broker.lua import Scripts, pack
from broker.rows import PackedFacts
from broker.state import Share


class MachineDays:
    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._client = scripts.client

    def uptimes_us(self, day: str) -> dict[str, int]:
        """For how many microseconds each machine was on, in a UTC day."""
        found = ask(lambda: self._client.hgetall(keys.uptime_key(day)))
        return {machine.decode(): int(on) for machine, on in found.items()}

    def begin(self, day: str, machines: Mapping[str, str]) -> tuple[int, dict[str, str]]:
        """Begin to share out a day of ``machines`` (lane → what its machine is, as a text). Gives the turn, which ends
        all earlier ones of that day, and these with those of lanes that had one when the day was shared out before."""
        turn, *rows = self._scripts.call("share", day, *chain.from_iterable(machines.items())) or (0,)
        texts = [one.decode() for one in rows]
        return turn, dict(zip(texts[::2], texts[1::2], strict=True))

    def allot(self, day: str, turn: int, parts: Sequence[Share]) -> int | None:
        """Add to tasks what their attempts have of a machine's day. Gives how many were changed; None: nothing was, for
        somebody began to share out the day after this turn."""
        packed = PackedFacts(one.fact for one in parts)
        rows = [
            [one.ref, one.submitted_us, one.fact.attempt_id, one.fact.cost_nano, told, "\n".join(one.scopes)]
            for one, told in zip(parts, packed.facts, strict=True)
        ]
        changed = self._scripts.call("allot", pack(rows), day, turn, *packed.group)
        return None if changed is None else int(changed)

    def end(self, day: str, turn: int) -> None:
        """All is told of that day of machines, but where somebody began to share it out after this turn."""
        self._scripts.call("shared", day, turn)

    def half_shared(self) -> list[str]:
        """Days of machines of which somebody began to tell what calls have of them, and did not come to the end."""
        return sorted(day.decode() for day in ask(lambda: self._client.hkeys(keys.SHARING)))
