"""`laneway demo`: real tasks through a fleet of its own, then what they cost.

Everything lies in ``var/demo``, apart from a fleet of the user's own, and is made anew by each run.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from accounting.files import ledger
from accounting.intake import aside, ingest
from accounting.reports import present
from accounting.reports import report as reports
from accounting.rollup import nightly
from broker.errors import RedisUnavailable
from broker.settings import Settings, load
from broker.settings.lanes import HUMAN
from broker.task import TERMINAL
from laneway.board import Board
from laneway.cli.options import json_option
from laneway.cli.output import PIPE_WIDTH, emit, say, shorten, table
from laneway.cli.taskfile import Row, opened
from laneway.client import Client, Result, result_of
from laneway.fleet import REDIS_LOOK_S, Fleet, Plan, missing_here, plan, read_procfile
from laneway.supervisor import log_files, on_signals

TASKS = Path("demo") / "tasks.jsonl"
TICK_S = 5.0
CLOSING_S = 30.0  # of the whole time: for draining, the rollup and the report
DRAIN_S = 10.0
ENDS = TERMINAL | {"parked"}
SHOWN = 5


@dataclass(slots=True)
class Run:
    """What came of a run. ``waiting`` are the ids of tasks that neither ended nor wait for a person; ``failing`` are
    processes that did not stay up, with the last words of each."""

    settings: Settings
    plan: Plan
    tasks: int = 0
    results: list[Result] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    failing: Mapping[str, str] = field(default_factory=dict)
    report: reports.Report | None = None
    seconds: float = 0.0

    @property
    def parked(self) -> list[Result]:
        return [result for result in self.results if result.status == "parked"]

    @property
    def escalated(self) -> list[Result]:
        return [one for one in self.results if len(one.lanes) > 1 or (one.lanes and one.lane == HUMAN)]

    @property
    def files(self) -> list[str]:
        store = ledger.open_store(self.settings)
        folders = [
            ledger.partition(dataset, day)
            for dataset in ledger.DATASETS
            for day in ledger.days(store, dataset)
        ]
        return [
            f"{self.settings.fleet.ledger}/{folder}/{name}"
            for folder in folders
            for name in store.list(folder)
        ]


@click.command()
@click.option(
    "--tasks",
    type=click.Path(path_type=Path),
    default=TASKS,
    show_default=True,
    help="The tasks, one JSON object a line.",
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(min=1),
    default=240,
    show_default=True,
    help="How long all of it may take.",
)
@json_option
def demo(tasks: Path, timeout_s: float, as_json: bool) -> int:
    """Run real tasks through a fleet and print what they cost.

    Starts a fleet of its own in var/demo, hands in the tasks, waits until each has ended or waits for a person, rolls
    the day up, prints the report, and stops what it started. Where the ledger is a bucket, the demo's own lies under
    demo/ there. Exits with 1 if a task did neither in time.
    """
    started = time.monotonic()
    settings = of_demo(load())
    with opened(str(tasks)) as file:
        file.check({})
        rows = list(file.rows({}))
    run = Run(settings, plan(settings, read_procfile(), missing_here(settings.fleet.var)), len(rows))
    with Board(len(rows)) as board, _fleet(run) as fleet:
        _work(run, fleet, rows, board, started + max(timeout_s - CLOSING_S, timeout_s / 2))
        board.stage("rolling the day up")
        _close_books(run, fleet)
        board.stage("stopping")
    run.seconds = time.monotonic() - started
    if as_json:
        emit(as_dict(run))
    else:
        tell(run)
    return 1 if run.waiting else 0


def of_demo(settings: Settings) -> Settings:
    """The same fleet with a folder, a ledger and a Redis of its own. In a bucket, each run has a prefix of its own."""
    var, place = settings.fleet.var / "demo", settings.fleet.ledger
    if place.startswith("s3://"):
        place = f"{place.rstrip('/')}/demo/{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    else:
        place = str(var / "ledger")
    fleet = settings.fleet.model_copy(update={"var": var, "ledger": place})
    return settings.model_copy(update={"fleet": fleet, "redis_url": None})


@contextmanager
def _fleet(run: Run) -> Iterator[Fleet]:
    """Ended in good order after the first signal as after any error; the next one does not wait for calls in flight."""
    var = run.settings.fleet.var
    fleet = Fleet(run.settings, run.plan, say=log_files(var / "log"), drain_s=DRAIN_S, fresh=True)
    inside, asked = threading.Event(), threading.Event()

    def interrupt() -> None:
        if inside.is_set():
            raise KeyboardInterrupt
        asked.set()
        fleet.kill()

    with on_signals(interrupt, fleet.kill), fleet:
        inside.set()
        try:
            if asked.is_set():
                raise KeyboardInterrupt
            yield fleet
        finally:
            inside.clear()


def _work(run: Run, fleet: Fleet, rows: Sequence[Row], board: Board, until: float) -> None:
    """Hand in, wait until each task ended or was parked or the time is over, and drain the lanes."""
    client = Client(run.settings.model_copy(update={"redis_url": fleet.redis_url}))
    with closing(client.store.client):
        left = {(one.workspace, one.task_id): one for one in client.submit_many(rows)}
        board.stage("working")
        while left and fleet.running() and (left_s := until - time.monotonic()) > 0:
            try:
                for result in client.results(list(left.values()), min(TICK_S, left_s)):
                    del left[result.workspace, result.task_id]
                    run.results.append(result)
                    board.ended(result)
            except RedisUnavailable as error:
                board.stage(f"waiting for redis: {error.message}")
                time.sleep(REDIS_LOOK_S)  # the fleet starts it again
            board.tick()
        run.failing = fleet.failing()
        board.stage("draining")
        fleet.stop_processes()
        for one in left.values():  # the last calls in flight have ended by now
            result = result_of(client.record(one.task_id, workspace=one.workspace))
            if result.status in ENDS:
                run.results.append(result)
                board.ended(result)
            else:
                run.waiting.append(one.task_id)


def _close_books(run: Run, fleet: Fleet) -> None:
    settings = run.settings
    store = ledger.open_store(settings)
    # A writer that was killed holds the ledger until its lock runs out.
    time.sleep(ingest.held_s(fleet.store.client))
    nightly.run(fleet.store.client, store, aside.place(settings), settings)
    days = ledger.days(store, ledger.TASKS)
    if days:
        run.report = reports.build(store, since=days[0], until=days[-1])


def as_dict(run: Run) -> dict[str, Any]:
    return {
        "tasks": run.tasks,
        "statuses": dict(Counter(result.status for result in run.results)),
        "lanes": dict(Counter(result.lane for result in run.results)),
        "unavailable": dict(run.plan.unavailable),
        "escalations": [_row(result) for result in run.escalated],
        "parked": [_row(result) for result in run.parked],
        "waiting": run.waiting,
        "failing": dict(run.failing),
        "report": reports.to_dict(run.report) if run.report else None,
        "ledger": run.settings.fleet.ledger,
        "files": run.files,
        "seconds": round(run.seconds, 1),
    }


def _row(result: Result) -> dict[str, Any]:
    return {
        "task_id": result.task_id,
        "workspace": result.workspace,
        "type": result.task_type,
        "status": result.status,
        "lane": result.lane,
        "lanes": list(result.lanes),
        "reason": result.reason,
        "way": _way(result),
    }


def _way(result: Result) -> str:
    """The lanes tried, each with what became of it there."""
    last = {row["lane"]: row for row in result.attempts}
    return " → ".join(
        f"{lane} ({shorten(row['failure'] or row['complaint'] or row['verdict'] or 'answered', 60)})"
        for lane, row in last.items()
    )


def tell(run: Run) -> None:
    if run.report is not None:
        present.render(run.report, Console(width=None if Console().is_terminal else PIPE_WIDTH))
    _tell_lanes(run)
    climbed = [result for result in run.escalated if result.status != "parked"]
    _tell_some("Climbed to a dearer lane", climbed, ("way", _way))
    _tell_some("Waiting for a person", run.parked, ("reason", lambda result: shorten(result.reason, 120)))
    if run.waiting:
        say(f"\nNeither ended nor waiting for a person: {len(run.waiting)} of {run.tasks} tasks")
    for name, words in run.failing.items():
        say(f"  {name} does not stay up: {words}")
    say(
        f"\n{run.tasks} tasks in {run.seconds:.1f} s. The ledger's Parquet files, in {run.settings.fleet.ledger}:"
    )
    for path in run.files:
        say(f"  {path}")
    say(f"Logs: {run.settings.fleet.var / 'log'}")


def _tell_lanes(run: Run) -> None:
    if run.plan.unavailable:
        say("\nLanes that this machine cannot serve; tasks passed them over:")
        for lane, why in run.plan.unavailable.items():
            say(f"  {lane}: {why}")


def _tell_some(title: str, results: Sequence[Result], column: tuple[str, Any]) -> None:
    if not results:
        return
    name, words = column
    say(f"\n{title}: {len(results)} {'task' if len(results) == 1 else 'tasks'}")
    rows = [(one.task_id, one.task_type, one.status, words(one)) for one in results[:SHOWN]]
    table(("task", "type", "status", name), rows)
    if len(results) > SHOWN:
        say(f"  and {len(results) - SHOWN} more")
