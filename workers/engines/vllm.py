"""vLLM: a server that this node starts and shares among its workers, or one that runs somewhere and is named.

Many threads calling at once are what fills its batch; which call goes first is its scheduler's choice, by priority.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from broker.call import Call, Reply
from broker.errors import EngineError, EngineOverloaded, EngineUnavailable
from broker.settings.lanes import Lane
from workers.engines import accelerated
from workers.engines.constrain import told_tools
from workers.engines.dialects import DIALECTS, Dialect
from workers.engines.hold import Hold
from workers.engines.launcher import Door, Wanted
from workers.engines.openai import OpenAIEngine
from workers.engines.vllm_command import kv_bytes

START_S = 900.0  # a large model is read for minutes
#: Calls at once that the server takes. Several workers and lanes share it, each with its own threads.
LEAST_IN_FLIGHT, IN_FLIGHT_PER_THREAD = 256, 8
LEAST_SEQUENCES = 16  # for how many whole contexts a CPU keeps room
FIRST = -(2**31)  # before any call
GREETING = {"role": "user", "content": "Hi"}


class VllmEngine:
    name = "vllm"

    def __init__(self, lane_name: str, lane: Lane, var: Path) -> None:
        self._lane_name = lane_name
        self._lane = lane
        self.dialect = spoken(lane)
        self.hold = Hold(lane_name, var, self._wanted, dialect=lambda door: self.dialect)
        self._server = OpenAIEngine(lane_name, lane, var, self.dialect) if lane.base_url else None

    def check(self) -> None:
        if self._server is not None:
            self._server.check()
        else:
            weights_of(self._lane_name, self._lane)
            python_of(self._lane_name, self._lane)

    def open(self) -> None:
        self.check()
        (self._server or self.hold).open()

    def call(self, call: Call, cancelled: Callable[[], bool]) -> Reply:
        return (self._server or self.hold).call(call, cancelled)

    def beats(self) -> int:
        return (self._server or self.hold).beats()

    def batches(self) -> None:
        """None: its server has no routes for them, and it batches what it is called for by itself."""

    def probe(self, within_s: float) -> None:
        if self._server is None:
            self.hold.probe(within_s)
        elif self._lane.price in (None, "free"):
            try:
                self._server.call(Call((GREETING,), max_tokens=1, timeout_s=within_s), lambda: False)
            except EngineOverloaded:
                pass  # it has more than enough to do
            except EngineError as error:
                why = f"lane {self._lane_name!r}: {self._lane.base_url} makes no token: {error.message}"
                raise EngineUnavailable(why, mend="look at that server's log") from error

    def close(self) -> None:
        (self._server or self.hold).close()

    def _wanted(self) -> Wanted:
        order = order_of(self._lane_name, self._lane)
        return Wanted(
            engine=self.name,
            module="workers.engines.vllm_process",
            model=order["model"],
            identity=(*(order[name] for name in IDENTITY), *_files(self._lane)),
            order=order,
            start_s=START_S,
            answers=works,
        )


IDENTITY = ("python", "weights", "model", "context_tokens", "cpu_threads", "tool_parser", "arguments")


def order_of(lane_name: str, lane: Lane) -> dict[str, Any]:
    """What ``vllm_command.py`` makes a command of. Raises EngineUnavailable where this node lacks something for it."""
    weights, config = weights_of(lane_name, lane), _config(lane)
    accelerator = accelerated()
    sequences = max(LEAST_SEQUENCES, lane.threads)
    return {
        "python": python_of(lane_name, lane),
        "model": lane.model or Path(weights).name,
        "weights": weights,
        "local": lane.model_path is not None,
        "revision": _precision(config),
        "context_tokens": lane.context_tokens,
        "accelerator": accelerator,
        "kv_bytes": None if accelerator else kv_bytes(config, lane.context_tokens * sequences),
        "cpu_threads": lane.cpu_threads,
        "in_flight": max(LEAST_IN_FLIGHT, lane.threads * IN_FLIGHT_PER_THREAD),
        "tool_parser": lane.vllm.tool_parser,
        "arguments": list(lane.vllm.arguments),
    }


def weights_of(lane_name: str, lane: Lane) -> str:
    """The model's folder, or the name under which vLLM finds it by itself. Raises EngineUnavailable."""
    if lane.model_path is None and lane.model:
        return lane.model
    if lane.model_path is not None and (lane.model_path / "config.json").is_file():
        return str(lane.model_path)
    what = (
        "no model is named"
        if lane.model_path is None
        else f"{lane.model_path} is no folder with a config.json"
    )
    mend = (
        f"set lanes.{lane_name}.model to a name, or model_path to a folder;"
        " laneway model convert makes one of a GGUF file"
    )
    raise EngineUnavailable(f"lane {lane_name!r}: {what}", mend=mend)


def python_of(lane_name: str, lane: Lane) -> str:
    """The interpreter that has vLLM. Raises EngineUnavailable."""
    python = lane.vllm.python
    if python is not None and os.access(python, os.X_OK):
        return str(python)
    if python is None and find_spec("vllm") is not None:
        return sys.executable
    what = "needs the package vllm" if python is None else f"has no Python at {python}"
    mend = f"pip install 'laneway[vllm]', or set lanes.{lane_name}.vllm.python to an interpreter that has it"
    raise EngineUnavailable(f"lane {lane_name!r} {what}", mend=mend)


def spoken(lane: Lane) -> Dialect:
    """vLLM's dialect, as far as its server was started for it: ours was, of another one the lane says so."""
    row = DIALECTS["vllm"]
    if not lane.vllm.tool_parser:
        row = replace(row, tools=told_tools)
    if lane.base_url is None or lane.vllm.priorities:
        row = replace(row, priority=lambda priority: {"priority": -priority})  # the lowest goes first
    return row


def works(door: Door, within_s: float) -> bool:
    """A token, ahead of whatever else it has to do; or its word that it has more to do than it takes."""
    body = {"model": door.model, "messages": [GREETING], "max_tokens": 1, "priority": FIRST}
    return door.http("POST", "/v1/chat/completions", body, within_s)[0] in (200, 503)


def _config(lane: Lane) -> dict[str, Any]:
    if lane.model_path is None:
        return {}
    config: dict[str, Any] = json.loads((lane.model_path / "config.json").read_text(encoding="utf-8"))
    return config


def _precision(config: dict[str, Any]) -> str:
    """The quantisation or the type of the weights' numbers, "" where it is not known."""
    quantisation = config.get("quantization_config") or {}
    return str(quantisation.get("quant_method") or config.get("dtype") or config.get("torch_dtype") or "")


def _files(lane: Lane) -> list[tuple[str, int, int]]:
    """What changes when other weights are put into the same folder."""
    if lane.model_path is None:
        return []
    files = ((path.name, path.stat()) for path in lane.model_path.iterdir())
    return sorted((name, file.st_size, file.st_mtime_ns) for name, file in files)
