from pathlib import Path

import pytest

from accounting.files.ledger import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "ledger")


@pytest.fixture
def quarantine(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "quarantine")
