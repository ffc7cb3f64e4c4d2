"""The stream of facts, read from its newest entry back."""

from typing import Any

import redis

from broker import keys
from broker.stream import ENTRIES_AT_ONCE, newest_entries


def test_the_newest_entries_are_read_no_further_than_they_are_asked_for(client: redis.Redis) -> None:
    many = 2 * ENTRIES_AT_ONCE + 7
    places: list[Any] = [client.xadd(keys.EVENTS, {"b": b"%d" % number}) for number in range(many)]
    client.xadd(keys.EVENTS, {"c": b""})
    backwards = [b"%d" % number for number in reversed(range(many))]
    assert list(newest_entries(client, 1000)) == [None, *backwards]
    assert list(newest_entries(client, ENTRIES_AT_ONCE + 3)) == [None, *backwards[: ENTRIES_AT_ONCE + 2]]
    last, first = (places[number].decode() for number in (-3, 3))
    assert list(newest_entries(client, 1000, after=f"({first}", until=last)) == backwards[2:-4]
    client.config_resetstat()
    assert next(newest_entries(client, 1000)) is None
    stats: Any = client.info("commandstats")
    assert stats["cmdstat_xrevrange"]["calls"] == 1
