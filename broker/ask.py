"""Redis is asked, and its library's failures are told as ours."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import redis

from broker.errors import RedisFull, RedisUnavailable

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
ASK_AGAIN_S = 0.2
#: Of any number of names so many are asked of Redis at a time: it does nothing else meanwhile.
AT_ONCE = 1000
#: What a server says that can do the same work later: it was the master until a moment ago, has lost its master or its
#: replicas, cannot write to its disk, or is busy with a long script. The library has classes for some of that.
_NOT_NOW = (redis.exceptions.ReadOnlyError, redis.exceptions.MasterDownError)
_NOT_NOW_CODES = ("NOREPLICAS ", "MISCONF ", "BUSY ", "UNBLOCKED ")


def ask(question: Callable[[], Answer]) -> Answer:
    """The answer of Redis, its library's failures told as ours. Raises RedisFull or RedisUnavailable."""
    try:
        return question()
    except redis.exceptions.OutOfMemoryError as error:
        raise full() from error
    except (redis.ConnectionError, redis.TimeoutError, *_NOT_NOW) as error:
        raise RedisUnavailable(
            f"Redis does not answer: {error}", mend="see that it runs and is reachable"
        ) from error
    except redis.ResponseError as error:
        if "OOM" in str(error):
            raise full() from error
        if str(error).startswith(_NOT_NOW_CODES):
            raise RedisUnavailable(
                f"Redis does not do its work at present: {error}", mend="see what its log says"
            ) from error
        raise


def full() -> RedisFull:
    return RedisFull(
        "Redis is full; nothing was stored",
        mend="let the fleet drain its queues, or raise maxmemory, and submit again",
    )


def patiently(question: Callable[[], Answer]) -> Answer:
    """The answer of a Redis that is waited for however long it is away.

    For what must not be lost: what a call cost, and its answer. ``question`` may be asked more than once.
    """
    told = False
    while True:
        try:
            return question()
        except RedisUnavailable as error:
            if not told:
                log.warning("what is in hand waits for Redis: %s", error.message)
            told = True
            time.sleep(ASK_AGAIN_S)


def pages(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """``AT_ONCE`` of them at a time."""
    for start in range(0, len(names), AT_ONCE):
        yield names[start : start + AT_ONCE]
