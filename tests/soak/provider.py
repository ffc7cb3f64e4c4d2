"""The provider: llmock as a process of its own, its journal kept on disk as it grows.

The journal is llmock's own account of what it was asked and how it answered; added to each of its records is only the
name that the caller gave to the request. ``arrivals`` has a line for each request before llmock has seen it.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import uvicorn
from llmock.chaos import ChaosSettings, StreamChaos
from llmock.journal import Journal, RequestRecord, Ticket
from llmock.main import create_app
from llmock.simulation import MockResponseSettings

from tests.soak.history import History

NAMED: ContextVar[str] = ContextVar("soak_request_id", default="")
REQUEST_ID = b"x-client-request-id"

Message = MutableMapping[str, Any]
App = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


class KeptJournal(Journal):
    """Each record goes to the file too: nothing is lost to the journal's bound."""

    def __init__(self, kept: History) -> None:
        super().__init__()
        self.kept = kept

    def add(self, record: RequestRecord, ticket: Ticket | None = None) -> None:
        super().add(record, ticket)
        self.kept.add("request", id=NAMED.get(), **record.to_dict())


def named(app: App, arrivals: History) -> App:
    async def front(
        scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            name = dict(scope["headers"]).get(REQUEST_ID, b"").decode()
            NAMED.set(name)
            arrivals.add("arrival", id=name)
        await app(scope, receive, send)

    return front


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--folder", type=Path, required=True)
    options.add_argument("--seed", type=int, default=0)
    told = options.parse_args()
    random.seed(told.seed)
    app = create_app(
        chaos=ChaosSettings(latency_ms=120, error_rates={429: 0.05, 500: 0.05, 503: 0.02}),
        responses=MockResponseSettings(response_style="varied", tool_mode="off"),
        stream_chaos=StreamChaos(
            fault_rates=(("disconnect", 0.05), ("truncate", 0.04), ("malformed", 0.04), ("stall", 0.01)),
            stall_seconds=20.0,
            chunk_delay_ms=15,
        ),
    )
    app.state.llmock.journal = KeptJournal(History(told.folder / "journal.jsonl"))
    front = named(app, History(told.folder / "arrivals.jsonl"))
    uvicorn.run(front, host="127.0.0.1", port=told.port, log_level="error", access_log=False)


if __name__ == "__main__":
    main()
