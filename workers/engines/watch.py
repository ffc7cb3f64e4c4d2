"""A call that can be broken off at any moment, wherever on the network it waits.

The SDK blocks in a socket read until the next byte, which may be a minute away, and its time-outs bound one read, not
the call. So every read of its HTTP client goes through here in short slices, and between two of them the call's own
deadline and its ``cancelled`` are asked. Breaking off closes the connection, which is what tells a server to stop.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

import httpcore2
import httpx2

SLICE_S = 0.1


class Watch:
    """One call in flight: when it must end, and whether anybody still wants it."""

    def __init__(self, timeout_s: float, cancelled: Callable[[], bool]) -> None:
        self._until = time.monotonic() + timeout_s
        self._asked = cancelled
        self.cancelled = False

    def left_s(self) -> float:
        """Seconds left. Raises httpcore2.ReadTimeout where there are none, or the call is not wanted any more."""
        self.cancelled = self.cancelled or self._asked()
        left = self._until - time.monotonic()
        if self.cancelled or left <= 0:
            raise httpcore2.ReadTimeout(
                "the call is cancelled" if self.cancelled else "the call's time is over"
            )
        return left

    def bound_s(self, timeout: float | None) -> float:
        left = self.left_s()
        return left if timeout is None else min(timeout, left)


CURRENT: ContextVar[Watch] = ContextVar("laneway_call_watch")


class _WatchedStream(httpcore2.NetworkStream):
    def __init__(self, inner: httpcore2.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        watch = CURRENT.get()
        while True:
            try:
                return self._inner.read(max_bytes, min(SLICE_S, watch.left_s()))
            except httpcore2.ReadTimeout:
                watch.left_s()

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, CURRENT.get().bound_s(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        bound = CURRENT.get().bound_s(timeout)
        return _WatchedStream(self._inner.start_tls(ssl_context, server_hostname, bound))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _WatchedBackend(httpcore2.NetworkBackend):
    def __init__(self, inner: httpcore2.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        bound = CURRENT.get().bound_s(timeout)
        return _WatchedStream(self._inner.connect_tcp(host, port, bound, local_address, socket_options))


def watched(client: httpx2.Client) -> httpx2.Client:
    """The same client with every connection of it watched, through a proxy or not.

    httpx2 has no public way to give a client its network backend; the conformance suite's time-outs and cancelled calls
    are what notices when a new release keeps it elsewhere.
    """
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx2.HTTPTransport):
            pool = transport._pool
            pool._network_backend = _WatchedBackend(pool._network_backend)
    return client
