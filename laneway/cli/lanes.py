"""`laneway lanes` and `laneway queues`: the fleet as Redis knows it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from accounting.files.ledger import open_store
from broker import keys
from broker.ask import ask
from broker.batches import BatchBook
from broker.clock import US_PER_S, today
from broker.connect import connect
from broker.errors import EngineUnavailable
from broker.money import PICO_PER_NANO, round_half_even, shown, text
from broker.prices import HardwarePrice, Price, TokenPrice, mtok_usd
from broker.settings import Settings, load
from broker.settings.lanes import Lane
from broker.settings.secrets import secret
from broker.sights import Sights
from broker.state import QueueState, Seen
from broker.store import Store
from broker.tariff import price_of
from broker.task import DISPATCH
from dispatcher.availability import needs_key, unavailable
from dispatcher.batching import queues_of
from laneway.cli.options import json_option
from laneway.cli.output import emit, say, span, table
from laneway.cli.recent import verdicts
from workers.endpoints import Endpoints
from workers.engines import resolve

SECONDS_PER_HOUR = 3600


@click.command()
@json_option
def lanes(as_json: bool) -> None:
    """Each lane: price, health, verdicts, and why it is not served.

    Whether its key and its engine are here is said of this node, all else of the whole fleet. Verdicts are those of the
    latest calls: what is not yet in the ledger, and its newest files.
    """
    settings = load()
    store = connect(settings)
    rows = lane_rows(settings, store)
    if as_json:
        emit({"lanes": rows})
    else:
        _draw_lanes(rows)


def lane_rows(settings: Settings, store: Store) -> list[dict[str, Any]]:
    seen = Sights(store).lanes()
    away = unavailable(settings, seen, math.inf)
    states = {state.queue: state for state in store.lanes.queues(_queue_names(settings))}
    day = today()
    latest = verdicts(store, open_store(settings))
    return [
        {
            "lane": name,
            "engine": resolve(lane),
            "model": lane.model,
            "price": _price(price_of(name, lane, day)),
            "key": _key(lane),
            "here": _lacking(name, lane, settings) or "ready",
            **_nodes(seen.get(name)),
            "available": name not in away,
            "reason": away.get(name, ""),
            "queues": {mode: _depths(states[queue]) for mode, queue in queues_of(name, lane).items()},
            "in_flight": sum(states[queue].in_flight for queue in queues_of(name, lane).values()),
            "recent": dict(sorted(latest.get(name, Counter()).items())),
        }
        for name, lane in settings.lanes.items()
    ]


def _nodes(seen: Seen | None) -> dict[str, Any]:
    if seen is None:
        return {"seen_s_ago": None, "nodes": 0, "ailing_nodes": 0}
    ago = None if seen.s_ago == math.inf else seen.s_ago
    return {"seen_s_ago": ago, "nodes": seen.well + seen.ailing, "ailing_nodes": seen.ailing}


def _queue_names(settings: Settings) -> list[str]:
    lanes = settings.lanes.items()
    return [DISPATCH, *(queue for name, lane in lanes for queue in queues_of(name, lane).values())]


def _depths(state: QueueState) -> dict[str, Any]:
    return {
        "depth": state.depth,
        "later": state.later,
        "suspects": state.suspects,
        "oldest_s": state.oldest_s,
    }


def _price(price: Price | None) -> dict[str, str] | None:
    """None: unpriced."""
    match price:
        case TokenPrice():
            return {
                "ref": price.ref,
                "input_mtok_usd": mtok_usd(price.input_pico),
                "cached_input_mtok_usd": mtok_usd(price.cached_input_pico),
                "output_mtok_usd": mtok_usd(price.output_pico),
            }
        case HardwarePrice():
            per_s = price.amortisation_pico_per_s + price.energy_pico_per_s
            return {
                "ref": price.ref,
                "hour_usd": text(round_half_even(per_s * SECONDS_PER_HOUR, PICO_PER_NANO)),
            }
    return None


def _key(lane: Lane) -> str:
    """``set``, ``missing``, or ``none needed``; the key itself is never shown."""
    if not needs_key(lane):
        return "none needed"
    return "set" if secret(lane) else "missing"


def _lacking(name: str, lane: Lane, settings: Settings) -> str:
    """What this node lacks to serve the lane, "" for nothing."""
    try:
        Endpoints.build(name, lane, settings.fleet.var).check()
    except EngineUnavailable as error:
        return error.message
    return ""


def _draw_lanes(rows: list[dict[str, Any]]) -> None:
    table(
        (
            "lane",
            "engine",
            "model",
            "price",
            "key",
            "seen",
            "nodes",
            "sync",
            "async",
            "in hand",
            "recent calls",
        ),
        (
            (
                row["lane"],
                row["engine"],
                row["model"],
                _price_words(row["price"]),
                row["key"],
                "never" if row["seen_s_ago"] is None else f"{span(row['seen_s_ago'])} ago",
                f"{row['nodes']}, {row['ailing_nodes']} ailing" if row["ailing_nodes"] else str(row["nodes"]),
                _waiting(row["queues"]["sync"]),
                _waiting(row["queues"]["async"]),
                str(row["in_flight"]),
                ", ".join(f"{count} {word}" for word, count in row["recent"].items()),
            )
            for row in rows
        ),
        right=("nodes", "sync", "async", "in hand"),
    )
    for row in rows:
        if not row["available"]:
            say(f"{row['lane']} takes no tasks: {row['reason']}")
        if row["here"] != "ready":
            say(f"{row['lane']} cannot be served on this node: {row['here']}")


def _price_words(price: Mapping[str, str] | None) -> str:
    if price is None:
        return "unpriced"
    if "hour_usd" in price:
        return f"{shown(price['hour_usd'])} an hour"
    return f"{shown(price['input_mtok_usd'])} in, {shown(price['output_mtok_usd'])} out a Mtok"


def _waiting(state: Mapping[str, Any]) -> str:
    return str(state["depth"] + state["later"] + state["suspects"])


@click.command()
@json_option
def queues(as_json: bool) -> None:
    """Each queue and batch: what waits, what is in hand, and for how long.

    `later` waits for a time: a retry's, or when its limits are asked again. `suspects` took their worker along before
    and are handed out alone. A queue that ends in `batch` is a pool: what waits for a provider's next batch.
    """
    settings = load()
    store = connect(settings)
    states = store.lanes.queues(_queue_names(settings))
    batches, totals = batch_rows(store), _totals(store)
    if as_json:
        emit({"queues": [asdict(state) for state in states], "batches": batches, **totals})
        return
    _draw_queues(states)
    if batches:
        _draw_batches(batches)
    say(
        f"{totals['open']} tasks are under way, {totals['parked']} wait for a person, {totals['dead']} dead letters"
    )


def _draw_queues(states: Sequence[QueueState]) -> None:
    table(
        ("queue", "waits", "later", "suspects", "in hand", "oldest"),
        (
            (
                state.queue,
                str(state.depth),
                str(state.later),
                str(state.suspects),
                str(state.in_flight),
                span(state.oldest_s) if state.depth else "-",
            )
            for state in states
        ),
        right=("waits", "later", "suspects", "in hand", "oldest"),
    )


def _draw_batches(batches: Sequence[Mapping[str, Any]]) -> None:
    table(
        ("batch", "lane", "state", "lines", "left", "for", "at the provider"),
        (
            (
                row["id"],
                row["lane"],
                row["state"],
                str(row["lines"]),
                str(row["left"]),
                span(row["age_s"]),
                row["provider_id"] or "-",
            )
            for row in batches
        ),
        right=("lines", "left", "for"),
    )


def batch_rows(store: Store) -> list[dict[str, Any]]:
    """The provider batches that are not done with; ``left`` are lines that are not settled."""
    book = BatchBook(store)
    return [
        {
            "id": batch.id,
            "lane": batch.lane,
            "state": "stopping" if batch.cancelled else batch.state,
            "lines": batch.lines,
            "left": book.count_left(batch),
            "age_s": max(0, store.clock.now_us() - batch.since_us) / US_PER_S,
            "provider_id": batch.provider_id,
        }
        for batch in book.all()
    ]


def _totals(store: Store) -> dict[str, int]:
    """Tasks that are under way, that wait for a person, and dead letters."""
    pipe = store.client.pipeline(transaction=False)
    pipe.zcard(keys.OPEN)
    pipe.zcard(keys.PARKED)
    pipe.hlen(keys.DEAD)
    return dict(zip(("open", "parked", "dead"), ask(pipe.execute), strict=True))
