"""What an alert says, who is to be told of it, and when to try again: pure decisions over one plain value.

The scripts that book money write one a window and level of each budget, one when a provider's overrun closes a scope,
and one when a task passes its soft limit; ``accounting.alerting.trend`` writes what has gone on for minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgpack

from broker.limits import PERIODS
from broker.money import shown, text
from broker.scopes import OPERATIONS_LEVEL, USED_UP
from broker.settings.alerts import Alerts

VERSION = 1
SOFT, CLOSED, OVERRUN, RISING = "soft", "closed", "p95", "rising"
FIRST_RETRY_US, LONGEST_RETRY_US = 5_000_000, 300_000_000
GIVE_UP_US = 24 * 3600 * 1_000_000

Deed = Literal["kill", "webhook", "command"]


@dataclass(frozen=True, slots=True)
class Alert:
    """``period`` is that of a budget, or ``soft``, ``closed``, ``p95`` or ``rising``. Money in nano-dollars.

    ``window`` is the day or month of the budget or ``total``, "" where there is none.
    """

    at_us: int
    scope: str
    period: str
    window: str
    level: int
    used_nano: int
    limit_nano: int

    @property
    def id(self) -> str:
        """The same for the same news, told once or again."""
        since = self.window or str(self.at_us)
        return f"{self.scope}|{self.period}|{since}|{self.level}|{text(self.limit_nano)}"


def decode(data: bytes) -> Alert:
    """Raises ValueError for bytes that are no alert of a released version."""
    try:
        _, at_us, scope, period, window, level, used_nano, limit_nano, *_ = msgpack.unpackb(data)
        return Alert(
            int(at_us), str(scope), str(period), str(window), int(level), int(used_nano), int(limit_nano)
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ValueError(f"{len(data)} bytes that are no alert of a known version") from error


def encode(alert: Alert) -> bytes:
    return msgpack.packb(  # type: ignore[no-any-return]
        [
            VERSION, alert.at_us, alert.scope, alert.period, alert.window, alert.level, alert.used_nano,
            alert.limit_nano,
        ]
    )  # fmt: skip


def deeds(alert: Alert, settings: Alerts, *, present: bool) -> tuple[Deed, ...]:
    """What is done besides writing it to the log, in that order. ``present``: its window is not over.

    One task over its soft limit is a spike: it stays in the log. A switch is for budgets that are used up.
    """
    budget = alert.period in PERIODS
    if alert.period == SOFT or (budget and alert.level < OPERATIONS_LEVEL):
        return ()
    kill = budget and alert.level >= USED_UP and settings.kill_switch and present
    found: list[tuple[Deed, bool]] = [
        ("kill", kill), ("webhook", settings.webhook is not None), ("command", bool(settings.command)),
    ]  # fmt: skip
    return tuple(deed for deed, wanted in found if wanted)


def words(alert: Alert) -> str:
    """One line for a person."""
    used, limit = (shown(text(nano)) for nano in (alert.used_nano, alert.limit_nano))
    match alert.period:
        case "soft":
            return f"{alert.scope} passed its soft limit: {used} of {limit}"
        case "closed":
            opens = f"`laneway budget unkill {alert.scope}` opens it"
            return (
                f"{alert.scope} ({alert.window}) is closed: a provider used more than was reserved; {opens}"
            )
        case "p95":
            return f"{alert.scope}: for five minutes the dearest of twenty tasks cost {used} and more, above {limit}"
        case "rising":
            return (
                f"{alert.scope}: for five minutes a success cost {used} or more, in the hour before {limit}"
            )
    state = "used up" if alert.level >= USED_UP else f"{alert.level}% spent"
    when = f" ({alert.window})" if alert.window != alert.period else ""
    return f"{alert.scope} per {alert.period}{when} is {state}: {used} of {limit}"


def document(alert: Alert, *, killed: bool) -> dict[str, Any]:
    """For a webhook or a command. The same ``id`` may come twice."""
    return {
        "id": alert.id,
        "text": words(alert),
        "scope": alert.scope,
        "period": alert.period,
        "window": alert.window,
        "level": alert.level,
        "used_usd": text(alert.used_nano),
        "limit_usd": text(alert.limit_nano),
        "switched_off": killed,
        "at_us": alert.at_us,
    }


def next_try_us(alert: Alert, now_us: int) -> int | None:
    """When to tell of it again after a failure: twice as long after it as now, within bounds. None: no more."""
    age_us = now_us - alert.at_us
    if age_us > GIVE_UP_US:
        return None
    return now_us + max(FIRST_RETRY_US, min(LONGEST_RETRY_US, age_us))
