"""A lane's hold on an engine process of this node: attached once, called through its door, replaced when it died.

Every engine that lives in a process of its own composes one of these with what it wants served.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from broker.call import Call, Reply, Usage
from broker.errors import CallCancelled, EngineConnectionLost, EngineTimeout, EngineUnavailable
from workers.engines.dialects import Dialect
from workers.engines.launcher import Door, Served, Wanted, attach

if TYPE_CHECKING:
    from workers.engines.chat import ChatEndpoint

ASK_S = 0.1


def _told(door: Door) -> str:
    return door.revision


class Hold:
    """Shared by all threads of a worker. ``wanted`` says what is to be served, and raises EngineUnavailable where this
    node lacks something for it. ``dialect`` and ``revision`` say how a door is spoken to and which revision of the
    model it serves; by itself that is what the process told of it.
    """

    def __init__(
        self,
        lane_name: str,
        var: Path,
        wanted: Callable[[], Wanted],
        *,
        dialect: Callable[[Door], Dialect],
        revision: Callable[[Door], str] = _told,
    ) -> None:
        self._lane_name = lane_name
        self._folder = var / "engines"
        self._wanted = wanted
        self._dialect = dialect
        self._revision = revision
        self._opening = threading.Lock()
        self._served: Served | None = None
        self._chats: list[ChatEndpoint] = []
        self._doubted = False
        self._mends = threading.Lock()
        self._mending: Future[EngineUnavailable | None] | None = None

    @property
    def door(self) -> Door | None:
        """Where it is served; None while nothing is held."""
        return self._served.door if self._served is not None else None

    def open(self) -> None:
        """Find the process, or have it started or replaced. Raises EngineUnavailable."""
        with self._opening:
            served = attach(self._wanted(), self._folder)
            before, self._served, self._doubted = self._served, served, False
            if before is not None:
                os.close(before.users)
            if before is None or before.door != served.door:
                self._chats.append(self._connected(served.door))

    def call(self, call: Call, cancelled: Callable[[], bool]) -> Reply:
        """One answer of the process. Raises a leaf of EngineError."""
        if not self._chats:
            raise EngineUnavailable(f"lane {self._lane_name!r} is not open", mend="call open() first")
        if self._doubted:
            call = self._after_mending(call, cancelled)
        try:
            return self._chats[-1].call(call, cancelled)
        except (EngineConnectionLost, EngineTimeout):
            self._doubted = True  # dead or frozen, it may be: the next call looks, and has it started again
            raise

    def beats(self) -> int:
        return sum(chat.beats for chat in self._chats)

    def probe(self, within_s: float) -> None:
        wanted, door = self._wanted(), self.door
        if door is None or not wanted.answers(door, within_s):
            raise EngineUnavailable(
                f"lane {self._lane_name!r}: {wanted.engine} makes no token",
                mend="its log lies in the node's engines folder",
            )

    def close(self) -> None:
        """Let go of it. Calls in flight end; the process goes on for as long as another worker holds it."""
        with self._opening:
            while self._chats:  # those of dead processes stay until here, as calls may still be in them
                self._chats.pop().close()
            if self._served is not None:
                os.close(self._served.users)
                self._served = None

    def _after_mending(self, call: Call, cancelled: Callable[[], bool]) -> Call:
        """The call with the time that is left to it, once the process is sound again: a start may take minutes."""
        until = time.monotonic() + call.timeout_s
        mending = self._mend()
        while not mending.done():
            wait([mending], ASK_S)
            if cancelled():
                raise CallCancelled(f"lane {self._lane_name!r}: the call was cancelled", usage=Usage())
            if time.monotonic() > until:
                why = f"lane {self._lane_name!r}: no engine within {call.timeout_s:g} s"
                raise EngineTimeout(why, usage=Usage())
        if failed := mending.result():
            raise EngineUnavailable(failed.message, mend=failed.mend)
        return replace(call, timeout_s=max(ASK_S, until - time.monotonic()))

    def _mend(self) -> Future[EngineUnavailable | None]:
        """That it is opened again, once for all calls that wait; what stood against it, if anything."""
        with self._mends:
            if self._mending is None or self._mending.done():
                self._mending = Future()
                threading.Thread(
                    target=self._reopen, args=(self._mending,), name="laneway-mend", daemon=True
                ).start()
            return self._mending

    def _reopen(self, told: Future[EngineUnavailable | None]) -> None:
        try:
            self.open()
            told.set_result(None)
        except EngineUnavailable as error:
            told.set_result(error)

    def _connected(self, door: Door) -> ChatEndpoint:
        chat = import_module("workers.engines.chat")
        endpoint: ChatEndpoint = chat.ChatEndpoint(
            self._lane_name,
            door.base_url,
            door.key,
            door.model,
            revision=self._revision(door),
            dialect=self._dialect(door),
            through_proxy=False,
        )
        return endpoint


class HeldEngine:
    """An engine that is a process of this node: what it is called with goes by way of its ``hold``."""

    hold: Hold

    def check(self) -> None:
        """Raises EngineUnavailable with the mend where this node cannot run it."""
        raise NotImplementedError

    def open(self) -> None:
        self.check()
        self.hold.open()

    def call(self, call: Call, cancelled: Callable[[], bool]) -> Reply:
        return self.hold.call(call, cancelled)

    def beats(self) -> int:
        return self.hold.beats()

    def batches(self) -> None:
        """None: what it is called with at once already runs as one batch."""

    def probe(self, within_s: float) -> None:
        self.hold.probe(within_s)

    def close(self) -> None:
        self.hold.close()
