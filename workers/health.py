"""Health is tokens: whether a node's engine makes any, and what follows when it does not.

An engine that answers its calls is well. One that is silent is asked for a token. One that owes it twice is ailing: the
node says so, takes nothing more, and breaks its calls off, whose tasks go to other nodes of the lane or along their
chain. Then it is opened again and asked again until a token comes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from broker.errors import EngineUnavailable, RedisUnavailable
from broker.hands import Hands
from workers.engines import Engine

log = logging.getLogger(__name__)
#: A dead or frozen engine is noticed within 1.5 + 2 * 2.5 s while calls wait for it, its tasks go on by then.
LOOK_EVERY_S = 0.5
SILENT_BUSY_S = 1.5
SILENT_IDLE_S = 5.0
PROBE_S = 2.5
STRIKES = 2


class Health:
    """Looks after the engine of one worker process, on a thread of its own that no call of a model can block.

    ``speak`` tells the fleet how this node is, by ``hands.paused``; it may raise RedisUnavailable.
    """

    def __init__(self, lane_name: str, engine: Engine, hands: Hands, speak: Callable[[], None]) -> None:
        self.lane_name, self.engine, self.hands, self.speak = lane_name, engine, hands, speak
        self._beats = engine.beats()
        self._heard_at = time.monotonic()
        self._strikes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        """One round."""
        if self.hands.paused:
            self._mend()
            return
        beats = self.engine.beats()
        if beats != self._beats:
            self._beats = beats
            self._well()
            return
        silent_s = time.monotonic() - self._heard_at
        if silent_s < (SILENT_BUSY_S if self.hands.messages() else SILENT_IDLE_S):
            return
        try:
            self.engine.probe(PROBE_S)
            self._well()
        except EngineUnavailable as error:
            self._strikes += 1
            if self._strikes >= STRIKES:
                self._ail(error)

    def _well(self) -> None:
        self._heard_at = time.monotonic()
        self._strikes = 0

    def _ail(self, error: EngineUnavailable) -> None:
        log.error("lane %r takes nothing more on this node: %s", self.lane_name, error)
        self.hands.pause()
        self._tell()
        self.hands.break_off_all()

    def _mend(self) -> None:
        try:
            self.engine.open()
            self.engine.probe(PROBE_S)
        except EngineUnavailable as error:
            log.warning("lane %r is still without an engine on this node: %s", self.lane_name, error.message)
            return
        log.warning("lane %r: the engine makes tokens again; this node goes on", self.lane_name)
        self._well()
        self.hands.go_on()
        self._tell()

    def _tell(self) -> None:
        try:
            self.speak()
        except RedisUnavailable as error:
            log.warning("the fleet learns it with the keeper's next round: %s", error)
