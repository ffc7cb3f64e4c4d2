"""Which of a lane's endpoints a call goes to: a pure decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dispatcher.budget import Unusable, Wait

#: A call by whose cost endpoints are compared: tokens in and out.
TYPICAL_TOKENS = (3000, 1000)
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Choice:
    """One endpoint as it stands. ``cost_nano`` is what a typical call costs there, None where no price is known.

    ``weight`` is the configuration's word, ``failures`` how many calls failed there in a row. ``shut``: it takes no
    calls just now.
    """

    cost_nano: int | None
    weight: float = 1.0
    failures: int = 0
    shut: bool = False


def choose(choices: Sequence[Choice], pick: float) -> int | None:
    """The place of the endpoint to take, None where all are shut. ``pick`` is a random number from 0 up to 1.

    Each open endpoint has its turn in proportion to its weight, to how cheap it is beside the cheapest one, and to one
    over one more than its failures. Where some are free only those are taken; an unpriced one counts as the dearest.
    """
    open_ones = [at for at, choice in enumerate(choices) if not choice.shut]
    if not open_ones:
        return None
    costs = [choices[at].cost_nano for at in open_ones]
    known = [cost for cost in costs if cost is not None]
    dearest, cheapest = max(known, default=1), min(known, default=1)
    shares = [
        choices[at].weight / (1 + choices[at].failures) * _cheapness(cost, cheapest, dearest)
        for at, cost in zip(open_ones, costs, strict=True)
    ]
    left = pick * sum(shares)
    for at, share in zip(open_ones, shares, strict=True):
        left -= share
        if left < 0:
            return at
    return open_ones[-1]


def crowded(wait_s: float, *, mode: str, left_s: float | None) -> Wait | Unusable:
    """All endpoints of the lane are at their limits for so long: the task waits for its turn, or goes on along its
    chain where somebody waits for it or its deadline comes first. ``left_s`` None: it has no deadline."""
    why = f"its endpoints take no calls for {wait_s:.0f} s"
    patience_s = PATIENCE_S if mode == "sync" else float("inf")
    if wait_s <= patience_s and (left_s is None or wait_s < left_s):
        return Wait(wait_s, why)
    return Unusable(why)


def _cheapness(cost: int | None, cheapest: int, dearest: int) -> float:
    cost = dearest if cost is None else cost
    if cheapest == 0:
        return float(cost == 0)
    return cheapest / cost
