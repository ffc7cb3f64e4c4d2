from collections.abc import Iterator

import pytest
import redis

from broker import embedded


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Embedded]:
    """One real server for the tests that do not kill it."""
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
