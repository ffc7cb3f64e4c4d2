"""The nouns of a report. Money in integer nano-dollars (or of the report's currency), shares between 0 and 1.

None stands where a figure has no meaning: no success, nothing judged, nobody said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from broker.money import round_half_even


@dataclass(frozen=True, slots=True)
class Group:
    """Some tasks together. ``judged`` had a verdict of a gate or a person; ``cost_per_success_nano`` is all that the
    group spent over its successes, so that what failed is paid by what succeeded. ``value_nano`` is what its successes
    were worth, where somebody said so, or what they were sold for. The worth of ``valued`` tasks is known, and these
    cost ``valued_cost_nano``, whether they succeeded or not; of all tasks, where there is a price. Of ``rated`` tasks
    whoever got the outcome said whether it was good, and of ``satisfied`` ones that it was; None where the daily sums
    cannot tell. Of ``unpriced_calls`` nobody knows the price: where there are any, each amount is the least that it can
    be; None where no call has a price."""

    name: str
    tasks: int
    judged: int
    succeeded: int
    cost_nano: int
    cost_per_task_nano: int | None
    cost_per_success_nano: int | None
    p50_nano: int | None
    p95_nano: int | None
    p99_nano: int | None
    max_nano: int | None
    overhead_share: float | None
    spend_share: float | None
    value_nano: int | None
    valued: int
    valued_cost_nano: int
    rated: int | None
    satisfied: int | None
    unpriced_calls: int

    @property
    def success_rate(self) -> float | None:
        return share(self.succeeded, self.judged)

    @property
    def satisfaction(self) -> float | None:
        """The satisfied share of those that were rated."""
        return share(self.satisfied or 0, self.rated or 0)

    @property
    def margin_nano(self) -> int | None:
        """Over the tasks whose worth is known: what the others cost stands against a worth that nobody knows."""
        return None if self.value_nano is None else self.value_nano - self.valued_cost_nano

    @property
    def margin_share(self) -> float | None:
        """Of what the successes were worth."""
        return None if self.margin_nano is None else share(self.margin_nano, self.value_nano or 0)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the cost; ``share`` is of all spend."""

    name: str
    nano: int
    share: float | None


@dataclass(frozen=True, slots=True)
class Lane:
    """The calls of one lane, whatever became of their tasks. Latencies are nearest-rank over calls that answered."""

    name: str
    attempts: int
    passed: int
    not_passed: int
    failures: int
    cost_nano: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    time_to_first_token_p50_ms: float | None
    output_tokens_per_s: float | None

    @property
    def pass_rate(self) -> float | None:
        return share(self.passed, self.passed + self.not_passed)


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a lane answers the calls of a type: nearest-rank percentiles over calls that answered.

    ``output_tokens_per_s`` is all that came out over all the time that the calls took. None: no call says it.
    """

    task_type: str
    lane: str
    calls: int
    queue_wait_p50_ms: float | None
    queue_wait_p95_ms: float | None
    time_to_first_token_p50_ms: float | None
    time_to_first_token_p95_ms: float | None
    output_tokens_per_s: float | None


@dataclass(frozen=True, slots=True)
class Within:
    """What is in the spend and is no part of its own. ``machine_nano`` is what our own routing and gates cost.
    ``climbed_nano`` are first calls on further lanes, which an answer of the first lane would have spared.
    ``standing_nano`` is what machines cost beyond what calls caused: their wear, and the time that they stood idle."""

    machine_nano: int
    climbed_nano: int
    standing_nano: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a model did on a lane. Costs of finding the lane and of checking answers stand where the task ended. Input
    tokens count cached ones too, output tokens those of reasoning. In another currency a day's sum is exchanged as one,
    so that these may be off the spend, of which each task is, by a few billionths."""

    lane: str
    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_nano: int
    spend_share: float | None


@dataclass(frozen=True, slots=True)
class Dearest:
    """The dearest ``of_tasks`` of all tasks, the cheapest of them, and what part of the spend is theirs."""

    of_tasks: float
    tasks: int
    from_nano: int | None
    cost_nano: int
    spend_share: float | None


@dataclass(frozen=True, slots=True)
class Costly:
    """A workflow that much of the spend goes into. ``times_usual`` is its cost of a task over that of all other
    workflows' tasks; None where there are none, or where unpriced calls or free tasks leave it open. ``action`` is ""
    where nothing is known that would lower its cost."""

    workflow: str
    tasks: int
    cost_nano: int
    spend_share: float | None
    cost_per_success_nano: int | None
    times_usual: float | None
    action: str
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class Cell:
    """Tasks of a type that ended on a lane, and what a thousand of them cost in all; or tasks that were on the lane,
    and what a thousand of them cost there. None: no call has a known price, or nobody knows whether any has."""

    task_type: str
    lane: str
    tasks: int
    cost_per_1k_nano: int | None


@dataclass(frozen=True, slots=True)
class Choice:
    """What tasks of a type came to that ended on a lane. ``dominated_by`` names another lane that costs no more a
    success of the type, succeeds no less often, and is better in one of both; none of which calls are unpriced. Tasks
    that climbed are the harder ones, so it says which lanes to compare, not which one is better. ``below_floor``: it
    succeeds less often than the type is to (``quality_floor``); None where nothing is asked of the type, or too few of
    these tasks were judged to tell."""

    task_type: str
    lane: str
    tasks: int
    judged: int
    success_rate: float | None
    cost_per_success_nano: int | None
    unpriced_calls: int
    dominated_by: str | None = None
    below_floor: bool | None = None


@dataclass(frozen=True, slots=True)
class Driver:
    """Why tasks of a type cost what they do: calls a task * cost of a call, which follows its tokens. Calls are
    also those of tools and people; tokens are of a call of a model."""

    task_type: str
    tasks: int
    calls_per_task: float | None
    model_calls_per_task: float | None
    input_tokens_per_call: float | None
    output_tokens_per_call: float | None
    cached_share: float | None
    cost_per_call_nano: int | None
    cost_per_task_nano: int | None
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class Period:
    """A day, a week (named by its Monday) or a month, with volume and unit cost apart. ``days`` are those of it that
    have tasks. Tokens are of a call of a model, as in a ``Driver``."""

    name: str
    days: int
    tasks: int
    calls: int
    cost_nano: int
    cost_per_task_nano: int | None
    cost_per_success_nano: int | None
    success_rate: float | None
    calls_per_task: float | None
    model_calls_per_task: float | None
    input_tokens_per_call: float | None
    output_tokens_per_call: float | None
    cached_share: float | None
    overhead_share: float | None
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class Odd:
    """Something of a day that is far from what it usually is. ``unit`` is ``usd``, ``share`` or ``count``; of ``usd``
    both figures are nano-dollars, exactly: a median may lie between two."""

    day: str
    kind: str
    scope: str
    value: float | Fraction
    usual: float | Fraction
    unit: str
    words: str


@dataclass(frozen=True, slots=True)
class Drift:
    """A figure that moved over the whole range: medians of its first and of its last days. ``times`` is None where it
    was nothing at first."""

    figure: str
    scope: str
    first: float | Fraction
    last: float | Fraction
    times: float | None
    unit: str


@dataclass(frozen=True, slots=True)
class Band:
    """Days with about as much to do. Unit costs that hold are alike in each band; ``p95_nano`` is the worst day's."""

    name: str
    days: int
    tasks_per_day: int
    cost_per_task_nano: int | None
    cost_per_success_nano: int | None
    p95_nano: int | None
    unpriced_calls: int


WINDOW_DAYS = 30


@dataclass(frozen=True, slots=True)
class Window:
    """The last 30 days to the end of the report, those before a currency's first rate aside: what one success costs.
    ``days`` of them have files; ``unrolled`` is as in ``Report``."""

    since: str
    until: str
    days: int
    unrolled: tuple[str, ...]
    tasks: int
    succeeded: int
    cost_nano: int
    cost_per_success_nano: int | None
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class Flat:
    """What of a monthly price (``prices.monthly``) falls on those ``days`` of a month that are in the report and on
    which the price held. ``category`` is as in ``Report.categories``."""

    month: str
    name: str
    category: str
    days: int
    nano: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """The spend with all of ``flat`` in it, as no other figure has it. ``window_cost_per_success_nano`` is that of the
    last 30 days; ``margin_nano`` is over all spend, and None unless the worth of all tasks is known."""

    flat_nano: int
    cost_nano: int
    cost_per_success_nano: int | None
    window_cost_per_success_nano: int | None
    margin_nano: int | None


@dataclass(frozen=True, slots=True)
class Goal:
    """What 95 of 100 tasks should stay under, and on which days they did not. ``is_nano`` is over the whole range.
    ``limit_nano`` is at the rate of the last day; each day is held against the limit at its own."""

    limit_nano: int
    is_nano: int | None
    days: int
    broken_on: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """One of two ranges that are compared. ``unrolled`` is as in ``Report``."""

    since: str
    until: str
    unrolled: tuple[str, ...]
    tasks: int
    succeeded: int
    cost_nano: int
    cost_per_task_nano: int | None
    cost_per_success_nano: int | None
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class Moved:
    """What a group cost before and now. ``volume_nano`` is what more or fewer tasks did to it, ``unit_nano`` what a
    dearer or cheaper task did; both sum to the difference."""

    name: str
    before_tasks: int
    tasks: int
    before_nano: int
    cost_nano: int
    volume_nano: int
    unit_nano: int


@dataclass(frozen=True, slots=True)
class Change:
    """Two ranges. Volume (as many more tasks of the same kinds), mix (other kinds of tasks) and unit cost (the same
    tasks dearer) sum to the difference exactly; a kind is a type that ended on a lane."""

    before: Side
    now: Side
    volume_nano: int
    mix_nano: int
    unit_nano: int
    groups: Mapping[str, tuple[Moved, ...]]

    @property
    def difference_nano(self) -> int:
        return self.now.cost_nano - self.before.cost_nano


@dataclass(frozen=True, slots=True)
class Open:
    """What the figures do not settle, said openly."""

    unjudged_tasks: int
    unjudged_nano: int
    failed_nano: int
    cost_per_judged_success_nano: int | None
    unpriced_calls: int
    unsettled_calls: int
    parked_tasks: int
    parked_nano: int
    unfinished_tasks: int


@dataclass(frozen=True, slots=True)
class Report:
    """The tasks submitted from ``since`` to ``until`` (UTC days, both in it), of those that ``where`` names all. What
    is a part of another task is none of its own: there are ``parts_of_tasks``, and what they spent is in all figures.

    ``lanes``, ``speeds`` and ``within`` are there where calls were read, ``work`` and ``visits`` where the daily sums
    can tell them, ``change`` where another range was asked for, ``goal`` where one is configured. ``cells`` are of
    tasks that ended on a lane, with all that they cost; ``visits`` of those that were on it, with what they cost
    there. ``price_nano`` is what a success is sold for. ``loaded`` and ``loaded_categories``, the four with it, are
    there where a monthly price held, and the report is of all tasks. ``unrolled`` are days that have events and lack
    nightly files, so that they are in no figure or not in all. ``unfired`` are types that have patterns, none of
    which found a task in these days, although there were ``classified`` ones to look at; both are of all tasks.
    """

    since: str
    until: str
    currency: str
    where: Mapping[str, tuple[str, ...]]
    totals: Group
    window: Window
    flat: tuple[Flat, ...]
    loaded: Loaded | None
    goal: Goal | None
    parts: tuple[Part, ...]
    categories: tuple[Part, ...]
    loaded_categories: tuple[Part, ...]
    statuses: Mapping[str, int]
    escalated_tasks: int
    escalations: int
    attempts: int
    avoided_nano: int
    parts_of_tasks: int
    parts_of_tasks_nano: int
    value_nano: int | None
    price_nano: int | None
    days: tuple[Group, ...]
    periods: Mapping[str, tuple[Period, ...]]
    groups: Mapping[str, tuple[Group, ...]]
    work: tuple[Work, ...]
    lanes: tuple[Lane, ...]
    within: Within | None
    dearest: tuple[Dearest, ...]
    costly: tuple[Costly, ...]
    cells: tuple[Cell, ...]
    visits: tuple[Cell, ...]
    choices: tuple[Choice, ...]
    drivers: tuple[Driver, ...]
    speeds: tuple[Speed, ...]
    odd: tuple[Odd, ...]
    drifts: tuple[Drift, ...]
    bands: tuple[Band, ...]
    change: Change | None
    open: Open
    unrolled: tuple[str, ...]
    classified: int | None
    unfired: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show: no task or part of one, nothing paid by the month, no comparison."""
        return not self.days and self.loaded is None and self.change is None

    @property
    def overhead_nano(self) -> int:
        return self.totals.cost_nano - self.parts[0].nano

    @property
    def calls_read(self) -> bool:
        """Whether calls were read one by one, without which there is no ``lanes``, ``speeds`` and ``within``."""
        return self.within is not None


def share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def ratio(part: int, whole: int) -> int | None:
    """An amount a piece, rounded half-even."""
    return round_half_even(part, whole) if whole else None


def unit_cost(cost_nano: int, pieces: int, unpriced: int) -> int | None:
    """What a piece costs, or the least that it can cost where some calls have no known price; None where none has."""
    return None if unpriced and not cost_nano else ratio(cost_nano, pieces)
