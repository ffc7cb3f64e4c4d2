import pytest
import redis

from broker.settings.fleet import Fleet
from broker.store import Store
from tests.broker.tasks import LEASE_S


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client, Fleet(lease_s=LEASE_S, max_starts=3))
