"""Which queue of a lane an asynchronous task goes to: a table of cases."""

from datetime import UTC, datetime

import pytest

from broker.prices import PPM
from broker.settings.lanes import Lane
from broker.task import Claim, Progress, Task
from dispatcher.batching import Places, cheapest, fill_ready, place, ways

HALF = PPM // 2
LANE = Lane(engine="openai", batches=True, batch_least_s=3600, batch_overflow_s=900)
PRICE = {"input_mtok": "1", "output_mtok": "2"}
JUNE_US = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp()) * 1_000_000


def claim(deadline_s: float | None, mode: str = "async", waited_s: float = 0) -> Claim:
    task = Task("t", "acme", ({"role": "user", "content": "hi"},), mode=mode, deadline_s=deadline_s)
    return Claim(task, Progress(), 1, "dispatch", 0, 0, 0, 0, waited_us=round(waited_s * 1e6))


@pytest.mark.parametrize(
    ("deadline_s", "gone_s", "batch_ppm", "queue"),
    [
        (None, 0, HALF, "batch"),
        (86_400, 0, HALF, "batch"),
        (3600, 0, HALF, "batch"),
        (3600, 1, HALF, "async"),
        (3600, 2700, HALF, "async"),
        (3600, 2701, HALF, "sync"),
        (60, 0, HALF, "sync"),
        (60, 90, HALF, "sync"),
        (None, 0, PPM, "async"),
        (86_400, 0, PPM, "async"),
        (60, 0, PPM, "sync"),
    ],
)
def test_the_cheapest_way_that_there_is_time_for(
    deadline_s: float | None, gone_s: float, batch_ppm: int, queue: str
) -> None:
    found = place(claim(deadline_s), "x", LANE, batch_ppm=batch_ppm, now_us=round(gone_s * 1e6))
    assert found == f"lane-x-{queue}"


def test_what_somebody_waits_for_is_never_batched() -> None:
    assert place(claim(None, "sync"), "x", LANE, batch_ppm=HALF, now_us=0) == "lane-x-sync"


def test_time_that_it_waited_for_a_person_is_not_gone() -> None:
    now_us = 7_200_000_000
    assert place(claim(7200), "x", LANE, batch_ppm=HALF, now_us=now_us) == "lane-x-sync"
    assert place(claim(7200, waited_s=7200), "x", LANE, batch_ppm=HALF, now_us=now_us) == "lane-x-batch"


def test_a_lane_without_batches_has_one_way() -> None:
    assert [way.name for way in ways(Lane(engine="echo"), HALF)] == ["async"]
    assert cheapest(ways(Lane(engine="echo"), HALF), -5.0).name == "async"


def test_the_discount_of_the_day_decides() -> None:
    price = [{**PRICE, "from": "2026-01-01"}, {**PRICE, "from": "2026-06-01", "batch_discount": "0.5"}]
    lanes = {"x": Lane.model_validate({**LANE.model_dump(exclude={"price"}), "price": price})}
    assert Places(lanes, {}, JUNE_US - 1).of(claim(None), "x") == "lane-x-async"
    assert Places(lanes, {}, JUNE_US).of(claim(None), "x") == "lane-x-batch"
    assert Places({}, {}, JUNE_US).of(claim(None), "gone") == "lane-gone-async"


@pytest.mark.parametrize(
    ("waiting", "waited_s", "ready"), [(0, 999, False), (1, 299, False), (1, 300, True), (10_000, 0, True)]
)
def test_a_batch_is_sent_for_enough_or_after_long_enough(waiting: int, waited_s: float, ready: bool) -> None:
    assert fill_ready(waiting, waited_s, LANE) == ready
