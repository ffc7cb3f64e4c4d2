"""What scopes may spend and have spent, by what the configuration and operators say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from broker import keys
from broker.ask import AT_ONCE, ask, pages
from broker.clock import Clock, utc_day
from broker.lua import Scripts
from broker.money import nano
from broker.scopes import LOG_LEVEL, OPERATIONS_LEVEL, USED_UP
from broker.settings.budgets import BudgetRow
from broker.state import BudgetState

PERIODS = ("day", "month", "total")
LEVELS = (LOG_LEVEL, OPERATIONS_LEVEL, USED_UP)


class Limits:
    def __init__(self, scripts: Scripts, clock: Clock) -> None:
        self._scripts = scripts
        self._client = scripts.client
        self._clock = clock

    def declare(self, rows: Sequence[BudgetRow]) -> None:
        """The limits that the configuration names, in place of those it named before."""
        named = {f"file|{row.scope}|{row.period}": str(nano(row.usd)) for row in rows}
        before = [name for name in self._rules_of_scopes("file|*") if name not in named]
        self._scripts.note_down(keys.RULES, named, before)

    def override(self, scope: str, period: str, limit_nano: int | None) -> None:
        """An operator's limit, over what the configuration says, at once and fleet-wide. None takes it back.

        Alerts of its levels are sent again.
        """
        name = f"limit|{scope}|{period}"
        fired = [f"{scope}|{period}|{level}" for level in LEVELS]
        self._scripts.note_down(keys.alerted_key(self.windows()[period]), {}, fired)
        if limit_nano is None:
            self._scripts.note_down(keys.RULES, {}, [name])
        else:
            self._scripts.note_down(keys.RULES, {name: str(limit_nano)})

    def kill(self, scope: str) -> None:
        """No call leaves under this scope any more, at once and fleet-wide."""
        self._scripts.note_down(keys.RULES, {f"killed|{scope}": str(self._clock.now_us())})

    def unkill(self, scope: str) -> None:
        """The scope's switch is back, and what an overrun closed is open again."""
        names = [f"killed|{scope}", *(f"closed|{scope}|{period}" for period in PERIODS)]
        self._scripts.note_down(keys.RULES, {}, names)

    def killed(self) -> list[str]:
        return sorted(name.removeprefix("killed|") for name in self._rules_of_scopes("killed|*"))

    def is_killed(self, scope: str) -> bool:
        return bool(ask(lambda: self._client.hexists(keys.RULES, f"killed|{scope}")))

    def states(self) -> list[BudgetState]:
        """Every limited scope in its present window."""
        return self._states(self._rules_of_scopes())

    def state(self, scope: str, period: str) -> BudgetState | None:
        """The same of one limit, None where there is none."""
        names = [f"killed|{scope}", *(f"{kind}|{scope}|{period}" for kind in ("limit", "file", "closed"))]
        values = ask(lambda: self._client.hmget(keys.RULES, names))
        found = zip(names, values, strict=True)
        states = self._states({name: value.decode() for name, value in found if value is not None})
        return states[0] if states else None

    def windows(self) -> dict[str, str]:
        """The present window of each period."""
        day = utc_day(self._clock.now_us())
        return {"day": day, "month": day[:7], "total": "total"}

    def _rules_of_scopes(self, names: str = "*") -> dict[str, str]:
        """Those of such names, read page by page: every user may have a limit."""
        found = ask(lambda: list(self._client.hscan_iter(keys.RULES, match=names, count=AT_ONCE)))
        return {name.decode(): value.decode() for name, value in found}

    def _states(self, rules: Mapping[str, str]) -> list[BudgetState]:
        """Of the limits among these rules, and of no other scope: many more have spent something than have a limit."""
        windows = self.windows()
        limited = {name.partition("|")[2] for name in rules if name.startswith(("file|", "limit|"))}
        states = []
        for period in PERIODS:
            for names in pages(sorted(name for name in limited if name.endswith(f"|{period}"))):
                scopes = [name.rpartition("|")[0] for name in names]
                pipe = self._client.pipeline()
                pipe.hmget(keys.used_key(windows[period]), scopes)
                pipe.hmget(keys.held_key(windows[period]), scopes)
                levels = [f"{name}|{level}" for name in names for level in LEVELS]
                pipe.hmget(keys.alerted_key(windows[period]), levels)
                used, held, told = ask(pipe.execute)
                for at, name in enumerate(names):
                    fired = told[at * len(LEVELS) : (at + 1) * len(LEVELS)]
                    amounts = int(used[at] or 0), int(held[at] or 0)
                    states.append(_state(rules, name, windows[period], *amounts, fired))
        return sorted(states, key=lambda one: f"{one.scope}|{one.period}")


def _state(
    rules: Mapping[str, str],
    name: str,
    window: str,
    used_nano: int,
    held_nano: int,
    told: Sequence[bytes | None],
) -> BudgetState:
    """``told`` says of each level when somebody was told of it."""
    scope, _, period = name.rpartition("|")
    in_file = rules.get(f"file|{name}")
    return BudgetState(
        scope=scope,
        period=period,
        window=window,
        limit_nano=int(rules.get(f"limit|{name}") or rules[f"file|{name}"]),
        spent_nano=used_nano - held_nano,
        reserved_nano=held_nano,
        closed=rules.get(f"closed|{name}") == window,
        file_nano=None if in_file is None else int(in_file),
        overridden=f"limit|{name}" in rules,
        alerted=tuple(level for level, at in zip(LEVELS, told, strict=True) if at is not None),
        killed=f"killed|{scope}" in rules,
    )
