"""One process of a lane over a real Redis, worked by hand: a test says when tasks are dispatched and when worked on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import redis

from broker.events import Event
from broker.hands import Hands
from broker.settings import Settings, parse
from broker.state import Record
from broker.store import Store
from broker.task import DISPATCH, Task, lane_queue
from dispatcher.actor import Dispatcher
from dispatcher.classify import Classifier
from dispatcher.embedding import HashEmbedder
from tests.events import events_of
from tests.mock_provider import control, script
from workers.endpoints import Endpoints
from workers.jobs import Jobs
from workers.shell import Lane
from workers.toolbox import Toolbox


class Node:
    """``endpoints`` None: new ones, opened here."""

    def __init__(
        self,
        client: redis.Redis,
        folder: Path,
        toml: str,
        lane: str = "rented",
        endpoints: Endpoints | None = None,
    ) -> None:
        self.client, self.folder, self.toml, self.name = client, folder, toml, lane
        self.settings: Settings = parse(toml, folder=folder)
        self.store = Store(client, self.settings.fleet)
        self.store.limits.declare(self.settings.budgets)
        self.hands = Hands()
        if endpoints is None:
            endpoints = Endpoints.build(lane, self.settings.lanes[lane], folder)
            endpoints.open()
        self.endpoints = endpoints
        self.toolbox = Toolbox.open(self.settings, lane, self.store)
        self.jobs = Jobs(lane, self.settings, self.store, endpoints, self.hands, self.toolbox)
        self.lane = Lane(self.jobs)
        self.classifier = Classifier.build(self.settings, HashEmbedder())

    def give(self, *tasks: Task) -> None:
        """To the lane, through the dispatcher."""
        self.store.submit(tasks)
        self.dispatch()

    def dispatch(self) -> None:
        """What waits for the dispatcher now, once."""
        if claims := self.store.fetch(DISPATCH, 100, idle=True).claims:
            Dispatcher(self.settings, self.store, self.classifier).work(claims)

    def work(self, mode: str = "sync", want: int = 100) -> None:
        """So many of those that wait for the lane now, once, together."""
        queue = lane_queue(self.name, mode)
        claims = self.store.fetch(queue, want, idle=True).claims
        self.hands.take(claims, queue, messages=1, hold_s=60)
        self.lane.work(claims)
        self.hands.drop(claims, queue)
        assert not self.hands.to_renew()

    def record(self, task_id: str = "t") -> Record:
        return self.store.records.one(f"acme/{task_id}")

    def events(self) -> list[Event]:
        return events_of(self.client)

    def close(self) -> None:
        """The connections to its endpoints alone: a process that they lead to goes on."""
        for one in self.endpoints:
            one.engine.close()


class ScriptedNode(Node):
    """Its provider is llmock, at ``url`` (URL in ``toml``); ``anew`` is the next process, after its death."""

    def __init__(self, client: redis.Redis, folder: Path, toml: str, url: str) -> None:
        super().__init__(client, folder, toml.replace("URL", url))
        self.url = url

    def anew(self) -> Self:
        return type(self)(self.client, self.folder, self.toml, self.url)

    def scripted(self, *replies: dict[str, Any]) -> None:
        """What the provider answers from now on; what it was asked before is forgotten."""
        control(self.url, "POST", "reset")
        if replies:
            script(self.url, *replies)

    def submit(self, *replies: dict[str, Any], task_id: str = "t", **more: Any) -> None:
        self.scripted(*replies)
        self.give(Task(task_id, "acme", ({"role": "user", "content": "How long?"},), **more))

    def done(self, *replies: dict[str, Any], **more: Any) -> Record:
        self.submit(*replies, **more)
        self.work()
        return self.record()

    def asked(self) -> list[dict[str, Any]]:
        """The bodies of all requests to the provider, in order."""
        found = control(self.url, "GET", "requests")["requests"]
        return [one["body"] for one in sorted(found, key=lambda one: one["seq"])]


def calls(*wanted: tuple[str, Any]) -> dict[str, Any]:
    """A scripted reply that asks for tools: (name, arguments) of each."""
    named = [{"name": name, "arguments": arguments} for name, arguments in wanted]
    return {"type": "reply", "tool_calls": named}


def says(text: str) -> dict[str, Any]:
    """A scripted reply in words."""
    return {"type": "reply", "text": text}
