"""Functions of a server that speaks the Model Context Protocol, by the official SDK.

The configuration names the functions that may be used and those that do no harm; the server's word is taken for what
they are called with, as it was at the start, and for nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mcp import Client, MCPError
from mcp.types import CallToolResult, EmbeddedResource, ResourceLink, TextContent, TextResourceContents
from mcp.types import Tool as Offered

from broker.errors import ConfigError, ToolError, ToolUnavailable
from broker.settings.secrets import from_environment
from broker.settings.tools import McpTool
from dispatcher.schema import BadSchema, compiled
from workers.tools import Function
from workers.tools.mcp_server import Server, ServerLost

START_S = 30.0
DESCRIPTION_CHARS = 2_000
PAGES = 20  # of a server's list of functions
NAME_CHARS = 64  # of a function's name, by OpenAI's rules
_STRANGE = re.compile(r"[^a-zA-Z0-9_-]")


class Mcp:
    def __init__(self, name: str, row: McpTool) -> None:
        self._name, self._row = name, row
        if row.token_env and not from_environment([row.token_env]).get(row.token_env):
            raise ToolUnavailable(
                f"{row.token_env} is not set", mend="set this environment variable to the token"
            )
        self._server = Server(name, row)
        try:
            offered = self._server.call(_listed, START_S)
            self._functions = {_named(name, one): self._function(offered, one) for one in row.functions}
        except (ServerLost, MCPError, TimeoutError) as error:
            self._server.close()
            said = str(error) or f"it does not answer within {START_S:g} s"
            raise ToolUnavailable(
                f"the MCP server of {name!r} is not to be had: {said}",
                mend=f"see tools.{name} and the server's log",
            ) from error
        except ConfigError:
            self._server.close()
            raise
        self._theirs = {_named(name, one): one for one in row.functions}

    def functions(self) -> Sequence[Function]:
        return list(self._functions.values())

    def run(self, function: str, arguments: Mapping[str, Any]) -> str:
        theirs = self._theirs[function]
        try:
            result = self._called(theirs, arguments, again=self._functions[function].reads_only)
        except ServerLost as error:
            raise ToolError(str(error), failure="tool_lost") from error
        except TimeoutError as error:
            raise ToolError(f"it took more than {self._row.timeout_s:g} s", failure="tool_timeout") from error
        except MCPError as error:
            raise ToolError(error.message) from error
        text = _text(result)
        if result.is_error:
            raise ToolError(text or "it failed, and said nothing")
        return text or "It is done."

    def close(self) -> None:
        self._server.close()

    def _called(self, theirs: str, arguments: Mapping[str, Any], *, again: bool) -> CallToolResult:
        """``again``: where the server is lost, another one is asked at once."""

        async def call(client: Client) -> CallToolResult:
            return await client.call_tool(theirs, dict(arguments))

        try:
            return self._server.call(call, self._row.timeout_s)
        except ServerLost:
            if not again:
                raise
            return self._server.call(call, self._row.timeout_s)

    def _function(self, offered: Mapping[str, Offered], theirs: str) -> Function:
        """As the model is told of it. Raises ConfigError where the server has none, or none that can be checked."""
        if theirs not in offered:
            raise ConfigError(
                f"tools.{self._name}.functions: its server has no {theirs!r}",
                mend=f"name some of {', '.join(sorted(offered)) or 'what it has'}",
            )
        one = offered[theirs]
        try:
            compiled(one.input_schema)
        except BadSchema as error:
            raise ConfigError(
                f"tools.{self._name}.functions: the parameters of {theirs!r} cannot be checked: {error}",
                mend="take it out",
            ) from error
        described = f"{self._row.description} {one.description or theirs}".strip()
        reads_only = theirs in self._row.read_only
        return Function(
            _named(self._name, theirs), described[:DESCRIPTION_CHARS], one.input_schema, reads_only
        )


async def _listed(client: Client) -> Mapping[str, Offered]:
    offered: dict[str, Offered] = {}
    cursor: str | None = None
    for _ in range(PAGES):
        page = await client.list_tools(cursor=cursor)
        offered |= {one.name: one for one in page.tools}
        cursor = page.next_cursor
        if cursor is None:
            break
    return offered


def _named(tool: str, theirs: str) -> str:
    """Under the tool's own name, so that two servers may have functions of the same name."""
    return _STRANGE.sub("_", f"{tool}_{theirs}")[:NAME_CHARS]


def _text(result: CallToolResult) -> str:
    """What a model can read of it."""
    said = [_part(one) for one in result.content]
    if not said and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n".join(said)


def _part(content: object) -> str:
    match content:
        case TextContent(text=text):
            return text
        case EmbeddedResource(resource=TextResourceContents(text=text)):
            return text
        case ResourceLink(uri=uri):
            return str(uri)
    return f"({getattr(content, 'type', 'something')} that is not shown)"
