"""A TCP proxy before Redis that loses replies, resets connections and goes silent, one thread with its own loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable

CHUNK = 65536
RESET = struct.pack("ii", 1, 0)  # linger on, for no time: closing sends a reset


class _Link:
    """One client's connection. ``asked`` is what it sent since the last reply."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.asked = b""

    def reset(self) -> None:
        for writer in (self.client, self.server):
            raw = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()


class Proxy:
    """``start`` it, then let the nemesis at it. Every method may be called from any thread."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.lost: Counter[str] = Counter()
        self._drops: list[bytes] = []
        self._refused = b""
        self._links: set[_Link] = set()
        self._loop: asyncio.AbstractEventLoop
        self._open: asyncio.Event
        self._ended: asyncio.Event
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._ready = threading.Event()

    def start(self) -> None:
        self._thread.start()
        self._ready.wait(10)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._soon(self._ended.set)
            self._thread.join(5)

    def lose_replies(self, count: int, of: str) -> None:
        """The next replies to the script of this digest are swallowed and their connections reset."""
        self._soon(lambda: self._drops.extend([of.encode()] * count))

    def refuse(self, of: str) -> None:
        """Calls of the script of this digest do not reach Redis, and their connections are reset; "": no more."""
        self._soon(lambda: setattr(self, "_refused", of.encode()))

    @property
    def armed(self) -> bool:
        """Whether a reply is still to be lost."""
        return bool(self._drops)

    def forgive(self) -> None:
        """What was still to be lost is not."""
        self._soon(self._drops.clear)

    def reset_all(self) -> None:
        self._soon(self._reset_all)

    def _reset_all(self) -> None:
        for link in tuple(self._links):
            link.reset()

    def cut(self) -> None:
        """Nothing passes any more, in either direction, and nobody is told."""
        self._soon(self._open.clear)

    def mend(self) -> None:
        self._soon(self._open.set)

    def _soon(self, deed: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(deed)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            runner.run(self._main())

    async def _main(self) -> None:
        self._open, self._ended = asyncio.Event(), asyncio.Event()
        self._open.set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()
        self._reset_all()
        self._open.set()
        await asyncio.sleep(0.1)  # the links see that they are closed

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:  # Redis is down
            writer.transport.abort()
            return
        link = _Link(writer, up_writer)
        self._links.add(link)
        try:
            await asyncio.gather(self._asks(link, reader), self._replies(link, up_reader))
        except OSError:
            pass
        finally:
            self._links.discard(link)
            for one in (writer, up_writer):
                one.transport.abort()

    async def _asks(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while piece := await reader.read(CHUNK):
            await self._open.wait()
            link.asked += piece
            if self._refused and self._refused in link.asked:
                link.reset()
                return
            link.server.write(piece)
            await link.server.drain()
        link.server.close()

    async def _replies(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while piece := await reader.read(CHUNK):
            await self._open.wait()
            if self._drops and (digest := next((one for one in self._drops if one in link.asked), None)):
                self._drops.remove(digest)
                self.lost[digest.decode()] += 1
                link.reset()
                return
            link.asked = b""
            link.client.write(piece)
            await link.client.drain()
        link.client.close()
