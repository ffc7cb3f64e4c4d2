"""`laneway explain`: what the dispatcher would decide, with nothing run and no fleet needed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import click

from broker.connect import connect
from broker.errors import RedisUnavailable
from broker.settings import Settings, load
from broker.settings.lanes import HUMAN
from broker.sights import Sights
from broker.task import MODES, Task, lane_queue
from dispatcher.availability import unavailable
from dispatcher.classify import Classified, Classifier
from dispatcher.embedding import embedder
from dispatcher.policy import Park, Run, start
from dispatcher.route import chain_of
from laneway.cli.options import json_option
from laneway.cli.output import emit, say, shorten, table
from laneway.cli.taskfile import opened, read_prompt
from laneway.submission import task_of

BATCH = 500
NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Explainer:
    """The dispatcher's knowledge at one moment. ``availability`` says where ``away`` comes from."""

    settings: Settings
    classifier: Classifier
    away: Mapping[str, str]
    availability: str

    @classmethod
    def build(cls, settings: Settings) -> Explainer:
        """Raises ConfigError. Without a Redis every lane counts as there."""
        classifier = Classifier.build(settings, embedder())
        try:
            lanes = Sights(connect(settings)).lanes()
        except RedisUnavailable:
            return cls(settings, classifier, {}, NOT_CHECKED)
        return cls(settings, classifier, unavailable(settings, lanes, math.inf), "checked")

    def rows(self, tasks: Sequence[Task]) -> list[dict[str, Any]]:
        """One answer a task, in order; those without a type are classified together."""
        open_ones = [task.prompt for task in tasks if task.type is None]
        found = iter(self.classifier.classify(open_ones))
        return [
            self._row(task, next(found) if task.type is None else Classified(task.type, "declared", "", 1.0))
            for task in tasks
        ]

    def _row(self, task: Task, one: Classified) -> dict[str, Any]:
        row: dict[str, Any] = {
            "type": one.task_type,
            "by": one.by,
            "rule": one.rule,
            "confidence": one.confidence,
        }
        known = self.settings.types.get(one.task_type)
        if known is None:
            why = f"it would be refused: the fleet knows no type but {', '.join(sorted(self.settings.types))}"
            return row | {
                "chain": [],
                "lane": None,
                "queue": None,
                "why": why,
                "passed_over": [],
                "availability": "",
            }
        chain = chain_of(known)
        step = start(chain, self.away)
        lane = step.lane if isinstance(step, Run) else HUMAN if isinstance(step, Park) else None
        return row | {
            "chain": list(chain),
            "lane": lane,
            "queue": lane_queue(lane, task.mode) if isinstance(step, Run) and lane else None,
            "why": step.why,
            "passed_over": [{"lane": name, "reason": reason} for name, reason in step.skipped],
            "availability": self.availability,
        }


@click.command()
@click.argument("prompt", required=False)
@click.option(
    "--file", "-f", "path", metavar="TASKS.jsonl", help="One JSON object a line; - is standard input."
)
@click.option("--type", "type", metavar="T", help="As if the producer had named this type.")
@click.option("--mode", type=click.Choice(MODES), help="Default: sync.")
@json_option
def explain(prompt: str | None, path: str | None, type: str | None, mode: str | None, as_json: bool) -> None:
    """How a prompt would be classified and routed; nothing is run.

    Works without a fleet: whether lanes are served is then `not checked`. With --file and --json it prints one JSON
    line a task. PROMPT - reads standard input.
    """
    if (prompt is None) == (path is None):
        raise click.UsageError("give either a PROMPT or --file")
    row = {name: value for name, value in (("type", type), ("mode", mode)) if value is not None}
    if path is not None:
        _explain_file(path, row, as_json)
        return
    row |= {"prompt": read_prompt(prompt or "")}
    task = task_of(row)
    [found] = Explainer.build(load()).rows([task])
    if as_json:
        emit(found)
    else:
        _tell(found)


def _explain_file(path: str, defaults: Mapping[str, Any], as_json: bool) -> None:
    with opened(path) as file:
        file.check(defaults)
        explainer = Explainer.build(load())
        explained = _explained(explainer, map(task_of, file.rows(defaults)))
        if as_json:
            for _, row in explained:
                emit(row)
        else:
            table(
                ("prompt", "type", "by", "confidence", "lane", "chain"),
                (_cells(task, row) for task, row in explained),
                right=("confidence",),
            )


def _explained(explainer: Explainer, tasks: Iterator[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
    while batch := list(islice(tasks, BATCH)):
        yield from zip(batch, explainer.rows(batch), strict=True)


def _cells(task: Task, row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        shorten(task.prompt, 60),
        row["type"],
        row["by"],
        f"{row['confidence']:.2f}",
        row["lane"] or "none",
        " → ".join(row["chain"]),
    )


def _tell(row: Mapping[str, Any]) -> None:
    rule = f", {shorten(row['rule'], 80)}" if row["rule"] else ""
    say(f"type        {row['type']} by {row['by']}{rule}, confidence {row['confidence']:.2f}")
    if row["chain"]:
        lanes = (f"[{lane}]" if lane == row["lane"] else lane for lane in row["chain"])
        say(f"chain       {' → '.join(lanes)}")
    say(f"lane        {row['lane'] or 'none'}: {row['why']}")
    for one in row["passed_over"]:
        say(f"passed over {one['lane']}: {one['reason']}")
    if row["availability"] == NOT_CHECKED:
        say("not checked whether its lanes are served: no Redis answers")
