"""What an alert says and does: tables of cases, and a real Redis, a real web server, real commands for the deeds."""

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
import redis

from accounting.alerting import tell
from accounting.alerting.alerts import Alert, decode, deeds, encode, next_try_us, words
from broker.settings.alerts import Alerts
from broker.settings.fleet import Fleet
from broker.store import Store

S = 1_000_000
ALL = Alerts(webhook="https://example.org/hook", command=("/bin/true",), kill_switch=True)


def alert(level: int = 80, period: str = "day", scope: str = "workspace:acme", at_us: int = 5 * S) -> Alert:
    return Alert(at_us, scope, period, "2026-01-31" if period == "day" else "", level, 810, 1000)


@pytest.mark.parametrize(
    ("one", "present", "done"),
    [
        (alert(50), True, ()),
        (alert(79), True, ()),
        (alert(80), True, ("webhook", "command")),
        (alert(99), True, ("webhook", "command")),
        (alert(100), True, ("kill", "webhook", "command")),
        (alert(100), False, ("webhook", "command")),
        (alert(100, "soft", "task:acme/t"), True, ()),
        (alert(100, "closed"), True, ("webhook", "command")),
        (alert(100, "p95", "type:x"), True, ("webhook", "command")),
        (alert(100, "rising", "type:x"), True, ("webhook", "command")),
    ],
    ids=str,
)
def test_half_is_for_the_log_four_fifths_for_operations_and_all_for_the_switch(
    one: Alert, present: bool, done: tuple[str, ...]
) -> None:
    assert deeds(one, ALL, present=present) == done
    assert deeds(one, Alerts(), present=present) == ()


def test_an_alert_says_what_it_is_in_one_line() -> None:
    assert words(alert()) == "workspace:acme per day (2026-01-31) is 80% spent: $0.00000081 of $0.000001"
    assert "is used up" in words(alert(100))
    assert words(alert(100, "soft", "task:acme/t")).startswith("task:acme/t passed its soft limit: $")
    assert "unkill workspace:acme` opens it" in words(alert(100, "closed"))
    for period in ("p95", "rising"):
        assert "for five minutes" in words(alert(100, period))


def test_an_alert_comes_back_as_it_was_and_other_bytes_are_told_so() -> None:
    assert decode(encode(alert())) == alert()
    assert (
        decode(msgpack.packb([1, 5.0 * S, b"workspace:acme".decode(), "day", "2026-01-31", 80, 810, 1000]))
        == alert()
    )
    for data in (b"", b"\xc1", msgpack.packb([1, 2]), msgpack.packb([1, "x", "", "", "", "", "", ""])):
        with pytest.raises(ValueError, match="no alert"):
            decode(data)


def test_who_cannot_be_told_is_tried_ever_more_rarely_and_for_a_day() -> None:
    ages = (0, 5, 20, 3600, 24 * 3600, 24 * 3600 + 1)
    waits = [next_try_us(alert(at_us=0), age * S) for age in ages]
    assert [None if at is None else at / S - age for at, age in zip(waits, ages, strict=True)] == [
        5, 5, 20, 300, 300, None,
    ]  # fmt: skip


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client, Fleet())


def push(store: Store, *alerts: Alert) -> None:
    for one in alerts:
        store.client.rpush(tell.NEW, encode(one))


def today(store: Store, level: int, scope: str = "workspace:acme") -> Alert:
    return Alert(store.clock.now_us(), scope, "day", store.limits.windows()["day"], level, 810, 1000)


def test_what_is_new_goes_to_the_log_and_a_used_up_budget_is_switched_off(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    push(store, today(store, 50), today(store, 100), Alert(1, "fleet", "day", "2020-01-01", 100, 5, 5))
    store.client.rpush(tell.NEW, b"\xc1")
    with caplog.at_level(logging.WARNING):
        assert tell.take(store, Alerts(kill_switch=True)) == 4
    assert store.limits.killed() == ["workspace:acme"]  # the other one's day is long over
    assert "50% spent" in caplog.text
    assert "laneway budget unkill workspace:acme" in caplog.text
    assert "an alert is dropped" in caplog.text
    assert tell.take(store, Alerts(kill_switch=True)) == 0


def test_each_channel_is_told_once_and_one_that_fails_holds_up_no_other(store: Store) -> None:
    told: list[Any] = []

    def broken(news: Any) -> None:
        raise tell.NotTold("it is away")

    push(store, today(store, 80), today(store, 100))
    tell.take(store, ALL)
    assert tell.tell(store, ALL, channels={"webhook": broken, "command": told.append}) == 2
    assert {(news["level"], news["switched_off"]) for news in told} == {(80, False), (100, True)}
    due: Any = store.client.zrange(tell.DUE, 0, -1, withscores=True)
    assert [msgpack.unpackb(member)[0] for member, _ in due] == ["webhook", "webhook"]
    assert all(at > store.clock.now_us() + 2 * S for _, at in due)
    assert tell.tell(store, ALL, channels={"webhook": told.append}) == 0
    for member, _ in due:
        store.client.zadd(tell.DUE, {member: 0})
    assert tell.tell(store, ALL, channels={"webhook": told.append}) == 2
    assert store.client.zcard(tell.DUE) == 0


def test_a_full_redis_keeps_nobody_from_being_told(store: Store) -> None:
    told: list[Any] = []
    push(store, today(store, 100))
    store.client.config_set("maxmemory", 1)
    assert tell.take(store, ALL) == 1
    assert store.limits.killed() == ["workspace:acme"]
    assert tell.tell(store, ALL, channels={"webhook": told.append, "command": told.append}) == 2
    assert len(told) == 2


def test_a_process_that_dies_while_it_tells_leaves_the_news_for_another(store: Store) -> None:
    class Killed(BaseException):
        pass

    def dies(news: Any) -> None:
        raise Killed

    push(store, today(store, 80))
    tell.take(store, ALL)
    with pytest.raises(Killed):
        tell.tell(store, ALL, channels={"webhook": dies, "command": dies})
    told: list[Any] = []
    assert tell.tell(store, ALL, channels={"webhook": told.append, "command": told.append}) == 2


def test_a_second_process_waits_its_turn(store: Store) -> None:
    push(store, today(store, 80))
    store.client.set(tell.TAKING, "another", px=60_000)
    assert tell.take(store, ALL) == 0
    store.client.delete(tell.TAKING)
    assert tell.take(store, ALL) == 1
    store.client.set(tell.TELLING, "another", px=60_000)
    assert tell.tell(store, ALL, channels={}) == 0
    assert store.client.zcard(tell.DUE) == 2


def test_a_channel_that_is_no_longer_named_is_told_nothing_and_forgotten(store: Store) -> None:
    push(store, today(store, 80))
    tell.take(store, ALL)
    assert tell.tell(store, Alerts()) == 0
    assert store.client.zcard(tell.DUE) == 0


class Hook(BaseHTTPRequestHandler):
    asked: list[tuple[str, str | None, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, self.headers["Authorization"], json.loads(body)))
        if self.path == "/slow":
            for _ in range(100):
                time.sleep(0.05)
                self.wfile.write(b"H")  # never a whole line
                self.wfile.flush()
            return
        self.send_response({"/gone": 302, "/broken": 500}.get(self.path, 204))
        self.send_header("Location", "/redirected")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[tuple[str, list[tuple[str, str | None, Any]]]]:
    class Own(Hook):
        asked: list[tuple[str, str | None, Any]] = []  # noqa: RUF012 - one list a server is what is wanted

        def handle(self) -> None:
            with suppress(OSError):  # its client has gone
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Own.asked
    server.shutdown()
    server.server_close()


def test_a_webhook_gets_the_news_and_the_secret_and_no_redirect_is_followed(
    hook: Any, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url, asked = hook
    monkeypatch.setenv("LANEWAY_TEST_HOOK", "the-secret")
    settings = Alerts(webhook=f"{url}/hook?a=1", webhook_token_env="LANEWAY_TEST_HOOK")
    push(store, today(store, 80))
    tell.take(store, settings)
    assert tell.tell(store, settings) == 1
    ((path, secret, news),) = asked
    assert (path, secret, news["level"], news["used_usd"]) == (
        "/hook?a=1",
        "Bearer the-secret",
        80,
        "0.00000081",
    )
    push(store, today(store, 100))
    settings = Alerts(webhook=f"{url}/gone", webhook_token_env="LANEWAY_TEST_HOOK")
    tell.take(store, settings)
    assert tell.tell(store, settings) == 0
    assert [path for path, _, _ in asked] == ["/hook?a=1", "/gone"]
    assert "it answered 302" in caplog.text
    assert "the-secret" not in caplog.text
    assert url not in caplog.text


def test_a_webhook_that_dribbles_is_given_up_in_time(hook: Any) -> None:
    url, _ = hook
    began = time.monotonic()
    with pytest.raises(tell.NotTold, match="no answer"):
        tell.post(f"{url}/slow", None, {}, timeout_s=0.4)
    assert time.monotonic() - began < 3
    with pytest.raises(tell.NotTold, match="no answer"):
        tell.post("http://127.0.0.1:1/", None, {})
    with pytest.raises(tell.NotTold, match="ValueError"):
        tell.post(f"{url}/hook", "two\nlines", {})
    with pytest.raises(tell.NotTold, match="500"):
        tell.post(f"{url}/broken", None, {})


def test_a_command_gets_the_news_on_its_standard_input(tmp_path: Path) -> None:
    keep = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"
    tell.run((sys.executable, "-c", keep, str(tmp_path / "news")), {"level": 80})
    assert json.loads((tmp_path / "news").read_text()) == {"level": 80}


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("/nowhere/at/all",), "cannot be started"),
        (("/bin/sh", "-c", "exit 3"), "ended with 3"),
        (("/bin/sh", "-c", "sleep 60 & sleep 60"), "not done within 0.3 s"),
    ],
)
def test_a_command_that_fails_is_told_so_and_never_outlives_its_time(
    command: tuple[str, ...], told: str
) -> None:
    began = time.monotonic()
    with pytest.raises(tell.NotTold, match=told):
        tell.run(command, {}, timeout_s=0.3)
    assert time.monotonic() - began < 5


def test_a_round_ends_in_time_and_the_next_one_tells_the_rest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes eleven seconds of the twenty."""
    clock, told = [0.0], []

    def slow(news: Any) -> None:
        told.append(news["level"])
        clock[0] += 11

    monkeypatch.setattr(tell, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    push(store, today(store, 80), today(store, 100), Alert(5 * S, "type:x", "rising", "", 100, 9, 5))
    tell.take(store, Alerts(command=("/bin/true",)))
    assert tell.tell(store, ALL, channels={"command": slow}) == 2
    assert store.client.zcard(tell.DUE) == 1
    assert tell.tell(store, ALL, channels={"command": slow}) == 1
    assert sorted(told) == [80, 100, 100]
    assert store.client.zcard(tell.DUE) == 0


def test_the_same_news_has_one_id_whenever_it_is_told_and_other_news_another() -> None:
    assert alert(at_us=6 * S).id == alert(at_us=5 * S).id
    trend = alert(100, "rising", "type:x")
    others = [
        alert(), alert(100), alert(scope="fleet"), replace(alert(), window="2026-02-01"),
        replace(alert(), period="month"), replace(alert(), limit_nano=1001), trend, replace(trend, at_us=6 * S),
    ]  # fmt: skip
    assert len({one.id for one in others}) == len(others)


def test_a_channel_that_fails_is_asked_once_a_round(store: Store) -> None:
    asked: list[Any] = []

    def broken(news: Any) -> None:
        asked.append(news)
        raise tell.NotTold("it is away")

    push(store, today(store, 80), today(store, 100), today(store, 80, "fleet"))
    tell.take(store, Alerts(command=("/bin/true",), kill_switch=True))
    assert store.client.zcard(tell.DUE) == 3, "a switch is pulled at once, and told to nobody"
    assert tell.tell(store, ALL, channels={"command": broken}) == 0
    assert len(asked) == 1
    assert store.client.zcard(tell.DUE) == 3


def test_a_hundred_alerts_are_taken_at_once_and_the_rest_next_time(store: Store) -> None:
    push(store, *(today(store, 50, f"user:{number}") for number in range(101)))
    assert [tell.take(store, ALL) for _ in range(3)] == [100, 1, 0]
