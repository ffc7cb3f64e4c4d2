"""The facts that lie in a fleet's stream."""

from __future__ import annotations

from typing import Any

import redis

from broker import keys
from broker.events import Event, decode_entry


def events_of(client: redis.Redis) -> list[Event]:
    """All of them, in their order, each in its place."""
    entries: Any = client.xrange(keys.EVENTS)
    return [event for _, row in entries for event in decode_entry(row[b"b"])]
