"""Where a task goes first, and where from there: the moves, and the facts that they tell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.events import Escalated, Finished, Parked, Routed
from broker.settings import Settings, parse
from broker.settings.types import TaskType
from broker.state import Move
from broker.task import Claim, Outcome, Progress, Task
from dispatcher.batching import Places
from dispatcher.classify import Classified
from dispatcher.policy import Fail, Park, Run
from dispatcher.route import chain_of, climbing, refuse, route

SETTINGS: Settings = parse(
    """
    [lanes.a]
    engine = "echo"
    [lanes.b]
    engine = "echo"
    [types.general]
    chain = ["a", "b", "human"]
    [types.judged]
    category = "extractive"
    chain = ["a", "b"]
    gate = { kind = "choice", choices = ["x"] }
    """
)
PLACES = Places(SETTINGS.lanes, SETTINGS.types, 0)
AWAY = (("a", "gone"),)


def claim(progress: Progress = Progress(), **said: object) -> Claim:  # noqa: B008 - a frozen noun
    task = Task("t", "acme", ({"role": "user", "content": "hi"},), **said)  # type: ignore[arg-type]
    return Claim(task, progress, 1, "dispatch", 0, 0, 0, 0)


def first(
    task_type: str, away: dict[str, str], family: tuple[tuple[str, int], ...] = ()
) -> tuple[Move, Routed]:
    found = Classified(task_type, "regex", "rule", 0.75)
    made = route(claim(user="u"), found, SETTINGS, away, 42, PLACES, family)
    [routed] = made.attempts
    assert isinstance(routed, Routed)
    return made, routed


def test_a_task_goes_to_the_cheapest_lane_that_can_take_it_and_classifying_it_is_paid_for() -> None:
    made, routed = first("judged", {"a": "gone"})
    assert (made.status, made.queue, made.outcome, made.facts) == ("queued", "lane-b-sync", None, ())
    assert (made.cost_nano, made.scopes) == (42, ("fleet", "workspace:acme", "user:u"))
    told = made.progress
    assert (told.task_type, told.category, told.by, told.rule) == ("judged", "extractive", "regex", "rule")
    assert (told.lane, told.hop, told.chain, told.skipped) == ("b", 0, ("a", "b"), AWAY)
    assert routed == Routed(
        "judged", "extractive", "regex", "rule", 0.75, ("a", "b"), "b", told.why, AWAY, cost_nano=42
    )


def test_where_no_lane_can_take_it_a_person_is_to_or_it_fails() -> None:
    away = {"a": "gone", "b": "no key"}
    parked, routed = first("general", away)
    assert (parked.status, parked.queue, parked.progress.lane, routed.lane) == (
        "parked",
        "",
        "human",
        "human",
    )
    assert parked.outcome == Outcome(
        "parked", "waits for a person: no lane of its chain can take it", None, "human"
    )
    assert parked.facts == (Parked("human", "no lane of its chain can take it"),)
    failed, routed = first("judged", away)
    assert (failed.status, failed.queue, failed.progress.lane, routed.lane) == ("failed", "", "", "")
    assert failed.outcome == Outcome("failed", "no lane of its chain can take it")
    assert failed.facts == (Finished("failed", False, "", "no lane of its chain can take it"),)
    assert parked.cost_nano == failed.cost_nano == 42, "classifying is paid for whatever comes of it"


@pytest.mark.parametrize(
    ("family", "root"),
    [((), ""), ((("acme/whole", 5),), "whole"), ((("acme/part", -1), ("acme/whole", 5)), "whole")],
)
def test_the_ledger_is_told_the_outermost_task_that_it_is_a_part_of(
    family: tuple[tuple[str, int], ...], root: str
) -> None:
    made, routed = first("general", {}, family)
    assert (routed.root, made.progress.family) == (root, family)


@pytest.mark.parametrize(
    ("role", "chain", "goes"),
    [
        ("worker", ("a", "b", "human"), ("a", "b", "human")),
        ("planner", ("a", "b", "human"), ("b", "human")),
        ("planner", ("a", "b"), ("b",)),
        ("planner", ("a", "human"), ("a", "human")),
        ("planner", ("human",), ("human",)),
    ],
)
def test_a_planner_goes_to_the_strongest_lane_of_its_chain(
    role: str, chain: tuple[str, ...], goes: tuple[str, ...]
) -> None:
    assert chain_of(TaskType.model_validate({"chain": chain, "role": role})) == goes


BUSY = Progress(
    task_type="judged", chain=("a", "b"), lane="a", hop=2, retries=3, reprompts=1, complaint="no", why="before",
    last_answer="said", skipped=AWAY,
)  # fmt: skip


def test_a_climb_counts_a_move_and_begins_anew_on_the_next_lane() -> None:
    made = climbing(claim(BUSY), Run("b", "why", (("c", "away"),)), BUSY, PLACES)
    assert (made.status, made.queue) == ("queued", "lane-b-sync")
    assert made.facts == (Escalated("a", "b", "why", (("c", "away"),)),)
    assert made.progress == replace(
        BUSY, lane="b", hop=3, retries=0, reprompts=0, complaint="", why="why", skipped=(*AWAY, ("c", "away"))
    )


@pytest.mark.parametrize(("said", "output"), [("said", "said"), ("", None)])
def test_a_person_and_a_failure_get_the_last_answer_where_there_was_one(
    said: str, output: str | None
) -> None:
    told = replace(BUSY, last_answer=said)
    parked = climbing(claim(told), Park("why"), told, PLACES)
    assert (parked.status, parked.queue, parked.progress.lane, parked.progress.hop) == (
        "parked",
        "",
        "human",
        3,
    )
    assert parked.outcome == Outcome("parked", "waits for a person: why", output, "human")
    assert parked.facts == (Escalated("a", "human", "why"), Parked("human", "why"))
    failed = climbing(claim(told), Fail("why", (("b", "away"),)), told, PLACES)
    assert (failed.status, failed.queue, failed.progress.lane, failed.progress.hop) == ("failed", "", "a", 2)
    assert failed.outcome == Outcome("failed", "why", output, "a")
    assert failed.facts == (Finished("failed", False, "a", "why"),)
    assert failed.progress.skipped == (*AWAY, ("b", "away"))


def test_a_task_that_no_configuration_fits_is_judged_by_nobody() -> None:
    made = refuse(claim(), "no such type")
    assert (made.status, made.outcome) == ("failed", Outcome("failed", "no such type"))
    assert made.facts == (Finished("failed", None, "", "no such type"),)
    assert (made.cost_nano, made.attempts) == (0, ())
