"""What a call is booked at once it is over, by hand: nano-dollars of each class of tokens, and what is not known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.call import Reply, Usage
from broker.errors import CallRejected, EngineError, EngineTimeout, EngineUnavailable, RateLimited
from broker.prices import HardwarePrice, Price, TokenPrice
from workers.settle import Settlement, settle

#: Nano-dollars of a token: 10 fresh, 1 from the cache, 12 into it, 20 for an hour, 50 out.
PRICE = TokenPrice("t", 10_000, 1_000, 12_000, 50_000, 20_000)
HALF = replace(PRICE, batch=TokenPrice("t+batch", 5_000, 500, 6_000, 25_000, 10_000))
#: A second costs 100 nano-dollars, 30 of them for energy; two calls share it.
OWN = HardwarePrice("hardware:x", 70_000, 30_000, 2)


def reply(usage: Usage, *, known: bool = True) -> Reply:
    return Reply("said", usage, "m", 5.0, usage_known=known)


def settled(
    price: Price | None, ended: Reply | EngineError, worst: int | None = 9_999, **said: bool
) -> Settlement:
    return settle(price, ended, worst_nano=worst, busy_ms=4_000, ended_us=0, **said)


@pytest.mark.parametrize(
    ("usage", "cost", "avoided"),
    [
        (Usage(), 0, 0),
        (Usage(7), 70, 0),
        (Usage(0, 7), 7, 63),
        (Usage(0, 0, 7), 84, -14),
        (Usage(0, 0, 0, 7), 350, 0),
        (Usage(0, 0, 0, 0, 7), 350, 0),
        (Usage(0, 0, 0, 0, 0, 7), 140, -70),
        (Usage(1, 2, 3, 4, 5, 6), 10 + 2 + 36 + 200 + 250 + 120, 18 - 6 - 60),
    ],
)
def test_each_class_of_tokens_has_its_price_and_a_cache_what_it_saved(
    usage: Usage, cost: int, avoided: int
) -> None:
    assert settled(PRICE, reply(usage)) == Settlement(cost, cost, True, usage, "t", avoided_nano=avoided)


def test_a_line_of_a_batch_is_booked_at_the_price_of_one() -> None:
    assert settled(HALF, reply(Usage(6, 4)), batch=True) == Settlement(
        32, 32, True, Usage(6, 4), "t+batch", avoided_nano=18
    )
    assert settled(HALF, reply(Usage(6, 4))).price_ref == "t"


@pytest.mark.parametrize(
    ("ended", "known"),
    [
        (reply(Usage(), known=False), False),
        (EngineTimeout("late"), False),
        (RateLimited("later"), False),
        (RateLimited("later", usage=Usage()), True),
        (EngineTimeout("late", usage=Usage(1)), True),
        (CallRejected("bad"), True),
        (EngineUnavailable("gone"), True),
    ],
    ids=str,
)
def test_what_a_provider_used_is_known_or_the_worst_is_booked(
    ended: Reply | EngineError, known: bool
) -> None:
    made = settled(PRICE, ended, 777)
    used = ended.usage if isinstance(ended.usage, Usage) else Usage()
    if known:
        assert made == Settlement(10 * used.input_tokens, 10 * used.input_tokens, True, used, "t")
    else:
        assert made == Settlement(777, 777, False, Usage(), "t")


def test_a_call_without_a_price_is_unpriced_and_never_free() -> None:
    assert settled(None, reply(Usage(5)), None) == Settlement(None, None, True, Usage(5))
    assert settled(None, EngineTimeout("late"), None) == Settlement(None, None, False, Usage())


@pytest.mark.parametrize(("worst", "overrun"), [(69, True), (70, False), (71, False), (None, False)])
def test_more_than_the_worst_case_is_an_overrun(worst: int | None, overrun: bool) -> None:
    assert settled(PRICE, reply(Usage(7)), worst).overrun is overrun


@pytest.mark.parametrize(
    "ended", [reply(Usage(5)), reply(Usage(), known=False), EngineTimeout("late")], ids=str
)
def test_a_machine_of_ones_own_is_paid_for_the_time_whatever_came_of_it(ended: Reply | EngineError) -> None:
    """Four seconds of a half: 200 nano-dollars, of which 60 are energy."""
    used = Usage(5) if ended == reply(Usage(5)) else Usage()
    assert settled(OWN, ended, 1) == Settlement(200, 60, True, used, "hardware:x")
