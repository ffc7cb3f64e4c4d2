"""What a provider says of its limits, read from every form of header, and never a reason to fail."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.call import Call, Quota
from broker.errors import RateLimited
from tests.workers.conftest import Provider
from workers.engines.chat import ChatEndpoint
from workers.engines.quota import _ANTHROPIC, _OPENAI, _TOGETHER, quota, retry_after_s, seconds_until

OPENAI = dict(zip(_OPENAI, ("60", "59", "1s", "150000", "149984", "6m0s"), strict=True))
ANSWER = (
    b'data: {"model": "m", "choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


def in_seconds(seconds: float) -> str:
    return (
        (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="seconds").replace("+00:00", "Z")
    )


def test_openais_headers() -> None:
    assert quota(OPENAI) == Quota(60, 59, 1.0, 150_000, 149_984, 360.0)


def test_anthropics_headers_hold_times() -> None:
    headers = dict(
        zip(_ANTHROPIC, ("50", "0", in_seconds(30), "40000", "39000", in_seconds(-5)), strict=True)
    )
    said = quota(headers)
    assert said is not None
    assert (said.requests_limit, said.requests_left, said.tokens_limit, said.tokens_left) == (
        50,
        0,
        40000,
        39000,
    )
    assert said.requests_reset_s == pytest.approx(30, abs=2)
    assert said.tokens_reset_s == 0.0


def test_together_counts_by_the_second() -> None:
    headers = dict(zip(_TOGETHER, ("10", "9.5", "0.4", "1500", "1400", "1"), strict=True))
    assert quota(headers) == Quota(600, 570, 0.4, 90_000, 84_000, 1.0)


def test_nothing_said_is_none_and_a_bad_value_is_left_out() -> None:
    assert quota({}) is None
    assert quota(dict.fromkeys(_OPENAI, "lots")) is None
    assert quota(OPENAI | {_OPENAI[0]: "-1", _OPENAI[2]: "soon"}) == Quota(
        None, 59, None, 150_000, 149_984, 360.0
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360.0),
        ("1s", 1.0),
        ("120ms", 0.12),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3723.0),
        ("8.64s", 8.64),
        ("59.7", 59.7),
        ("", None),
        ("ms", None),
        ("-1s", None),
        ("inf", None),
        ("1d", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    found = seconds_until(text)
    assert found is None if seconds is None else found == pytest.approx(seconds)


@given(st.dictionaries(st.sampled_from([*_OPENAI, *_ANTHROPIC, *_TOGETHER, "retry-after"]), st.text()))
def test_no_header_raises(headers: dict[str, str]) -> None:
    quota(headers)
    wish = retry_after_s(headers)
    assert wish is None or wish >= 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "1"}, 1.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-4"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
    ],
)
def test_the_providers_wish_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_a_wish_as_a_date() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    assert retry_after_s({"retry-after": at}) == pytest.approx(20, abs=2)


def test_an_answer_and_a_refusal_both_carry_what_was_said(provider: Provider) -> None:
    endpoint = ChatEndpoint("rented", f"{provider.url}/v1", "key", "m")
    call = Call(({"role": "user", "content": "Hi"},), timeout_s=5)
    provider.body, provider.headers = ANSWER, OPENAI
    assert endpoint.call(call, lambda: False).quota == quota(OPENAI)
    provider.status, provider.body, provider.headers = 429, b"{}", {**OPENAI, "retry-after": "7"}
    with pytest.raises(RateLimited) as failed:
        endpoint.call(call, lambda: False)
    assert failed.value.quota == quota(OPENAI)
    assert failed.value.retry_after_s == 7
    endpoint.close()
