"""What engines and ledgers are tested on: places, a small model for mlx, the real vLLM that `make test-vllm` starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.settings.lanes import Lane
from tests.conformance import tiny_llama
from tests.conformance.places import Folder, Place, Prefix
from workers.engines.gguf_folder import convert
from workers.engines.launcher import Door, stop_all
from workers.engines.llamacpp import packaged_model
from workers.engines.vllm import VllmEngine

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty one."""
    if request.param == "local":
        return Folder(tmp_path / "ledger")
    return Prefix(request.getfixturevalue("s3"), f"{tmp_path.name}-{os.urandom(4).hex()}/day/book")


@pytest.fixture(scope="session")
def var(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("node")
    yield folder
    stop_all(folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.make(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def mlx_lane(tiny: Path) -> Callable[..., Lane]:
    """A lane over the small model; lanes of the same fields share a process."""

    def lane(**fields: Any) -> Lane:
        given = {"engine": "mlx", "model_path": tiny, "threads": 4, "context_tokens": 1024}
        return Lane.model_validate(given | fields)

    return lane


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """An interpreter that has vLLM."""
    python = Path(os.environ.get("VLLM_PYTHON") or ROOT / ".venv-vllm/bin/python")
    if not python.exists():
        pytest.skip("no vLLM: make vllm-venv, or VLLM_PYTHON=/path/to/a/python/that/has/it")
    return python


@pytest.fixture(scope="session")
def vllm_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model as a folder."""
    packed = packaged_model()
    assert packed is not None
    folder = tmp_path_factory.mktemp("models") / "smollm2"
    convert(packed, folder)
    return folder


@pytest.fixture(scope="session")
def vllm_lane(vllm_python: Path, vllm_model: Path) -> Callable[..., Lane]:
    """A lane with a vLLM of this node; lanes of the same fields share it."""

    def lane(*arguments: str, tool_parser: str = "hermes", **fields: Any) -> Lane:
        run = {"python": vllm_python, "arguments": arguments, "tool_parser": tool_parser}
        given = {
            "engine": "vllm",
            "model_path": vllm_model,
            "threads": 16,
            "context_tokens": 1024,
            "vllm": run,
        }
        return Lane.model_validate(given | fields)

    return lane


@pytest.fixture(scope="session")
def vllm_door(vllm_lane: Callable[..., Lane], var: Path) -> Iterator[Door]:
    """The vLLM of the session, which no test kills."""
    engine = VllmEngine("vllm", vllm_lane(), var)
    engine.open()
    assert engine.hold.door is not None
    yield engine.hold.door
    engine.close()
