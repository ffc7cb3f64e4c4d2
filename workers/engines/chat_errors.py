"""What went wrong at an OpenAI-compatible endpoint, in our words.

``LEAVES`` maps every exception class of the SDK, and what it lets through raw, to a leaf of ours. A provider's own code
in the body is the better witness than the status, and the status than the class.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2
import openai

from broker.call import Usage
from broker.errors import (
    AuthenticationFailed,
    CallRejected,
    ContextOverflow,
    EngineConnectionLost,
    EngineError,
    EngineFault,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
    MalformedReply,
    ModelNotFound,
    OutOfCredit,
    RateLimited,
    TransientEngineError,
)

LEAVES: dict[type[Exception], type[EngineError]] = {
    openai.APIConnectionError: EngineConnectionLost,
    openai.APIError: EngineFault,  # an error event in the middle of a stream
    openai.APIResponseValidationError: MalformedReply,
    openai.APIStatusError: CallRejected,
    openai.APITimeoutError: EngineTimeout,
    openai.AuthenticationError: AuthenticationFailed,
    openai.BadRequestError: CallRejected,
    openai.ConflictError: EngineFault,
    openai.ContentFilterFinishReasonError: CallRejected,
    openai.InternalServerError: EngineFault,
    openai.LengthFinishReasonError: MalformedReply,
    openai.NotFoundError: ModelNotFound,
    openai.OpenAIError: EngineUnavailable,
    openai.PermissionDeniedError: AuthenticationFailed,
    openai.RateLimitError: RateLimited,
    openai.UnprocessableEntityError: CallRejected,
    openai.OAuthError: AuthenticationFailed,
    openai.WebSocketConnectionClosedError: EngineConnectionLost,
    openai.WebSocketQueueFullError: EngineOverloaded,
    openai.InvalidWebhookSignatureError: MalformedReply,
    httpx2.TimeoutException: EngineTimeout,
    httpx2.RequestError: EngineConnectionLost,
    json.JSONDecodeError: MalformedReply,
}

STATUSES: dict[int, type[EngineError]] = {
    402: OutOfCredit,
    408: EngineTimeout,
    413: ContextOverflow,
    425: EngineFault,
    429: RateLimited,
    498: EngineOverloaded,
    503: EngineOverloaded,
    504: EngineTimeout,
    529: EngineOverloaded,
}

CODES: dict[str, type[EngineError]] = {
    "context_length_exceeded": ContextOverflow,
    "exceed_context_size_error": ContextOverflow,
    "insufficient_quota": OutOfCredit,
    "insufficient_balance": OutOfCredit,
    "billing_hard_limit_reached": OutOfCredit,
    "invalid_api_key": AuthenticationFailed,
    "model_not_found": ModelNotFound,
    "overloaded_error": EngineOverloaded,
    "rate_limit_exceeded": RateLimited,
    "rate_limit_error": RateLimited,
}

MENDS: dict[type[EngineError], str] = {
    AuthenticationFailed: "check the key that lanes.{lane}.api_key_env or api_key_file names",
    OutOfCredit: "top up the provider's account, or take lane {lane} out of the chains",
    ModelNotFound: "check lanes.{lane}.model and base_url",
    ContextOverflow: "shorten the prompt, or route the type to a lane with more context_tokens",
    EngineConnectionLost: "check that lanes.{lane}.base_url is reachable from this node",
}

NOTHING_USED = Usage()
MESSAGE_LIMIT = 300
SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)


def translate(error: Exception, lane_name: str, timeout_s: float, key: str) -> EngineError:
    """Our leaf for an exception of the SDK, with the usage that a refused call is known to have: none.

    ``key`` never comes into the message, whatever the provider repeats.
    """
    leaf = _leaf(error)
    usage = NOTHING_USED if _refused(error) else None
    mend = MENDS.get(leaf, "").format(lane=lane_name)
    message = f"lane {lane_name!r}: {_what(error, leaf, timeout_s).replace(key, '(key)')}"
    if issubclass(leaf, TransientEngineError):
        return leaf(message, mend=mend, usage=usage, retry_after_s=_retry_after(error))
    return leaf(message, mend=mend, usage=usage)


def _leaf(error: Exception) -> type[EngineError]:
    if isinstance(error, openai.APIError):
        for code in (error.code, error.type, *_body_words(error)):
            if code in CODES:
                return CODES[code]
    if isinstance(error, openai.APIStatusError) and error.status_code in STATUSES:
        return STATUSES[error.status_code]
    for kind in type(error).__mro__:
        if kind in LEAVES:
            return LEAVES[kind]
    return MalformedReply


def _body_words(error: openai.APIError) -> tuple[str, ...]:
    """The words of a body that hides its code: vLLM and others say only in the text that a prompt is too long."""
    text = error.message.lower()
    too_long = ("maximum context length", "context window", "prompt is too long", "context size")
    return ("context_length_exceeded",) if any(words in text for words in too_long) else ()


def _refused(error: Exception) -> bool:
    """The provider did no work: it said no before it began, or was never reached."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (503, 529) or (
            400 <= error.status_code < 500 and error.status_code != 408
        )
    return isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)


def _what(error: Exception, leaf: type[EngineError], timeout_s: float) -> str:
    if isinstance(error, openai.APIStatusError):
        body = error.body if isinstance(error.body, Mapping) else {}
        return f"HTTP {error.status_code}: {str(body.get('message') or error.message)[:MESSAGE_LIMIT]}"
    if leaf is EngineTimeout:
        return f"no whole answer within {timeout_s:g} s"
    if isinstance(error, openai.APIError):
        cause = error.__cause__
        return f"{error.message[:MESSAGE_LIMIT]}{f' ({cause})' if cause else ''}"
    return f"an answer that is not one: {type(error).__name__}"


def _retry_after(error: Exception) -> float | None:
    """The provider's wish in seconds, from ``retry-after-ms`` or ``retry-after`` (seconds or a date)."""
    headers: Mapping[str, str] = error.response.headers if isinstance(error, openai.APIStatusError) else {}
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if SECONDS.fullmatch(headers.get(name, "")):
            return float(headers[name]) * unit
    try:
        at = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
