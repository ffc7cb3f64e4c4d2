"""Rights that one process of the fleet has at a time, kept in Redis, and the threads that keep what runs out.

Nothing rests on a lock alone: a process that slept for longer than it lasts has lost it without knowing. What must not
be done twice asks for it in the same step (``token``), or may be done twice.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

import redis

from broker.ask import ask
from broker.errors import RedisUnavailable

log = logging.getLogger("laneway.lock")

# A Redis that is full refuses none of these: what they guard is what empties it, and tells of it.
# Where Redis's clock was set back, the lock of a dead process would last as much longer: it is cut to its usual time.
_TAKE = """#!lua flags=allow-oom
if redis.call('PTTL', KEYS[1]) > tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0
"""
_RENEW = """#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""


class Lock:
    """``with`` takes it where nobody has it (``mine``), and gives it back. It runs out ``ms`` after it was last
    renewed, so that none is held for ever. Raises RedisUnavailable."""

    def __init__(self, client: redis.Redis, key: str, ms: int) -> None:
        self.client, self.key, self.ms = client, key, ms
        self.token = os.urandom(12).hex()
        self.mine = False
        self._lost = False

    def __enter__(self) -> Self:
        self.mine = self._run(_TAKE, self.ms)
        return self

    def __exit__(self, *_: object) -> None:
        if self.mine:
            with suppress(RedisUnavailable):  # then it runs out by itself
                self._run(_RENEW, 0)

    def held(self) -> bool:
        """Renews it. False: it ran out, and another process may be at work."""
        if not self._lost and not self._run(_RENEW, self.ms):
            self._lost = True
        return not self._lost

    def _run(self, source: str, ms: int) -> bool:
        script = self.client.register_script(source)
        return bool(ask(lambda: script(keys=[self.key], args=[self.token, ms])))


@contextmanager
def kept(renew: Callable[[], object], every_s: float) -> Iterator[None]:
    """Has a thread call ``renew`` until the end of the block. A Redis that is away is asked again the next time."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(every_s):
            try:
                renew()
            except RedisUnavailable as error:
                log.warning("a lease is not renewed just now: %s", error.message)

    thread = threading.Thread(target=keep, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
