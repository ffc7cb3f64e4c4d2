"""What happens next to a task: pure decisions over plain data. The dispatcher uses them for the first lane, a lane's
worker for the next one.

A task only ever moves to a lane that its type's chain names, in the chain's order; a lane that cannot take it is passed
over in the open, with the reason kept. Where no lane is left the person at the chain's end gets it, and a chain without
one ends as failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from broker.settings.lanes import HUMAN

LONGEST_RETRY_DELAY_S = 60.0


@dataclass(frozen=True, slots=True)
class Run:
    """Put the task on ``lane``. ``skipped`` are the lanes passed over on the way, each with its reason."""

    lane: str
    why: str
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """The same call again on the same lane after ``delay_s``."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Reprompt:
    """The same lane again, told what was wrong."""

    complaint: str


@dataclass(frozen=True, slots=True)
class Complete:
    pass


@dataclass(frozen=True, slots=True)
class Park:
    """A person is to take it."""

    why: str
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Fail:
    why: str
    skipped: tuple[tuple[str, str], ...] = ()


Step = Run | Retry | Reprompt | Complete | Park | Fail


@dataclass(frozen=True, slots=True)
class Answered:
    """The lane answered. ``passed`` None: no gate judged it."""

    passed: bool | None
    complaint: str = ""


@dataclass(frozen=True, slots=True)
class Broken:
    """The call did not end well. ``retry_after_s`` is the provider's own wish, None where it has none."""

    failure: str
    transient: bool
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """How often the present lane may be tried again, and how often it was. ``retry_delay_s`` doubles each time."""

    retries_left: int
    reprompts_left: int
    retry_delay_s: float
    retries: int = 0


def start(chain: Sequence[str], unavailable: Mapping[str, str]) -> Run | Park | Fail:
    """The cheapest lane of the chain that can take the task now. ``unavailable`` tells why a lane cannot."""
    step = climb(chain, unavailable, "the cheapest lane of its chain")
    match step:
        case Park(skipped=skipped):
            return Park(
                "no lane of its chain can take it" if skipped else "its chain is a person alone", skipped
            )
        case Fail(skipped=skipped):
            return Fail("no lane of its chain can take it", skipped)
        case Run(lane, _, skipped) if skipped:
            return Run(lane, "the cheapest lane of its chain that can take it", skipped)
    return step


def after(
    outcome: Answered | Broken,
    lane: str,
    chain: Sequence[str],
    bounds: Bounds,
    unavailable: Mapping[str, str],
) -> Step:
    """What follows an attempt on ``lane``."""
    match outcome:
        case Answered(passed=True | None):
            return Complete()
        case Answered(complaint=complaint):
            if bounds.reprompts_left > 0:
                return Reprompt(complaint)
            return climb(above(lane, chain), unavailable, f"gate failed on {lane}: {complaint}")
        case Broken(transient=True, retry_after_s=wish) if (
            bounds.retries_left > 0 and lane not in unavailable
        ):
            delay_s = max(wish or 0.0, bounds.retry_delay_s * 2**bounds.retries)
            if delay_s <= LONGEST_RETRY_DELAY_S:
                return Retry(delay_s)
    return climb(above(lane, chain), unavailable, f"{outcome.failure} on {lane}")


def above(lane: str, chain: Sequence[str]) -> Sequence[str]:
    """The rungs above a lane."""
    return chain[chain.index(lane) + 1 :] if lane in chain else ()


def climb(chain: Sequence[str], unavailable: Mapping[str, str], why: str) -> Run | Park | Fail:
    """The first rung that can take the task now."""
    skipped: list[tuple[str, str]] = []
    for lane in chain:
        if lane == HUMAN:
            return Park(why, tuple(skipped))
        reason = unavailable.get(lane)
        if reason is None:
            return Run(lane, why, tuple(skipped))
        skipped.append((lane, reason))
    return Fail(f"{why}; no lane of its chain is left", tuple(skipped))


@dataclass(frozen=True, slots=True)
class LaneSight:
    """What is known of a lane's nodes. ``seen_s_ago`` None: no node has ever said that it serves the lane; infinite:
    a fleet said that it cannot.

    ``needs_key``: it can only be served where somebody holds its key, so unseen means absent. ``watched_s`` is for how
    long this process has been looking: a lane is absent only when it was watched to be. ``ailing``: its nodes speak,
    and each of them says that its engine makes no tokens.
    """

    seen_s_ago: float | None
    needs_key: bool
    watched_s: float
    ailing: bool = False


def absent(sight: LaneSight, absent_s: float) -> str | None:
    """Why a lane counts as not served, None where it is or may soon be."""
    if sight.ailing:
        return "no engine of its nodes makes tokens"
    if sight.seen_s_ago == inf:
        return "no node of this fleet can serve it"
    if sight.seen_s_ago is None:
        return "no node serves it: its key is not set" if sight.needs_key else None
    if min(sight.seen_s_ago, sight.watched_s) > absent_s:
        return f"no node has served it for {sight.seen_s_ago:.0f} s"
    return None
