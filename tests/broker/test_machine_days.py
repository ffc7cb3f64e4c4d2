"""How long machines were on."""

import redis

from broker.settings.fleet import Fleet
from broker.store import Store
from tests.broker.tasks import LEASE_S


def test_a_clock_that_is_set_back_takes_nothing_from_the_time_that_a_machine_was_on(
    client: redis.Redis,
) -> None:
    store = Store(client, Fleet(lease_s=LEASE_S, node="n"))
    client.hset("laneway:machines", "n", str(store.clock.now_us() + 600_000_000))
    store.keep([], ["x"], node="n")
    assert store.machine_days.uptimes_us(store.limits.windows()["day"]) == {"n": 0}
