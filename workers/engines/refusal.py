"""What a provider meant by its refusal, in our words, whichever SDK carried it.

A provider's own code in the body is the better witness than its words, they than the status, and the status than the
SDK's class of exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.call import Usage
from broker.errors import (
    AuthenticationFailed,
    ContextOverflow,
    EngineConnectionLost,
    EngineError,
    EngineFault,
    EngineOverloaded,
    EngineTimeout,
    ModelNotFound,
    OutOfCredit,
    RateLimited,
    TransientEngineError,
)
from workers.engines.cloud import NO_KEY
from workers.engines.quota import quota, retry_after_s, words

Leaf = type[EngineError]

STATUSES: Mapping[int, Leaf] = {
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

#: Codes that say which, under any of the names by which bodies hold them.
CODES: Mapping[str, Leaf] = {
    "context_length_exceeded": ContextOverflow,
    "exceed_context_size_error": ContextOverflow,
    "request_too_large": ContextOverflow,
    "insufficient_quota": OutOfCredit,
    "insufficient_balance": OutOfCredit,
    "billing_hard_limit_reached": OutOfCredit,
    "billing_error": OutOfCredit,
    "contract_spend_limit_reached": OutOfCredit,
    "enforced_spend_limit_reached": OutOfCredit,
    "organization_on_hold": AuthenticationFailed,
    "invalid_api_key": AuthenticationFailed,
    "API_KEY_INVALID": AuthenticationFailed,
    "authentication_error": AuthenticationFailed,
    "permission_error": AuthenticationFailed,
    "model_not_found": ModelNotFound,
    "not_found_error": ModelNotFound,
    "overloaded_error": EngineOverloaded,
    "rate_limit_exceeded": RateLimited,
    "rate_limit_error": RateLimited,
    "timeout_error": EngineTimeout,
    "gateway_timeout_error": EngineTimeout,
}
CODE_NAMES = ("error_code", "code", "reason", "error_type", "type", "status")  # the most telling first

#: For bodies that hide the reason in a sentence: vLLM, Gemini, xAI, Together and Anthropic on a prompt that is too
#: long, DeepSeek and Anthropic on an empty account.
SENTENCES: Mapping[str, Leaf] = {
    "maximum context length": ContextOverflow,
    "maximum prompt length": ContextOverflow,
    "context window": ContextOverflow,
    "context size": ContextOverflow,
    "prompt is too long": ContextOverflow,
    "input token count": ContextOverflow,
    "max_new_tokens": ContextOverflow,
    "max_model_len": ContextOverflow,
    "credit balance is too low": OutOfCredit,
    "reached your specified api usage limits": OutOfCredit,
    "insufficient balance": OutOfCredit,
}

MENDS: Mapping[Leaf, str] = {
    AuthenticationFailed: "check the key that lanes.{lane}.api_key_env or api_key_file names",
    OutOfCredit: "top up the provider's account, or take lane {lane} out of the chains",
    ModelNotFound: "check lanes.{lane}.model and base_url",
    ContextOverflow: "shorten the prompt, or route the type to a lane with more context_tokens",
    EngineConnectionLost: "check that lanes.{lane}.base_url is reachable from this node",
}

#: Answers in whose place no token was made, whatever status they came with.
TURNED_AWAY = (
    RateLimited,
    EngineOverloaded,
    ContextOverflow,
    AuthenticationFailed,
    OutOfCredit,
    ModelNotFound,
)
NOTHING_USED = Usage()
MESSAGE_LIMIT = 300


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is known of a failed call. ``status`` None: no HTTP answer, or one that broke off. ``body`` is the answer's
    JSON, ``text`` what the SDK made of it. ``reached`` False: no connection came about.
    """

    text: str
    status: int | None = None
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    reached: bool = True

    @property
    def before_work(self) -> bool:
        """The provider did no work: it said no before it began, or was never reached."""
        if self.status is None:
            return not self.reached
        return self.status in (503, 529) or (400 <= self.status < 500 and self.status != 408)


def leaf_of(refusal: Refusal, otherwise: Leaf, statuses: Mapping[int, Leaf]) -> Leaf:
    """``otherwise`` is what the SDK's exception class stands for, ``statuses`` what a status means in this dialect."""
    said = list(words(refusal.body))
    for code_name in CODE_NAMES:
        for name, value in said:
            if name == code_name and value in CODES:
                return CODES[value]
    text = " ".join([refusal.text, *(value for _, value in said)]).lower()
    for sentence, leaf in SENTENCES.items():
        if sentence in text:
            return leaf
    return {**STATUSES, **statuses}.get(refusal.status or 0, otherwise)


def engine_error(refusal: Refusal, leaf: Leaf, lane_name: str, timeout_s: float, key: str) -> EngineError:
    """The error to raise, with the usage that a refused call is known to have: none.

    ``key`` never comes into the message, whatever the provider repeats.
    """
    turned_away = refusal.status is not None and leaf in TURNED_AWAY
    usage = NOTHING_USED if refusal.before_work or turned_away else None
    mend = MENDS.get(leaf, "").format(lane=lane_name)
    said = _message(refusal, leaf, timeout_s)
    message = f"lane {lane_name!r}: {said if key == NO_KEY else said.replace(key, '(key)')}"
    error: EngineError
    if issubclass(leaf, TransientEngineError):
        wish = retry_after_s(refusal.headers, refusal.body)
        error = leaf(message, mend=mend, usage=usage, retry_after_s=wish)
    else:
        error = leaf(message, mend=mend, usage=usage)
    error.quota = quota(refusal.headers)
    return error


def _message(refusal: Refusal, leaf: Leaf, timeout_s: float) -> str:
    if refusal.status is not None:
        told = next((value for name, value in words(refusal.body) if name == "message"), refusal.text)
        return f"HTTP {refusal.status}: {told[:MESSAGE_LIMIT]}"
    if leaf is EngineTimeout:
        return f"no whole answer within {timeout_s:g} s"
    return refusal.text[:MESSAGE_LIMIT]
