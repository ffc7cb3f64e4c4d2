"""What a call is booked at once it is over: a pure function of its price and how it ended."""

from __future__ import annotations

from dataclasses import dataclass

from broker.call import Reply, Usage
from broker.errors import CallRejected, EngineError, EngineUnavailable
from broker.prices import HardwarePrice, Price, TokenPrice, cost_nano, marginal_nano, row_of

#: The call never left this node. What a provider turned away is known by its usage, which is none; an error of the same
#: kind in the middle of an answer says nothing of what was used until then.
NOT_MADE = (CallRejected, EngineUnavailable)


@dataclass(frozen=True, slots=True)
class Settlement:
    """``cost_nano`` None: unpriced. ``settled`` False: what the provider used is unknown, booked at the worst case.

    ``price_ref`` names the row that holds for such a call, "" where no price is known. ``overrun``: the provider used
    more than the worst case. ``avoided_nano`` is what the provider's cache saved, less what writing to it cost more.
    """

    cost_nano: int | None
    marginal_nano: int | None
    settled: bool
    usage: Usage
    price_ref: str = ""
    overrun: bool = False
    avoided_nano: int = 0


def settle(
    price: Price | None,
    ended: Reply | EngineError,
    *,
    worst_nano: int | None,
    busy_ms: float,
    ended_us: int,
    batch: bool = False,
) -> Settlement:
    """``busy_ms`` is how long a slot was held, ``ended_us`` when on Redis's clock: a price may hang on the hour."""
    usage = _usage(ended)
    if isinstance(price, HardwarePrice):
        cost = cost_nano(price, usage, busy_ms=busy_ms)
        marginal = marginal_nano(price, cost, busy_ms=busy_ms)
        return Settlement(cost, marginal, True, usage or Usage(), price.ref)
    if usage is None:
        return Settlement(worst_nano, worst_nano, False, Usage(), price.ref if price else "")
    row = row_of(price, usage, batch=batch, at_us=ended_us) if isinstance(price, TokenPrice) else None
    cost = cost_nano(row, usage, busy_ms=busy_ms)
    avoided = (cost_nano(row, _uncached(usage), busy_ms=busy_ms) or 0) - (cost or 0)
    return Settlement(cost, cost, True, usage, row.ref if row else "", _above(cost, worst_nano), avoided)


def _uncached(usage: Usage) -> Usage:
    """The same had there been no cache: all that was read at the full price."""
    cached = usage.cached_input_tokens + usage.cache_write_tokens + usage.cache_write_1h_tokens
    return Usage(
        usage.input_tokens + cached,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )


def _above(cost: int | None, worst_nano: int | None) -> bool:
    return cost is not None and worst_nano is not None and cost > worst_nano


def _usage(ended: Reply | EngineError) -> Usage | None:
    """None: not known."""
    if isinstance(ended, Reply):
        return ended.usage if ended.usage_known else None
    if ended.usage is None and isinstance(ended, NOT_MADE):
        return Usage()
    return ended.usage
