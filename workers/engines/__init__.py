"""The engine seam: what a lane needs of the thing that runs its model.

An engine is one module with one class and one line in ``ENGINES``. ``tests/conformance/test_engines.py`` runs over that
table.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from broker.call import Call, Reply
from broker.settings.lanes import Lane
from workers.engines.batches import BatchDoor


class Engine(Protocol):
    """One lane's way to its model, shared by all threads of a worker process.

    Made with ``(lane_name, lane, var)``; ``var`` is the node's folder for state and logs. ``name`` is the engine's own
    name in ``ENGINES``, never ``auto``.
    """

    name: str

    def check(self) -> None:
        """Raise EngineUnavailable where this node lacks something that the engine needs (package, model file, key).

        Cheap enough for import time: no network, nothing started.
        """

    def open(self) -> None:
        """Be ready to serve: start or connect. May be called again at any time, which mends a dead engine.

        Raises EngineUnavailable.
        """

    def call(self, call: Call, cancelled: Callable[[], bool]) -> Reply:
        """One answer. Raises a leaf of EngineError and nothing else.

        ``cancelled`` is asked several times a second while the call waits; once it says True the call is broken off
        and raises CallCancelled.
        """

    def beats(self) -> int:
        """Grows with every piece of an answer that comes in: a sign that the engine makes tokens."""

    def batches(self) -> BatchDoor | None:
        """The provider's batches; None where it has none. Raises EngineUnavailable before ``open``."""

    def probe(self, within_s: float) -> None:
        """Raise EngineUnavailable unless the engine makes a token within that time: an open port is no health.

        Does nothing for an engine whose tokens somebody bills.
        """

    def close(self) -> None:
        """Let go of connections and threads. Calls in flight end; an engine process that others share goes on."""


ENGINES: dict[str, str] = {
    "anthropic": "workers.engines.anthropic:AnthropicEngine",
    "echo": "workers.engines.echo:EchoEngine",
    "llamacpp": "workers.engines.llamacpp:LlamaCppEngine",
    "mlx": "workers.engines.mlx:MlxEngine",
    "openai": "workers.engines.openai:OpenAIEngine",
    "vllm": "workers.engines.vllm:VllmEngine",
}


def resolve(lane: Lane) -> str:
    """The engine that a lane has on this node. ``auto`` is vllm where one serves, mlx on Apple silicon that has it, and
    llamacpp elsewhere.
    """
    if lane.engine != "auto":
        return lane.engine
    if _vllm_serves(lane):
        return "vllm"
    apple = (sys.platform, platform.machine()) == ("darwin", "arm64")
    return "mlx" if apple and find_spec("mlx_lm") is not None else "llamacpp"


def _vllm_serves(lane: Lane) -> bool:
    """Somebody's server is named, or this node has vLLM, what it is made for, and a model that it reads."""
    if lane.base_url is not None:
        return True
    installed = lane.vllm.python is not None or find_spec("vllm") is not None
    readable = lane.model_path.is_dir() if lane.model_path is not None else bool(lane.model)
    return installed and readable and accelerated()


def accelerated() -> bool:
    """Whether this node has a GPU for CUDA or ROCm, by the devices that their drivers make."""
    return Path("/dev/nvidia0").exists() or Path("/dev/kfd").exists()


def build(lane_name: str, lane: Lane, var: Path) -> Engine:
    """The engine of a lane, neither checked nor opened. Imports that engine's module only."""
    module, _, class_name = ENGINES[resolve(lane)].partition(":")
    engine: Engine = getattr(import_module(module), class_name)(lane_name, lane, var)
    return engine
