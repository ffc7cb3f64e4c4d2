from collections.abc import Iterator

import hypothesis
import pytest
import redis

from broker import embedded
from tests import s3_server
from tests.s3_server import S3Server

HEAVY = ("vllm", "spark")
#: Fleets and engines that want a processor for themselves: one after another, in one of the test processes.
BUSY = (
    "e2e",
    "soak",
    "test_engines.py",
    "test_mlx.py",
    "test_tools_first.py",
    "test_gguf_folder.py",
    "test_vllm_process.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What needs the real vLLM or Spark runs where it is asked for by its mark, as `make test-vllm` does, only."""
    unasked = [mark for mark in HEAVY if mark not in str(config.getoption("markexpr"))]
    heavy = [item for item in items if any(item.get_closest_marker(mark) for mark in unasked)]
    config.hook.pytest_deselected(items=heavy)
    items[:] = [item for item in items if item not in heavy]
    for item in items:
        group = "busy" if set(BUSY) & set(item.path.parts) else item.path.as_posix()
        item.add_marker(pytest.mark.xdist_group(group))


# How long an example takes hangs on what else the machine does, and is no fact about the code.
hypothesis.settings.register_profile(
    "laneway", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("laneway")


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


@pytest.fixture(scope="session")
def _seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server.running(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(_seaweed: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A real S3 server, and this process has its keys and nobody else's."""
    for name, value in _seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return _seaweed
