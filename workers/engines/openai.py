"""Any OpenAI-compatible endpoint: OpenAI, vLLM, Together, DeepSeek, Gemini, … in the dialect that it speaks."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from broker.call import Call, Reply
from broker.settings.lanes import Lane
from workers.engines import cloud
from workers.engines.batches import BatchDoor
from workers.engines.dialects import DIALECTS, Dialect, spoken_at

if TYPE_CHECKING:
    from workers.engines.chat import ChatEndpoint

OPENAI_URL = "https://api.openai.com/v1"


class OpenAIEngine:
    name = "openai"

    def __init__(self, lane_name: str, lane: Lane, var: Path, dialect: Dialect | None = None) -> None:
        """``dialect`` None: the one that the lane names, or its address stands for."""
        self._lane_name = lane_name
        self._lane = lane
        self._dialect = dialect or DIALECTS[lane.dialect or spoken_at(lane.base_url or OPENAI_URL)]
        self._chat: ChatEndpoint | None = None

    def check(self) -> None:
        cloud.check(self._lane_name, self._lane, "openai")

    def open(self) -> None:
        if self._chat is None:
            self.check()
            lane, name = self._lane, self._lane_name
            base_url = lane.base_url or OPENAI_URL
            chat = import_module("workers.engines.chat")
            self._chat = chat.ChatEndpoint(
                name, base_url, cloud.api_key(name, lane), lane.model, dialect=self._dialect
            )

    def call(self, call: Call, cancelled: Callable[[], bool]) -> Reply:
        return cloud.opened(self._chat, self._lane_name).call(call, cancelled)

    def beats(self) -> int:
        return self._chat.beats if self._chat else 0

    def batches(self) -> BatchDoor | None:
        chat = cloud.opened(self._chat, self._lane_name)
        return chat.batches() if self._dialect.batches else None

    def probe(self, within_s: float) -> None:
        """Nothing: its tokens are billed."""

    def close(self) -> None:
        if self._chat is not None:
            self._chat.close()
            self._chat = None
