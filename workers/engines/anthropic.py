"""Anthropic's own door, and servers that speak its protocol."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from broker.call import Call, Reply
from broker.settings.lanes import Lane
from workers.engines import cloud
from workers.engines.batches import BatchDoor

if TYPE_CHECKING:
    from workers.engines.messages import MessagesEndpoint

ANTHROPIC_URL = "https://api.anthropic.com"


class AnthropicEngine:
    name = "anthropic"

    def __init__(self, lane_name: str, lane: Lane, var: Path) -> None:
        self._lane_name = lane_name
        self._lane = lane
        self._messages: MessagesEndpoint | None = None

    def check(self) -> None:
        cloud.check(self._lane_name, self._lane, "anthropic")

    def open(self) -> None:
        if self._messages is None:
            self.check()
            lane, name = self._lane, self._lane_name
            # Its OpenAI-compatible door is one level deeper, and often what a lane had before.
            base_url = (lane.base_url or ANTHROPIC_URL).rstrip("/").removesuffix("/v1")
            messages = import_module("workers.engines.messages")
            self._messages = messages.MessagesEndpoint(
                name, base_url, cloud.api_key(name, lane), lane.model, cache=lane.cache, shots=len(lane.shots)
            )

    def call(self, call: Call, cancelled: Callable[[], bool]) -> Reply:
        return cloud.opened(self._messages, self._lane_name).call(call, cancelled)

    def beats(self) -> int:
        return self._messages.beats if self._messages else 0

    def batches(self) -> BatchDoor | None:
        return cloud.opened(self._messages, self._lane_name).batches()

    def probe(self, within_s: float) -> None:
        """Nothing: its tokens are billed."""

    def close(self) -> None:
        if self._messages is not None:
            self._messages.close()
            self._messages = None
