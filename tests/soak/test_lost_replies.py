"""A reply of Redis that is lost on its way: the question is asked again, and nothing is done twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.connect import connect
from broker.events import Attempted
from broker.keys import EVENTS
from broker.settings import Settings
from broker.state import Intent, Move
from broker.store import Store
from broker.task import DISPATCH, Outcome, Task
from tests.soak.processes import RedisServer
from tests.soak.proxy import Proxy

pytestmark = pytest.mark.e2e

COST = 5
SCOPES = ("fleet",)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    server = RedisServer(tmp_path)
    server.start()
    proxy = Proxy(server.port)
    proxy.start()
    yield proxy
    proxy.stop()
    server.client.close()
    server.kill()


def test_each_step_of_a_task_bears_a_lost_reply(proxy: Proxy) -> None:
    store = connect(Settings(redis_url=f"redis://127.0.0.1:{proxy.port}"))
    for script in store.scripts.known.values():
        store.client.script_load(script.script)
    lose(proxy, store, "submit")
    assert store.submit([Task("t", "acme", ({"role": "user", "content": "hello"},))]) == ["same"]
    (claim,) = store.fetch(DISPATCH, 1, idle=True).claims
    call = Attempted(claim.attempt_id, 0, "rented", "openai", "m", "task", 0, 0, 0.0, 0.0, COST)
    lose(proxy, store, "begin")
    assert store.begin([Intent(claim, 2 * COST, call, SCOPES)]) == ["go"]
    assert store.records.one(claim.ref).reserved_nano == 2 * COST
    lose(proxy, store, "commit")
    end = Move(
        claim, "succeeded", claim.progress, cost_nano=COST, outcome=Outcome("succeeded"), attempts=(call,),
        scopes=SCOPES,
    )  # fmt: skip
    assert store.commit([end]) == ["done before"]
    assert store.records.one(claim.ref).cost_nano == COST
    assert store.client.hgetall("laneway:used:total") == {b"fleet": b"5"}
    assert store.client.xlen(EVENTS) == 2  # one of the submission, one of its end
    assert sum(proxy.lost.values()) == 3
    store.client.close()


def lose(proxy: Proxy, store: Store, script: str) -> None:
    proxy.lose_replies(1, store.scripts.known[script].sha)
    while not proxy.armed:
        pass
