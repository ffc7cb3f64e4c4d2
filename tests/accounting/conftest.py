from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from accounting.ledger import LocalStore
from broker import embedded


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Embedded]:
    running = embedded.start(tmp_path_factory.mktemp("var"))
    yield running
    embedded.stop(running)


@pytest.fixture
def client(server: embedded.Embedded) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(server.url)
    client.flushall()
    yield client
    client.config_set("maxmemory", 0)
    client.flushall()
    client.close()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "ledger")


@pytest.fixture
def quarantine(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "quarantine")
