"""Health is tokens: whether a node's engine makes any, and what follows when it does not.

An engine that answers its calls is well. One that is silent is asked for a token. One that gives none twice is ailing:
the node says so, takes nothing more, and breaks its calls off, whose tasks go to other nodes of the lane or along their
chain. Then it is opened again and asked again until a token comes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from broker.errors import EngineUnavailable, RedisUnavailable
from broker.hands import Hands
from workers.endpoints import Endpoint, Endpoints

log = logging.getLogger(__name__)
#: A dead or frozen engine is noticed within 1.5 + 2 * 2.5 s while calls wait for it, its tasks go on by then.
LOOK_EVERY_S = 0.5
SILENT_BUSY_S = 1.5
SILENT_IDLE_S = 5.0
PROBE_S = 2.5
STRIKES = 2


@dataclass(slots=True)
class _Pulse:
    """What was last heard of one endpoint's engine, on ``time.monotonic``."""

    beats: int
    heard_at: float
    strikes: int = 0


class Health:
    """Looks after the engines of one worker process, on a thread of its own that no call of a model can block.

    ``speak`` tells the fleet how this node is, by ``hands.paused``; it may raise RedisUnavailable.
    """

    def __init__(self, endpoints: Endpoints, hands: Hands, speak: Callable[[], None]) -> None:
        self.endpoints, self.hands, self.speak = endpoints, hands, speak
        self._pulses = {id(one): _Pulse(one.engine.beats(), time.monotonic()) for one in endpoints}
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
        for one in self.endpoints:
            pulse = self._pulses[id(one)]
            if one.ailing:
                self._mend(one, pulse)
            else:
                self._listen(one, pulse)
        dead = self.endpoints.dead()
        if dead and not self.hands.paused:
            log.error("lane %r takes nothing more on this node: nothing behind it answers", self._lane)
            self.hands.pause()
            self._tell()
        elif self.hands.paused and not dead:
            log.warning("lane %r goes on on this node", self._lane)
            self.hands.go_on()
            self._tell()
        for one in self.endpoints:  # only now, so that their tasks already see the lane as it is
            one.broken_off = one.ailing

    @property
    def _lane(self) -> str:
        return self.endpoints.lane_name

    def _listen(self, one: Endpoint, pulse: _Pulse) -> None:
        beats = one.engine.beats()
        if beats != pulse.beats:
            pulse.beats, pulse.heard_at, pulse.strikes = beats, time.monotonic(), 0
            return
        silent_s = time.monotonic() - pulse.heard_at
        if silent_s < (SILENT_BUSY_S if self.hands.messages() else SILENT_IDLE_S):
            return
        try:
            one.engine.probe(PROBE_S)
            pulse.heard_at, pulse.strikes = time.monotonic(), 0
        except EngineUnavailable as error:
            pulse.strikes += 1
            if pulse.strikes >= STRIKES:
                log.error("%s", error.message)
                one.ailing = True

    def _mend(self, one: Endpoint, pulse: _Pulse) -> None:
        try:
            one.engine.open()
            one.engine.probe(PROBE_S)
        except EngineUnavailable as error:
            log.warning("lane %r is still without an engine: %s", self._lane, error.message)
            return
        pulse.beats, pulse.heard_at, pulse.strikes = one.engine.beats(), time.monotonic(), 0
        one.ailing = False

    def _tell(self) -> None:
        try:
            self.speak()
        except RedisUnavailable as error:
            log.warning("the fleet learns it with the keeper's next round: %s", error)
