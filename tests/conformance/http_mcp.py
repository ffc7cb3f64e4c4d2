"""An MCP server of the SDK's own on HTTP, which asks for a token; its argument is the port."""

from __future__ import annotations

import socket
import sys

import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

server = MCPServer("doubler")


@server.tool()
def double(number: int) -> int:
    """Twice the number."""
    return number * 2


class Guarded(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        if request.headers.get("authorization") != "Bearer open sesame":
            return PlainTextResponse("who are you?", status_code=401)
        return await call_next(request)


app = server.streamable_http_app()
app.add_middleware(Guarded)
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listening:
    print("ready", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listening])
