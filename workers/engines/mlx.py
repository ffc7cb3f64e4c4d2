"""MLX on this node: a model in a process of its own that all workers of the node share, in one continuous batch."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from broker.errors import EngineUnavailable
from broker.settings.lanes import Lane
from workers.engines.constrain import schema_where_required, told_tools, vllm_choice
from workers.engines.dialects import Dialect
from workers.engines.hold import HeldEngine, Hold
from workers.engines.launcher import Door, Wanted
from workers.engines.llamacpp import PACKAGED_MODEL, QUANTISATION, packaged_model

PACKAGES = {"mlx_lm": "mlx-lm", "llguidance": "llguidance"}
#: At least, and more than there are calls: lanes of one model share what the first one started.
SLOTS, SPARE_SLOTS = 8, 2
#: Making a folder of a large GGUF file takes minutes.
START_S = 900.0

DIALECT = Dialect(
    choices=vllm_choice, tools=schema_where_required, priority=lambda priority: {"priority": -priority}
)


class MlxEngine(HeldEngine):
    name = "mlx"

    def __init__(self, lane_name: str, lane: Lane, var: Path) -> None:
        self._lane_name = lane_name
        self._lane = lane
        self._models = var / "models"
        self.hold = Hold(lane_name, var, self._wanted, dialect=spoken)

    def check(self) -> None:
        for module, package in PACKAGES.items():
            self._needs(module, package)
        if self._model_path().is_file():
            self._needs("gguf", "gguf")

    def _needs(self, module: str, package: str) -> None:
        if find_spec(module) is None:
            raise EngineUnavailable(
                f"lane {self._lane_name!r} needs the package {package}", mend="pip install 'laneway[mlx]'"
            )

    def _wanted(self) -> Wanted:
        lane, path = self._lane, self._model_path().resolve()
        # Only on Linux, where MLX multiplies on the processor: all cores would leave none for what feeds the model.
        cpu_threads = lane.cpu_threads or max(1, (os.cpu_count() or 1) - 1)
        file = path.stat()
        versions = tuple(version(package) for package in PACKAGES.values())
        slots = max(SLOTS, lane.threads + SPARE_SLOTS)
        return Wanted(
            engine=self.name,
            module="workers.engines.mlx_process",
            model=QUANTISATION.sub("", path.stem) if path.is_file() else path.name,
            identity=(str(path), file.st_size, file.st_mtime_ns, lane.context_tokens, cpu_threads, versions),
            order={
                "model_path": str(path),
                "models": str(self._models.resolve()),
                "context_tokens": lane.context_tokens,
                "cpu_threads": cpu_threads,
                "slots": slots,
                "waiting": 2 * slots,
            },
            environment={"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
            start_s=START_S,
            answers=works,
        )

    def _model_path(self) -> Path:
        named = self._lane.model_path
        path = named or packaged_model()
        if path is not None and (path.is_file() or (path / "config.json").is_file()):
            return path
        what = (
            f"no model folder or GGUF file {named}"
            if named
            else f"no model: the package {PACKAGED_MODEL} is not installed"
        )
        raise EngineUnavailable(
            f"lane {self._lane_name!r}: {what}",
            mend=f"set lanes.{self._lane_name}.model_path to a folder that mlx-lm reads, or to a GGUF file",
        )


def works(door: Door, within_s: float) -> bool:
    """With a slot free that is a token; with none free, or calls on their way into one, a batch that turns."""
    status, stats = door.http("GET", "/stats", timeout_s=within_s)
    if status != 200:
        return False
    if stats["running"] >= stats["slots"] or stats["waiting"]:
        return bool(stats["turned_s_ago"] < within_s)
    return door.chats(within_s)


def spoken(door: Door) -> Dialect:
    """Tools are told in words where the model's chat template knows nothing of them."""
    status, stats = door.http("GET", "/stats")
    takes = status == 200 and stats["takes_tools"]
    return DIALECT if takes else replace(DIALECT, tools=told_tools)
