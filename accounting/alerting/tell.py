"""From the scripts' alerts to people: the log, a switch, a webhook, a command. Each is told at least once.

    laneway:alerts       list   what the scripts wrote
    laneway:alerts:due   zset   [channel, alert, whether its scope was switched off], by when to tell (microseconds)

An alert leaves the list in the same step that makes it due, and is due until its channel took it. One process of the
fleet at a time does either, under a lock that ends by itself.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import msgpack

from accounting.alerting.alerts import Deed, decode, deeds, document, next_try_us, words
from broker.keys import PREFIX
from broker.lock import Lock
from broker.settings.alerts import Alerts
from broker.settings.secrets import alert_token
from broker.store import Store

NEW = PREFIX + "alerts"
DUE = PREFIX + "alerts:due"
TAKING = PREFIX + "alerts:taking"
TELLING = PREFIX + "alerts:telling"
AT_ONCE = 100
WEBHOOK_S = 5.0
COMMAND_S = 10.0
ROUND_S = 20.0
TAKING_MS, TELLING_MS = 10_000, 60_000

log = logging.getLogger("laneway.alerts")

# A Redis that is full refuses none of these: it is then that people must hear of it, and that switches are pulled.
#: From what is new to what is due: ARGV = the alert, when, what its channels get.
_TAKEN = """#!lua flags=allow-oom
for at = 3, #ARGV do redis.call('ZADD', KEYS[2], 'NX', ARGV[2], ARGV[at]) end
redis.call('LREM', KEYS[1], 1, ARGV[1])
"""
_LATER = """#!lua flags=allow-oom
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
"""


class NotTold(Exception):
    """A channel did not take it; the message says why."""


Channel = Callable[[Mapping[str, Any]], None]


def take(store: Store, settings: Alerts) -> int:
    """Write what is new to the log, pull switches, make the rest due. Gives how many there were."""
    if not store.client.exists(NEW):
        return 0
    taken = 0
    with Lock(store.client, TAKING, TAKING_MS) as lock:
        while lock.mine and taken < AT_ONCE:
            item: Any = store.client.lindex(NEW, 0)
            if item is None:
                break
            done = _at_once(store, settings, item)
            members = [msgpack.packb([channel, item, "kill" in done]) for channel in done - {"kill"}]
            taken_now = store.client.register_script(_TAKEN)
            taken_now(keys=[NEW, DUE], args=[item, store.clock.now_us(), *members])
            taken += 1
    return taken


def _at_once(store: Store, settings: Alerts, item: bytes) -> set[Deed]:
    """The log and the switch, pulled where ``kill`` is among what is given; the rest are channels to be told."""
    try:
        alert = decode(item)
    except ValueError as error:
        log.error("an alert is dropped: %s", error)
        return set()
    log.warning("%s", words(alert))
    wanted = set(deeds(alert, settings, present=store.limits.windows().get(alert.period) == alert.window))
    if "kill" in wanted:
        store.limits.kill(alert.scope)
        log.warning("%s is switched off; `laneway budget unkill %s` switches it on", alert.scope, alert.scope)
    return wanted


def tell(store: Store, settings: Alerts, *, channels: Mapping[str, Channel] | None = None) -> int:
    """Tell what is due. A channel that fails is left alone for the rest of the round, the others go on."""
    if not store.client.zcount(DUE, "-inf", store.clock.now_us()):
        return 0
    ways = channels_of(settings) if channels is None else channels
    until = time.monotonic() + ROUND_S
    told = 0
    failed: set[str] = set()
    with Lock(store.client, TELLING, TELLING_MS) as lock:
        due: Any = store.client.zrange(DUE, "-inf", store.clock.now_us(), byscore=True, offset=0, num=AT_ONCE)
        for member in due if lock.mine else ():
            if time.monotonic() > until:
                break
            channel, item, killed = msgpack.unpackb(member)
            alert = decode(item)
            if channel in ways and channel not in failed:
                try:
                    ways[channel](document(alert, killed=killed))
                except NotTold as error:
                    failed.add(channel)
                    log.error("the %s was not told that %s: %s", channel, words(alert), error)
                else:
                    told += 1
            if channel in failed and (again := next_try_us(alert, store.clock.now_us())) is not None:
                store.client.register_script(_LATER)(keys=[DUE], args=[again, member])
            else:
                store.client.zrem(DUE, member)
    return told


def channels_of(settings: Alerts) -> dict[str, Channel]:
    """By name; one that the configuration no longer names is not there, and what was due for it is let go."""
    ways: dict[str, Channel] = {}
    if settings.webhook is not None:
        url, token = settings.webhook, alert_token(settings)
        ways["webhook"] = lambda news: post(url, token, news)
    if settings.command:
        ways["command"] = lambda news: run(settings.command, news)
    return ways


def post(url: str, token: str | None, news: Mapping[str, Any], *, timeout_s: float = WEBHOOK_S) -> None:
    """POST it as JSON. No redirect is followed, no body is read. Raises NotTold, which never names the address."""
    where = urlsplit(url)
    kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
    connection = kind(where.hostname or "", where.port, timeout=timeout_s)
    headers = {"Content-Type": "application/json", "User-Agent": "laneway"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    path = (where.path or "/") + (f"?{where.query}" if where.query else "")
    clock = threading.Timer(timeout_s, _cut, [connection])  # a server that dribbles would never time out
    clock.start()
    try:
        connection.request("POST", path, json.dumps(news), headers)
        status = connection.getresponse().status
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NotTold(f"no answer ({type(error).__name__})") from error
    finally:
        clock.cancel()
        connection.close()
    if not 200 <= status < 300:
        raise NotTold(f"it answered {status}")


def _cut(connection: http.client.HTTPConnection) -> None:
    if connection.sock is not None:
        with suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)


def run(command: tuple[str, ...], news: Mapping[str, Any], *, timeout_s: float = COMMAND_S) -> None:
    """Run it with the JSON on its standard input. Raises NotTold."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:
        raise NotTold(f"it cannot be started: {error.strerror}") from error
    try:
        process.communicate(json.dumps(news).encode(), timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise NotTold(f"it was not done within {timeout_s:g} s") from None
    if process.returncode:
        raise NotTold(f"it ended with {process.returncode}")
