"""What a call is booked at once it is over: a pure function of its price and how it ended."""

from __future__ import annotations

from dataclasses import dataclass

from broker.call import Reply, Usage
from broker.errors import (
    AuthenticationFailed,
    CallRejected,
    ContextOverflow,
    EngineError,
    EngineOverloaded,
    EngineUnavailable,
    ModelNotFound,
    OutOfCredit,
    RateLimited,
)
from broker.prices import HardwarePrice, Price, cost_nano, marginal_nano

#: The provider turned the call away before a token was made, and bills nothing.
TURNED_AWAY = (
    RateLimited,
    EngineOverloaded,
    EngineUnavailable,
    CallRejected,
    ContextOverflow,
    AuthenticationFailed,
    OutOfCredit,
    ModelNotFound,
)


@dataclass(frozen=True, slots=True)
class Settlement:
    """``cost_nano`` None: unpriced. ``settled`` False: what the provider used is unknown, booked at the worst case.

    ``overrun``: the provider used more than the worst case.
    """

    cost_nano: int | None
    marginal_nano: int | None
    settled: bool
    usage: Usage
    overrun: bool = False


def settle(
    price: Price | None,
    ended: Reply | EngineError,
    *,
    worst_nano: int | None,
    busy_ms: float,
    batch: bool = False,
) -> Settlement:
    usage = _usage(ended)
    if isinstance(price, HardwarePrice):
        cost = cost_nano(price, usage, busy_ms=busy_ms)
        return Settlement(cost, marginal_nano(price, cost, busy_ms=busy_ms), True, usage or Usage())
    if usage is None:
        return Settlement(worst_nano, worst_nano, False, Usage())
    cost = cost_nano(price, usage, busy_ms=busy_ms, batch=batch)
    return Settlement(cost, cost, True, usage, _above(cost, worst_nano))


def _above(cost: int | None, worst_nano: int | None) -> bool:
    return cost is not None and worst_nano is not None and cost > worst_nano


def _usage(ended: Reply | EngineError) -> Usage | None:
    """None: not known."""
    if isinstance(ended, Reply):
        return ended.usage if ended.usage_known else None
    if isinstance(ended.usage, Usage):
        return ended.usage
    return Usage() if isinstance(ended, TURNED_AWAY) else None
