"""The ``openai`` SDK's exceptions, and what it lets through raw, as leaves of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping

import httpx2
import openai

from broker.errors import (
    AuthenticationFailed,
    CallRejected,
    EngineConnectionLost,
    EngineError,
    EngineFault,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
    MalformedReply,
    ModelNotFound,
    RateLimited,
)
from workers.engines.refusal import Leaf, Refusal, engine_error, leaf_of

LEAVES: dict[type[Exception], Leaf] = {
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
NO_OTHER_STATUSES: Mapping[int, Leaf] = {}


def translate(
    error: Exception,
    lane_name: str,
    timeout_s: float,
    key: str,
    statuses: Mapping[int, Leaf] = NO_OTHER_STATUSES,
) -> EngineError:
    refusal = _refusal(error)
    return engine_error(refusal, leaf_of(refusal, _by_class(error), statuses), lane_name, timeout_s, key)


def _by_class(error: Exception) -> Leaf:
    return next((LEAVES[kind] for kind in type(error).__mro__ if kind in LEAVES), MalformedReply)


def _refusal(error: Exception) -> Refusal:
    if isinstance(error, openai.APIStatusError):
        return Refusal(error.message, error.status_code, error.body, error.response.headers)
    cause = error.__cause__
    reached = not isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout)
    if isinstance(error, openai.APIError):
        return Refusal(f"{error.message}{f' ({cause})' if cause else ''}", body=error.body, reached=reached)
    return Refusal(f"an answer that is not one: {type(error).__name__}", reached=reached)
