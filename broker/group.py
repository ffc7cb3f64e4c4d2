"""Many threads' small calls as few large ones: who comes while a call is under way goes along with the next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Row = TypeVar("Row")
Answer = TypeVar("Answer")


class _Seat(Generic[Row, Answer]):
    """One caller's rows, and what came of them. Its lock is held until it is served or to lead."""

    __slots__ = ("answers", "error", "ready", "rows", "served")

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.answers: Sequence[Answer] = ()
        self.error: Exception | None = None
        self.served = False
        self.ready = threading.Lock()
        self.ready.acquire()


class Grouped(Generic[Row, Answer]):
    """``call`` answers each of its rows, in order.

    The first caller runs at once; those that come meanwhile wait, and the first of them takes all along. A lone caller
    pays nothing for it.
    """

    def __init__(self, call: Callable[[Sequence[Row]], Sequence[Answer]], *, limit: int = 500) -> None:
        self._call = call
        self._limit = limit
        self._guard = threading.Lock()
        self._waiting: list[_Seat[Row, Answer]] = []
        self._busy = False

    def __call__(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """The answers to ``rows``. Raises what ``call`` raised, to all who were in the same group."""
        seat: _Seat[Row, Answer] = _Seat(rows)
        with self._guard:
            if self._busy:
                self._waiting.append(seat)
                led = False
            else:
                self._busy = led = True
        if not led:
            seat.ready.acquire()
        if not seat.served:
            self._lead(seat)
        if seat.error is not None:
            raise seat.error
        return seat.answers

    def _lead(self, own: _Seat[Row, Answer]) -> None:
        with self._guard:
            group = [own, *self._take(len(own.rows))]
        try:
            self._serve(group)
        finally:
            with self._guard:
                following = self._waiting.pop(0) if self._waiting else None
                self._busy = following is not None
            for seat in group[1:]:
                seat.ready.release()
            if following is not None:
                following.ready.release()  # not served: it leads

    def _take(self, size: int) -> list[_Seat[Row, Answer]]:
        """Those who wait, as many as go along."""
        taken = 0
        for seat in self._waiting:
            size += len(seat.rows)
            if size > self._limit:
                break
            taken += 1
        group, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return group

    def _serve(self, group: Sequence[_Seat[Row, Answer]]) -> None:
        try:
            answers = self._call([row for seat in group for row in seat.rows])
        except Exception as error:  # noqa: BLE001  # each caller raises it in its own thread
            for seat in group:
                seat.error, seat.served = error, True
            return
        start = 0
        for seat in group:
            seat.answers, seat.served = answers[start : start + len(seat.rows)], True
            start += len(seat.rows)
