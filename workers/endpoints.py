"""A lane's endpoints on this node: their engines, and how each of them stands.

Most lanes have one. What providers limit and how their endpoints fail is counted in Redis for the whole fleet
(``broker/scripts/heard.lua``); here is what this process last heard of it.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

from broker.call import Call, Quota, Reply, Usage
from broker.errors import (
    CallCancelled,
    CallRejected,
    ContextOverflow,
    EngineError,
    EngineOverloaded,
    RateLimited,
    TransientEngineError,
)
from broker.prices import Price, cost_nano
from broker.settings.lanes import Lane
from broker.settings.secrets import secret
from broker.state import Heard
from broker.tariff import price_of
from dispatcher.endpoints import TYPICAL_TOKENS, Choice, choose
from workers.engines import Engine, build

log = logging.getLogger(__name__)

#: What says nothing of the endpoint's health: the request's own fault, or a limit, which ``blocked_s`` tells of.
NO_FAULT = (CallRejected, ContextOverflow, CallCancelled, RateLimited, EngineOverloaded)
CROWDED_S = 5.0  # for an endpoint that is overloaded and does not say for how long
LEAST_WAIT_S = 0.01
ASK_AGAIN_S = 3600.0  # no endpoint is shut for longer here: Redis may know better by then
BYTES_A_TOKEN = 4


@dataclass(slots=True)
class Endpoint:
    """``id`` is the same for all lanes and nodes that share the endpoint and its key, "" where nobody counts.

    ``ailing``: its engine makes no tokens; ``broken_off``: so the calls in it are given up (see ``workers/health.py``).
    ``failures`` in a row and ``shut_until``, on ``time.monotonic``, are as last heard from Redis; ``broken``: it is
    shut for failing, and not for a limit.
    """

    id: str
    row: Lane
    engine: Engine
    weight: float = 1.0
    ailing: bool = False
    broken_off: bool = False
    failures: int = 0
    shut_until: float = 0.0
    broken: bool = False
    price: Price | None = None
    price_day: str = ""

    @property
    def shut_s(self) -> float:
        return max(0.0, self.shut_until - time.monotonic())


@dataclass(slots=True)
class Endpoints:
    """All of a lane on this node, shared by its threads."""

    lane_name: str
    all: tuple[Endpoint, ...]
    pick: Callable[[], float] = random.random
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def build(cls, lane_name: str, lane: Lane, var: Path) -> Endpoints:
        """Neither checked nor opened."""
        weights = [one.weight for one in lane.endpoints] or [1.0]
        doors = zip(lane.doors(), weights, strict=True)
        return cls(
            lane_name,
            tuple(Endpoint(identity(row), row, build(lane_name, row, var), weight) for row, weight in doors),
        )

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self.all)

    @property
    def first(self) -> Endpoint:
        """The one that batches go to."""
        return self.all[0]

    def check(self) -> None:
        """Raises EngineUnavailable for the first one that this node cannot serve."""
        for one in self.all:
            one.engine.check()

    def open(self) -> None:
        """Raises EngineUnavailable."""
        for one in self.all:
            one.engine.open()

    def choose(self, day: str) -> Endpoint | None:
        """Where the next call goes; None where all are shut just now."""
        if len(self.all) == 1:
            only = self.all[0]
            return None if _shut(only) else only
        at = choose([self._choice(one, day) for one in self.all], self.pick())
        return None if at is None else self.all[at]

    def price(self, one: Endpoint, day: str) -> Price | None:
        """A day's price is made once: it takes longer than pricing a call."""
        if one.price_day != day:
            one.price, one.price_day = price_of(self.lane_name, one.row, day), day
            if one.price is None:
                log.warning(
                    "lane %r: no price is known for model %r: its calls are booked as unpriced; set lanes.%s.price",
                    self.lane_name, one.row.model, self.lane_name,
                )  # fmt: skip
        return one.price

    def _choice(self, one: Endpoint, day: str) -> Choice:
        tokens_in, tokens_out = TYPICAL_TOKENS
        typical = cost_nano(self.price(one, day), Usage(tokens_in, output_tokens=tokens_out), busy_ms=1000)
        return Choice(typical, one.weight, one.failures, _shut(one))

    def opens_s(self) -> float:
        """Until the first of them takes a call again; 0 where one does."""
        return min((one.shut_s for one in self.all if not one.ailing), default=CROWDED_S)

    def shut(self, one: Endpoint, wait_s: float, *, broken: bool) -> None:
        """It takes no calls for so long, for its failures or for a limit: so Redis says."""
        with self._lock:
            one.broken = broken
            one.shut_until = max(
                one.shut_until, time.monotonic() + max(LEAST_WAIT_S, min(wait_s, ASK_AGAIN_S))
            )

    def heard(self, one: Endpoint, failures: int, shut_s: float, blocked_s: float) -> None:
        """How it stands after a call."""
        with self._lock:
            one.failures, one.broken = failures, shut_s > 0
            one.shut_until = time.monotonic() + max(shut_s, blocked_s)

    def dead(self) -> bool:
        """Whether none of them can answer: each is ailing, or shut for its failures."""
        return all(one.ailing or (one.broken and one.shut_s > 0) for one in self.all)


def _shut(one: Endpoint) -> bool:
    return one.ailing or one.shut_s > 0


def identity(row: Lane) -> str:
    """What the endpoint is counted under in Redis: by its engine, address, model and key. "" for one that has no
    address, key or limit."""
    if not (
        row.base_url
        or row.api_key_env
        or row.api_key_file
        or row.requests_per_minute
        or row.tokens_per_minute
    ):
        return ""
    words = f"{row.engine}|{row.base_url}|{row.model}|{secret(row)}"
    return hashlib.blake2b(words.encode(), digest_size=12).hexdigest()


def tokens_of(call: Call, input_bound: int) -> int:
    """About what a provider counts for the call when it lets it in: the input, and all that may come out."""
    return input_bound // BYTES_A_TOKEN + call.max_tokens


def told(one: Endpoint, result: Reply | EngineError, tokens: int) -> Heard:
    """What the end of a call says of its endpoint; ``tokens`` is what it was let in for."""
    answered: bool | None = True
    blocked_s = 0.0
    if isinstance(result, EngineError):
        answered = None if isinstance(result, NO_FAULT) else False
        if isinstance(result, RateLimited | EngineOverloaded):
            blocked_s = _wish_s(result)
    quota = result.quota or Quota()
    return Heard(
        one.id,
        answered,
        tokens=0 if (used := _used(result)) is None else used - tokens,
        blocked_s=max(blocked_s, _until_whole_s(quota)),
        rpm=quota.requests_limit or 0,
        tpm=quota.tokens_limit or 0,
    )


def _wish_s(error: TransientEngineError) -> float:
    return CROWDED_S if error.retry_after_s is None else error.retry_after_s


def _until_whole_s(quota: Quota) -> float:
    """A provider that has nothing left wants no calls until it says that it has."""
    waits = [
        reset_s
        for left, reset_s in (
            (quota.requests_left, quota.requests_reset_s),
            (quota.tokens_left, quota.tokens_reset_s),
        )
        if left == 0 and reset_s is not None
    ]
    return max(waits, default=0.0)


def _used(result: Reply | EngineError) -> int | None:
    """None: not known."""
    usage = result.usage
    if usage is None or (isinstance(result, Reply) and not result.usage_known):
        return None
    return sum(int(getattr(usage, one.name)) for one in fields(Usage))
