"""Which node folds which span of a large day, as Redis knows it; what is folded lies in the ledger.

An offer lives as long as its coordinator renews it, and a span is in hand as long as its node does. Whoever asks gets
the span that was tried least, of those the one nearest to where it is, for neighbours lie in the same row groups; and
whoever comes anew begins far from the others. A span that several nodes took and did not bring to an end is left to
the coordinator, so that it cannot take one node after another along. Nothing rests on these leases but who works on
what: a span that two have in hand is folded twice into the same rows.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import AbstractContextManager
from typing import Any

import redis

from broker.ask import ask
from broker.keys import PREFIX
from broker.lock import kept

#: A sorted set: offer → the end of its coordinator's lease (microseconds).
OFFERS = PREFIX + "rollups"
TRIES = 2  # of nodes at a span, before it is the coordinator's alone
IN_HAND = -1  # in place of a span: all that are left are in hand
CLOSED = -2  # none is left, or the offer is gone
NOWHERE = -1  # where a node is that comes anew
KEPT_S = 3600  # what belongs to an offer, without a sign of life of its coordinator
_ALL = 1000  # more than a day has spans


def _timed(script: str) -> str:
    """KEYS: the offers; one offer's spans that are not done, each with the time from which it may be taken; how often
    each was taken; what was done. ARGV: offer, lease in microseconds, what is said, how long all is kept, what else."""
    return f"""#!lua flags=allow-oom
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
{script}"""


_MAKE = _timed("""
for span = 0, ARGV[3] - 1 do redis.call('ZADD', KEYS[2], 0, span) end
redis.call('EXPIRE', KEYS[2], ARGV[4])
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
""")
_THERE = _timed("""
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return redis.call('ZRANGE', KEYS[1], 0, -1)
""")
#: An offer whose lease ran out while its coordinator was alive comes back; one that was withdrawn does not.
_RENEW = _timed("""
if redis.call('EXISTS', KEYS[2]) == 0 then return end
for at = 2, 4 do redis.call('EXPIRE', KEYS[at], ARGV[4]) end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
""")
#: The span, or IN_HAND (-1) or CLOSED (-2).
_TAKE = _timed("""
if redis.call('EXISTS', KEYS[2]) == 0 then return -2 end
local at = tonumber(ARGV[5])
local others = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, '+inf')
local function rank(span)
  if at >= 0 then return -math.abs(span - at) end
  local nearest = math.huge
  for _, other in ipairs(others) do nearest = math.min(nearest, math.abs(span - other)) end
  return nearest
end
local least, taken = tonumber(ARGV[3]), -1
for _, span in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do
  local tries = tonumber(redis.call('HGET', KEYS[3], span) or 0)
  span = tonumber(span)
  if tries < least or (tries == least and taken >= 0 and rank(span) > rank(taken)) then least, taken = tries, span end
end
if taken >= 0 then
  redis.call('ZADD', KEYS[2], now + ARGV[2], taken)
  redis.call('HINCRBY', KEYS[3], taken, 1)
  redis.call('EXPIRE', KEYS[3], ARGV[4])
end
return taken
""")
_HOLD = _timed("""
redis.call('ZADD', KEYS[2], 'XX', now + ARGV[2], ARGV[3])
""")
_BACK = _timed("""
redis.call('ZADD', KEYS[2], 'XX', now, ARGV[3])
return redis.call('EXISTS', KEYS[2])
""")
_DONE = _timed("""
if redis.call('ZREM', KEYS[2], ARGV[3]) == 0 then return end
redis.call('RPUSH', KEYS[4], ARGV[3] .. ' ' .. ARGV[5])
redis.call('EXPIRE', KEYS[4], ARGV[4])
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('ZREM', KEYS[1], ARGV[1]) end
""")
_WITHDRAW = _timed("""
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
""")
_EVERY_TRY = 2**31  # more than there can be


class Offers:
    """The offers of a fleet, for one process of it. Each method raises RedisUnavailable.

    ``lease_s`` is how long an offer or a span is left to whoever gives no sign of life. ``node`` names this process;
    ``busy`` is held by the thread of it that folds: one span at a time is what a node has memory for.
    """

    def __init__(self, client: redis.Redis, lease_s: float) -> None:
        self.client, self.lease_s = client, lease_s
        self.node = f"{socket.gethostname()}:{os.getpid()}"
        self.busy = threading.Lock()

    def make(self, offer: str, spans: int) -> None:
        """From now on nodes may take the spans from 0 to below ``spans``."""
        self._call(_MAKE, offer, spans)

    def there(self) -> tuple[str, ...]:
        """The offers whose coordinators live."""
        return tuple(name.decode() for name in self._call(_THERE, ""))

    def take(self, offer: str, at: int = NOWHERE, *, as_coordinator: bool = False) -> int:
        """A span that is in hand here from now on, of those that may be taken the nearest to ``at``; IN_HAND or CLOSED
        where there is none."""
        return int(self._call(_TAKE, offer, _EVERY_TRY if as_coordinator else TRIES, at))

    def back(self, offer: str, span: int) -> bool:
        """Others may take the span at once. Whether the offer still stands."""
        return bool(self._call(_BACK, offer, span))

    def done(self, offer: str, span: int) -> None:
        """The rows of the span are where its coordinator finds them."""
        self._call(_DONE, offer, span, self.node)

    def heard(self, offer: str, wait_s: float = 0.0) -> list[tuple[int, str]]:
        """The spans that were done since this was last asked, each with its node; waits for one where none was."""
        key = _keys(offer)[3]
        said: Any = ask(lambda: self.client.lpop(key, _ALL)) or []
        if not said and wait_s:
            one: Any = ask(lambda: self.client.blpop([key], timeout=wait_s))
            said = [one[1]] if one else []
        pairs = [line.decode().split(" ", 1) for line in said]
        return [(int(span), node) for span, node in pairs]

    def withdraw(self, offer: str) -> None:
        self._call(_WITHDRAW, offer)

    def held(self, offer: str, span: int | None = None) -> AbstractContextManager[None]:
        """Keeps the span in hand until the end of the block; without a span, the offer."""
        source, said = (_RENEW, "") if span is None else (_HOLD, span)
        return kept(lambda: self._call(source, offer, said), self.lease_s / 3)

    def _call(self, source: str, offer: str, said: str | int = "", more: str | int = "") -> Any:
        script = self.client.register_script(source)
        lease_us = round(self.lease_s * 1e6)
        return ask(lambda: script(keys=_keys(offer), args=[offer, lease_us, said, KEPT_S, more]))


def _keys(offer: str) -> list[str]:
    own = f"{PREFIX}rollup:{offer}"
    return [OFFERS, own, f"{own}:tries", f"{own}:done"]
