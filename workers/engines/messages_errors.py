"""The ``anthropic`` SDK's exceptions, and what it lets through raw, as leaves of ours."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx2

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
)
from workers.engines.refusal import Leaf, Refusal, engine_error, leaf_of

LEAVES: dict[type[Exception], Leaf] = {
    anthropic.AnthropicError: EngineUnavailable,
    anthropic.APIConnectionError: EngineConnectionLost,
    anthropic.APIError: EngineFault,
    anthropic.APIResponseValidationError: MalformedReply,
    anthropic.APIStatusError: CallRejected,
    anthropic.APITimeoutError: EngineTimeout,
    anthropic.APIWebhookValidationError: MalformedReply,
    anthropic.AuthenticationError: AuthenticationFailed,
    anthropic.BadRequestError: CallRejected,
    anthropic.ClaudeCodeKeyCreatorNotMemberError: AuthenticationFailed,
    anthropic.ClaudeCodeVersionTooOldError: CallRejected,
    anthropic.ClientClosedRequestError: EngineConnectionLost,
    anthropic.CMEKContextUnavailableError: EngineOverloaded,
    anthropic.CMEKKeyDisabledError: AuthenticationFailed,
    anthropic.CMEKKeyNetworkBlockedError: AuthenticationFailed,
    anthropic.CMEKKeyUnreachableError: EngineOverloaded,
    anthropic.ConflictError: EngineFault,
    anthropic.ContentTooLargeError: ContextOverflow,
    anthropic.ContractSpendLimitReachedError: OutOfCredit,
    anthropic.CredentialsError: EngineUnavailable,
    anthropic.EnforcedSpendLimitReachedError: OutOfCredit,
    anthropic.GatewayTimeoutError: EngineTimeout,
    anthropic.HTTPNotImplementedError: CallRejected,
    anthropic.IdentityTokenFileError: EngineUnavailable,
    anthropic.InternalServerError: EngineFault,
    anthropic.LinkedOrganizationBillingUnavailableError: OutOfCredit,
    anthropic.LinkedOrganizationSpendLimitReachedError: OutOfCredit,
    anthropic.NotFoundError: ModelNotFound,
    anthropic.OrganizationOnHoldError: AuthenticationFailed,
    anthropic.OrganizationTypeNotSupportedError: AuthenticationFailed,
    anthropic.OverloadedError: EngineOverloaded,
    anthropic.ParentOrganizationRequiredError: AuthenticationFailed,
    anthropic.PaymentRequiredError: OutOfCredit,
    anthropic.PermissionDeniedError: AuthenticationFailed,
    anthropic.PreconditionFailedError: CallRejected,
    anthropic.RampLimitExceededError: RateLimited,
    anthropic.RateLimitError: RateLimited,
    anthropic.RequestBodyEncodingInvalidError: CallRejected,
    anthropic.RequestBodyEncodingUnsupportedError: CallRejected,
    anthropic.RequestBodyTooLargeAfterDecodingError: ContextOverflow,
    anthropic.RequestHeaderFieldsTooLargeError: CallRejected,
    anthropic.RequestTimeoutError: EngineTimeout,
    anthropic.RetryableError: EngineFault,
    anthropic.SandboxEgressRestrictedError: AuthenticationFailed,
    anthropic.ServiceUnavailableError: EngineOverloaded,
    anthropic.UnprocessableEntityError: CallRejected,
    httpx2.TimeoutException: EngineTimeout,
    httpx2.RequestError: EngineConnectionLost,
    json.JSONDecodeError: MalformedReply,
}


def translate(error: Exception, lane_name: str, timeout_s: float, key: str) -> EngineError:
    refusal = _refusal(error)
    otherwise = next((LEAVES[kind] for kind in type(error).__mro__ if kind in LEAVES), MalformedReply)
    return engine_error(refusal, leaf_of(refusal, otherwise, {}), lane_name, timeout_s, key)


def in_stream(data: str, lane_name: str, timeout_s: float, key: str) -> EngineError:
    """The error for an ``error`` event in the middle of an answer."""
    try:
        body: Any = json.loads(data)
    except ValueError:
        body = data
    refusal = Refusal("the provider broke the answer off", body=body)
    return engine_error(refusal, leaf_of(refusal, EngineFault, {}), lane_name, timeout_s, key)


def _refusal(error: Exception) -> Refusal:
    if isinstance(error, anthropic.APIStatusError):
        return Refusal(error.message, error.status_code, error.body, error.response.headers)
    cause = error.__cause__
    reached = not isinstance(cause or error, httpx2.ConnectError | httpx2.ConnectTimeout)
    if isinstance(error, anthropic.APIError):
        return Refusal(f"{error.message}{f' ({cause})' if cause else ''}", body=error.body, reached=reached)
    return Refusal(f"an answer that is not one: {type(error).__name__}", reached=reached)
