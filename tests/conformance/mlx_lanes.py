"""Lanes of the engine mlx over a model that the tests make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.settings import Lane
from tests.conformance import tiny_llama


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.make(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def mlx_lane(tiny: Path) -> Callable[..., Lane]:
    """Lanes of the same fields share a process."""

    def lane(**fields: Any) -> Lane:
        given = {"engine": "mlx", "model_path": tiny, "threads": 4, "context_tokens": 1024}
        return Lane.model_validate(given | fields)

    return lane
