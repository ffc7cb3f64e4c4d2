"""Any OpenAI-compatible endpoint: OpenAI, vLLM, Together, DeepSeek, Gemini, … in the dialect that it speaks."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from broker.call import Call, Reply
from broker.errors import EngineUnavailable
from broker.settings import Lane, secret
from workers.engines.dialects import DIALECTS, spoken_at

if TYPE_CHECKING:
    from workers.engines.chat import ChatEndpoint

NO_KEY = "none"
OPENAI_URL = "https://api.openai.com/v1"


class OpenAIEngine:
    name = "openai"

    def __init__(self, lane_name: str, lane: Lane, var: Path) -> None:
        self._lane_name = lane_name
        self._lane = lane
        self._chat: ChatEndpoint | None = None

    def check(self) -> None:
        if find_spec("openai") is None:
            raise EngineUnavailable(
                f"lane {self._lane_name!r} needs the package openai", mend="pip install 'laneway[openai]'"
            )
        self._key()
        if not self._lane.model:
            raise EngineUnavailable(
                f"lane {self._lane_name!r} names no model", mend=f"set lanes.{self._lane_name}.model"
            )

    def _key(self) -> str:
        lane = self._lane
        if not lane.api_key_env and not lane.api_key_file:
            return NO_KEY
        key = secret(lane)
        if key:
            return key
        where = (
            f"the environment variable {lane.api_key_env}"
            if lane.api_key_env
            else f"the file {lane.api_key_file}"
        )
        raise EngineUnavailable(
            f"lane {self._lane_name!r} has no key: {where} is empty or not there",
            mend=f"put the provider's key into {where}, or take the lane out of the chains",
        )

    def open(self) -> None:
        if self._chat is None:
            self.check()
            chat = import_module("workers.engines.chat")
            lane = self._lane
            dialect = DIALECTS[lane.dialect or spoken_at(lane.base_url or OPENAI_URL)]
            self._chat = chat.ChatEndpoint(
                self._lane_name, lane.base_url or OPENAI_URL, self._key(), lane.model, dialect=dialect
            )

    def call(self, call: Call, cancelled: Callable[[], bool]) -> Reply:
        if self._chat is None:
            raise EngineUnavailable(f"lane {self._lane_name!r} is not open", mend="call open() first")
        return self._chat.call(call, cancelled)

    def beats(self) -> int:
        return self._chat.beats if self._chat else 0

    def probe(self, within_s: float) -> None:
        """Nothing: its tokens are billed."""

    def close(self) -> None:
        if self._chat is not None:
            self._chat.close()
            self._chat = None
