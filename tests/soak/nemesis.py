"""What goes wrong in a run: one seeded sequence of deeds, each written into the history with its times."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from tests.soak.history import History
from tests.soak.plan import LEASE_S
from tests.soak.processes import Fleet, RedisServer
from tests.soak.proxy import Proxy

#: The scripts whose replies are lost, each of which must bear being asked twice.
SCRIPTS = ("submit", "fetch", "keep", "cancel", "commit", "begin")
#: Longer than any client tries again by itself.
OUTAGE_S = (6.5, 8.5)


class Nemesis:
    """``run`` until told to stop. Every kind of deed comes once in each round, in an order of the seed's.

    ``only`` names the kinds to do, where not all are wanted.
    """

    def __init__(
        self,
        fleet: Fleet,
        server: RedisServer,
        proxy: Proxy,
        digests: Mapping[str, str],
        history: History,
        seed: int,
        only: Sequence[str] = (),
    ) -> None:
        self.fleet, self.server, self.proxy, self.history = fleet, server, proxy, history
        self.digests = digests
        self.pick = random.Random(seed)
        self.closing = threading.Event()
        self.deeds: dict[str, Callable[[], None]] = {
            "kill lane": self.kill_lane,
            "kill lane again": self.kill_lane,
            "kill head": self.kill_head,
            "stop lane": self.stop_lane,
            "stop lane again": self.stop_lane,
            "stop head": self.stop_head,
            "lose replies": self.lose_replies,
            "lose more replies": self.lose_replies,
            "reset connections": self.reset_connections,
            "cut network": self.cut_network,
            "stall redis": self.stall_redis,
            "sleep redis": self.sleep_redis,
            "kill redis": lambda: self.kill_redis(0.2, 3.0),
            "refuse begins": self.refuse_begins,
            "redis is away": lambda: self.kill_redis(*OUTAGE_S),
        }

        self.only = only or tuple(self.deeds)

    def run(self, pause_s: tuple[float, float]) -> None:
        while True:
            round_ = list(self.only)
            self.pick.shuffle(round_)
            for name in round_:
                if self.closing.wait(self.pick.uniform(*pause_s)):
                    return
                self.deeds[name]()

    def kill_lane(self) -> None:
        self._kill("rented", "frontier")

    def kill_head(self) -> None:
        self._kill("dispatcher", "accounting")

    def _kill(self, *kinds: str) -> None:
        name = self._one(kinds)
        self.history.add("kill", process=name)
        self.fleet.processes[name].signal(signal.SIGKILL)

    def stop_lane(self) -> None:
        self._stop("rented", "frontier")

    def stop_head(self) -> None:
        self._stop("dispatcher", "accounting")

    def _stop(self, *kinds: str) -> None:
        """For longer than a lease, so that another takes what it had in hand; meanwhile nothing else is done."""
        process = self.fleet.processes[self._one(kinds)]
        began = time.monotonic()
        process.signal(signal.SIGSTOP)
        self.closing.wait(self.pick.uniform(1.3, 2.2) * LEASE_S)
        process.signal(signal.SIGCONT)
        self.history.add("stop", process=process.name, since=began)

    def lose_replies(self) -> None:
        for name, most in (("commit", 8), ("begin", 3), (self.pick.choice(SCRIPTS), 3)):
            count = self.pick.randint(most // 2, most)
            self.history.add("lose", script=name, count=count)
            self.proxy.lose_replies(count, self.digests[name])
        self.closing.wait(2)
        self.proxy.forgive()

    def refuse_begins(self) -> None:
        """For a moment no intent can be recorded, and everything else can."""
        began = time.monotonic()
        self.proxy.refuse(self.digests["begin"])
        self.closing.wait(self.pick.uniform(1.0, 1.5) * LEASE_S)
        ended = time.monotonic()
        self.proxy.refuse("")
        self.history.add("down", how="no begins", since=began, until=ended)

    def reset_connections(self) -> None:
        self.history.add("reset")
        self.proxy.reset_all()

    def cut_network(self) -> None:
        began = time.monotonic()
        self.proxy.cut()
        self.closing.wait(self.pick.uniform(0.5, 1.6) * LEASE_S)
        ended = time.monotonic()
        self.proxy.mend()
        self.history.add("down", how="cut", since=began, until=ended)

    def stall_redis(self) -> None:
        began = time.monotonic()
        self.server.process.signal(signal.SIGSTOP)
        self.closing.wait(self.pick.uniform(0.3, 1.4) * LEASE_S)
        ended = time.monotonic()
        self.server.process.signal(signal.SIGCONT)
        self.history.add("down", how="stall", since=began, until=ended)

    def sleep_redis(self) -> None:
        """Redis's own thread is busy with something else, as with a slow script."""
        began = time.monotonic()
        seconds = self.pick.uniform(0.3, 1.0) * LEASE_S
        self.server.sleep(seconds)
        self.history.add("down", how="sleep", since=began, until=began + seconds)

    def kill_redis(self, least_s: float, most_s: float) -> None:
        began = time.monotonic()
        self.server.kill()
        self.closing.wait(self.pick.uniform(least_s, most_s))
        ended = time.monotonic()
        self.server.start()
        self.history.add("down", how="kill", since=began, until=ended)

    def _one(self, kinds: tuple[str, ...]) -> str:
        names = [name for name in self.fleet.processes if name.startswith(kinds)]
        return self.pick.choice(sorted(names))
