"""An MCP server as threads use it: connected to when it is first called, and again after it was lost.

A connection is held by one task, in an event loop with a thread of its own: it has to be left where it was entered.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CONNECTION_CLOSED, REQUEST_TIMEOUT

from broker.settings.secrets import from_environment
from broker.settings.tools import McpTool

log = logging.getLogger(__name__)
# It would print what cannot be read: a task's words.
logging.getLogger("mcp.client.stdio").setLevel(logging.CRITICAL)
LOOK_S = 2.0  # for a sign of life of a server that was too slow
CONNECT_S, READ_S = 10.0, 300.0  # of HTTP; a call has its own time-out
Answer = TypeVar("Answer")
Work = Callable[[Client], Awaitable[Answer]]


class ServerLost(Exception):
    """The connection ended while the call was under way, or none could be made."""


class Server:
    """Thread-safe. Nothing is started before the first call."""

    def __init__(self, name: str, row: McpTool) -> None:
        self._name, self._row = name, row
        self._loop = asyncio.new_event_loop()
        self._opening = asyncio.Lock()
        self._held: _Held | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"mcp-{name}", daemon=True)
        self._thread.start()

    def call(self, work: Work[Answer], timeout_s: float) -> Answer:
        """What ``work`` comes to with the connection. Raises ServerLost, TimeoutError, and MCPError by the server."""
        return asyncio.run_coroutine_threadsafe(self._call(work, timeout_s), self._loop).result()

    def close(self) -> None:
        """End the connection, and the server where it was started here."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _call(self, work: Work[Answer], timeout_s: float) -> Answer:
        held: _Held | None = None
        try:
            async with asyncio.timeout(timeout_s):
                held = await self._connected()
                return await work(held.client)
        except TimeoutError:
            if held is not None and not await _answers(held.client):
                self._lose(held, "does not answer any more")
            raise
        except MCPError as error:
            if error.code == REQUEST_TIMEOUT:
                raise TimeoutError from error
            if error.code != CONNECTION_CLOSED or held is None:
                raise
            self._lose(held, "ended")
            raise ServerLost(
                f"the server of {self._name!r} ended in the middle; whether the call took effect is not known"
            ) from error

    async def _connected(self) -> _Held:
        """The connection, anew where there is none or it has ended since."""
        async with self._opening:
            if self._held is not None and self._held.gone():
                self._lose(self._held, "has ended")
            if self._held is None:
                self._held = await self._opened()
            return self._held

    async def _opened(self) -> _Held:
        held = _Held()
        task = self._loop.create_task(held.hold(self._row))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        opened = self._loop.create_task(held.opened.wait())
        try:
            await asyncio.wait([task, opened], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            opened.cancel()
        if task.done():
            raise ServerLost(f"the server of {self._name!r} cannot be had: {_cause(task.exception())}")
        return held

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.info("the connection to the MCP server of %r ended: %s", self._name, _cause(error))

    def _lose(self, held: _Held, why: str) -> None:
        if self._held is held:
            log.warning("the MCP server of %r %s; the next call has it anew", self._name, why)
            self._held = None
        held.over.set()

    async def _leave(self) -> None:
        if self._held is not None:
            self._held.over.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Held:
    """One connection, from its beginning to its end."""

    def __init__(self) -> None:
        self.client: Client
        self.opened, self.over = asyncio.Event(), asyncio.Event()
        self._read: Any = None

    async def hold(self, row: McpTool) -> None:
        async with Client(self._noticed(row)) as self.client:
            self.opened.set()
            await self.over.wait()

    def gone(self) -> bool:
        """Whether a server that was started here has closed its end: known without asking it."""
        return self._read is not None and self._read.statistics().open_send_streams == 0

    @asynccontextmanager
    async def _noticed(self, row: McpTool) -> AsyncIterator[Any]:
        if row.url is not None:
            token = from_environment([row.token_env]).get(row.token_env) if row.token_env else None
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            timeout = httpx2.Timeout(CONNECT_S, read=READ_S)
            async with (
                httpx2.AsyncClient(headers=headers, timeout=timeout) as client,
                streamable_http_client(row.url, http_client=client) as streams,
            ):
                yield streams
        else:
            program, *arguments = row.command
            given = StdioServerParameters(
                command=program, args=arguments, env=from_environment(row.env), cwd=row.folder
            )
            async with stdio_client(given, errlog=sys.stderr) as streams:
                self._read = streams[0]
                yield streams


async def _answers(client: Client) -> bool:
    """Whether it is only that one call that was too slow."""
    try:
        async with asyncio.timeout(LOOK_S):
            await client.list_tools(cache_mode="bypass")
    except (MCPError, TimeoutError):
        return False
    return True


def _cause(error: BaseException | None) -> str:
    """The first of what went wrong at once."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
