"""What to do after a failure: again from the start, on from the last checkpoint, the next lane, or a person.

Chosen by expected cost. An option that is tried until it succeeds costs ``cost / success`` on average (the mean of a
geometric distribution), so the one with the least of that is best at every step, whatever was spent before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from broker.purpose import TASK
from broker.settings.lanes import HUMAN
from broker.state import Rate

ENOUGH = 20
Kind = Literal["restart", "resume", "next_lane", "human"]


@dataclass(frozen=True, slots=True)
class Option:
    """One way on. ``cost_nano`` is what one try costs on average, ``success`` how often it succeeds (0 to 1), both
    as measured for the type. ``lane`` is where."""

    kind: Kind
    lane: str
    cost_nano: int
    success: Decimal


def again_is_cheapest(
    task_type: str,
    lane: str,
    purpose: str,
    further: Sequence[str],
    rates: Mapping[tuple[str, str, str], Rate],
    *,
    human_nano: int | None,
) -> bool:
    """Whether another try on ``lane`` costs no more, until a success, than the best of the lanes ``further`` up.

    ``purpose`` is retry or reprompt. Where a way on was measured less than ``ENOUGH`` times there is no opinion, and
    the lane's own bounds decide: True. ``human_nano`` is what a person costs, None: no price, so never the cheapest.
    """
    own = _measured("restart", lane, rates.get((task_type, lane, purpose)))
    others = [
        _measured("next_lane", one, rates.get((task_type, one, TASK))) for one in further if one != HUMAN
    ]
    if own is None or None in others:
        return True
    ways = [own, *(one for one in others if one is not None)]
    if HUMAN in further and human_nano is not None:
        ways.append(Option("human", HUMAN, human_nano, Decimal(1)))
    choice = choose(ways)
    return choice is None or choice.option is own


def _measured(kind: Kind, lane: str, rate: Rate | None) -> Option | None:
    """None: not measured often enough. A rate of nothing or all is taken as one more try would leave it (Laplace)."""
    if rate is None or rate.tries < ENOUGH:
        return None
    return Option(kind, lane, rate.nano // rate.tries, Decimal(rate.successes + 1) / (rate.tries + 2))


@dataclass(frozen=True, slots=True)
class Choice:
    """``expected_nano`` is what reaching a success costs on average by this way."""

    option: Option
    expected_nano: Decimal


def choose(options: Sequence[Option], *, left_nano: int | None = None) -> Choice | None:
    """The way on that costs least until a success; None where no option may be begun.

    ``left_nano`` is what may still be spent on trying: an option whose single try costs more is out, a person never is
    (what a person costs has limits of its own). Ties go to the option named first.
    """
    open_ones = [
        option
        for option in options
        if option.success > 0
        and (left_nano is None or option.kind == "human" or option.cost_nano <= left_nano)
    ]
    if not open_ones:
        return None
    best = min(open_ones, key=expected_nano)
    return Choice(best, expected_nano(best))


def expected_nano(option: Option) -> Decimal:
    """What it costs on average until it succeeds."""
    return option.cost_nano / option.success
