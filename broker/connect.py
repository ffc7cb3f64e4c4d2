"""The way to the fleet's Redis, checked once when it is opened."""

from __future__ import annotations

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from broker.ask import ask
from broker.embedded import running
from broker.errors import ConfigError, RedisUnavailable
from broker.settings import Settings
from broker.store import Store

SOCKET_TIMEOUT_S = 10.0
#: A lost reply or a reset connection is no reason to throw away an answer that was paid for, and every script may be
#: asked twice. A client that is made from a URL asks only once by itself.
TRIES = 3


def connect(settings: Settings, *, check: bool = True) -> Store:
    """The store behind ``LANEWAY_REDIS_URL``, else behind the embedded server that a fleet started here.

    Raises RedisUnavailable where nothing answers, ConfigError where the server's settings would lose money.
    """
    url = settings.redis_url or _embedded_url(settings)
    try:
        client = redis.Redis.from_url(
            url,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=5.0,
            retry=Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.02), TRIES),
        )
    except ValueError as error:
        raise ConfigError(
            "LANEWAY_REDIS_URL is not a Redis URL",
            mend="write it as redis://host:6379/0 or unix:///path/to.sock",
        ) from error
    if check:
        _check(client)
    return Store(client, settings.fleet)


def _embedded_url(settings: Settings) -> str:
    embedded = running(settings.fleet.var)
    if embedded is None:
        raise RedisUnavailable(
            f"no LANEWAY_REDIS_URL is set and no fleet runs in {settings.fleet.var}",
            mend="start one with `laneway up`, or name your Redis in LANEWAY_REDIS_URL",
        )
    return embedded.url


def _check(client: redis.Redis) -> None:
    info = ask(lambda: client.info())
    version = str(info.get("valkey_version") or info.get("redis_version"))
    if int(version.split(".")[0]) < 7:
        raise ConfigError(f"Redis {version} is too old", mend="run Redis or Valkey 7.0 or newer")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise ConfigError(
            f"Redis may evict keys (maxmemory-policy {policy}), a budget or a task among them",
            mend="set `maxmemory-policy noeviction`",
        )
