"""The dispatcher's actor: classify what was submitted and put it on the cheapest lane that can do it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from broker.connect import connect
from broker.errors import BadTask, LanewayError, UnknownTask
from broker.prices import cost_nano
from broker.queue import LaneBroker, TaskQueue
from broker.settings import Settings, load
from broker.sights import Sights
from broker.state import Move, Record
from broker.store import Store
from broker.tariff import cpu_price
from broker.task import DISPATCH, Claim, reference
from dispatcher.availability import unavailable
from dispatcher.batching import Places, queues_of
from dispatcher.classify import Classified, Classifier
from dispatcher.context import Kept, applied, asks_itself, chosen, long_texts, pieces, question
from dispatcher.embedding import embedder
from dispatcher.family import NotIts, NotYet, family_of
from dispatcher.gates import gates_of
from dispatcher.policy import above, climb
from dispatcher.route import climbing, refuse, route

TASKS_A_MESSAGE = 100
MESSAGES_IN_HAND = 2
HOLD_S = 60.0
RESCUE_EVERY_S = 2.0


class Dispatcher:
    """``work`` runs on dramatiq's threads: one embedding call and three round trips for a handful of tasks."""

    def __init__(self, settings: Settings, store: Store, classifier: Classifier) -> None:
        self.settings, self.store, self.classifier = settings, store, classifier
        self.sights = Sights(store)
        self.cpu = cpu_price(settings.fleet.cpu_usd_per_hour)

    def work(self, claims: Sequence[Claim]) -> None:
        before = time.thread_time_ns()
        classified = self.classify(claims)
        kept = self.passages(claims, classified)
        spent_ms = (time.thread_time_ns() - before) / 1e6
        share_nano = cost_nano(self.cpu, None, busy_ms=spent_ms / max(1, len(claims))) or 0
        away = unavailable(self.settings, self.sights.lanes(), self.sights.watched_s())
        places = self._places()
        parents = self._parents(claims)
        self.store.commit(
            [
                self._move(
                    claim, one, away, share_nano, places, parents.get(claim.ref), kept.get(claim.ref, ())
                )
                for claim, one in zip(claims, classified, strict=True)
            ]
        )

    def _parents(self, claims: Sequence[Claim]) -> dict[str, Record]:
        """Of the claims that are parts of tasks which are known here."""
        parents = {
            one.ref: reference(one.task.workspace, one.task.parent) for one in claims if one.task.parent
        }
        records = {}
        for ref in set(parents.values()):
            with suppress(UnknownTask, BadTask):
                records[ref] = self.store.records.one(ref)
        return {ref: records[parent] for ref, parent in parents.items() if parent in records}

    def rescue(self) -> None:
        """What waits on the queue of a lane that nobody serves any more goes on along its chain."""
        away = unavailable(self.settings, self.sights.lanes(), self.sights.watched_s())
        places = self._places()
        for lane, reason in away.items():
            for queue in queues_of(lane, self.settings.lanes[lane]).values():
                claims = self.store.fetch(queue, TASKS_A_MESSAGE, idle=True).claims
                if claims:
                    why = f"{lane}: {reason}"
                    self.store.commit([self._onward(claim, why, away, places) for claim in claims])

    def _onward(self, claim: Claim, why: str, away: dict[str, str], places: Places) -> Move:
        progress = claim.progress
        step = climb(above(progress.lane, progress.chain), away, why)
        return climbing(claim, step, progress, places)

    def _places(self) -> Places:
        return Places(self.settings.lanes, self.settings.types, self.store.clock.now_us())

    def classify(self, claims: Sequence[Claim]) -> list[Classified]:
        """The declared type where there is one; the others are classified together."""
        open_ones = [claim for claim in claims if claim.task.type is None]
        found = iter(self.classifier.classify([claim.task.prompt for claim in open_ones]))
        return [
            Classified(claim.task.type, "declared", "", 1.0) if claim.task.type is not None else next(found)
            for claim in claims
        ]

    def passages(self, claims: Sequence[Claim], classified: Sequence[Classified]) -> dict[str, Kept]:
        """Of tasks whose type guards their context: which passages of their long texts are told."""
        found = {}
        for claim, one in zip(claims, classified, strict=True):
            task_type = self.settings.types.get(one.task_type)
            limit = applied(task_type.context, claim.task).passages_chars if task_type else None
            if limit is not None and (long := long_texts(claim.task, limit)):
                found[claim.ref] = tuple((place, self._nearest(claim, place, limit)) for place in long)
        return found

    def _nearest(self, claim: Claim, place: int, limit_chars: int) -> tuple[int, ...]:
        passages = pieces(str(claim.task.messages[place]["content"]))
        vectors = self.classifier.embedder.embed([*passages, question(claim.task, place)])
        asks = asks_itself(claim.task, place)
        return chosen(passages, vectors[:-1], vectors[-1], limit_chars, asks=asks)

    def _move(
        self,
        claim: Claim,
        one: Classified,
        away: dict[str, str],
        share_nano: int,
        places: Places,
        parent: Record | None,
        kept: Kept,
    ) -> Move:
        if one.task_type not in self.settings.types:
            known = ", ".join(sorted(self.settings.types))
            return refuse(claim, f"unknown task type {one.task_type!r}; the fleet knows {known}")
        try:
            gates_of(self.settings.types[one.task_type], claim.task)
        except BadTask as error:
            return refuse(claim, f"its gate cannot be used: {error.message}")
        offered = self.settings.types[one.task_type].tools
        if strange := sorted(set(claim.task.tools or ()) - set(offered)):
            known = ", ".join(offered) or "none"
            return refuse(claim, f"type {one.task_type!r} has no tool {', '.join(strange)}; it has {known}")
        match family := family_of(claim, parent, self.settings):
            case NotYet(delay_s):
                return Move(claim, "queued", claim.progress, DISPATCH, delay_s)
            case NotIts(why):
                return refuse(claim, f"it cannot be a part of {claim.task.parent}: {why}")
        return route(claim, one, self.settings, away, share_nano, places, family, kept)


def serve() -> LaneBroker:
    """The broker for ``dramatiq``. Ends the process with the mend where this node cannot dispatch."""
    try:
        settings = load()
        classifier = Classifier.build(settings, embedder())
        store = connect(settings)
        store.limits.declare(settings.budgets)
    except LanewayError as error:
        sys.exit(f"the dispatcher cannot run on this node: {error}")
    broker = LaneBroker(store)
    queue = TaskQueue(DISPATCH, messages=MESSAGES_IN_HAND, batch=TASKS_A_MESSAGE, hold_s=HOLD_S)
    dispatcher = Dispatcher(settings, store, classifier)
    broker.task_queue(queue, dispatcher.work)
    broker.every("dispatch-rescue", RESCUE_EVERY_S, dispatcher.rescue)
    return broker
