"""Every error that Laneway raises on purpose.

    LanewayError
    ├── ConfigError                 the configuration is wrong; names the key path
    ├── BadTask                     a submission is wrong; nothing was stored
    │   ├── TaskConflict            the task id exists with another payload
    │   └── TaskTooLarge            the payload is above the limit of the wire
    ├── UnknownTask                 no task of that id is known here
    │   └── ResultGone              it has ended; its payload and result were kept for their time
    ├── ReviewRefused               a person's word does not fit the task, or it does not wait for one; nothing was done
    ├── ResultTimeout               the task did not end within the caller's time-out; it goes on
    ├── RedisUnavailable            no Redis answers
    ├── RedisFull                   Redis is at its admission limit; nothing was stored
    ├── LedgerError                 the ledger's folder or bucket cannot be read or written
    │   └── LedgerChanged           a file was replaced meanwhile; done again, the same thing works on the new one
    ├── ToolError                   a tool did not do what the model asked for; the model is told why
    ├── ToolUnavailable             this node has nothing to use a tool safely with; the tool is off here
    └── EngineError                 a model call did not end well
        ├── EngineUnavailable       the engine of this node cannot work at all (missing package, model file, key)
        ├── CallCancelled           the call was broken off because nobody wants its answer any more
        │   └── CallNeverMade       it was not begun at all, and nothing was asked of anybody
        ├── TransientEngineError    the same call may succeed later on the same lane
        │   ├── RateLimited
        │   ├── EngineOverloaded
        │   ├── EngineTimeout
        │   ├── EngineConnectionLost
        │   └── EngineFault         the engine failed on its own side and named no better reason
        └── PermanentEngineError    the same call will fail again on this lane
            ├── CallRejected        the engine refuses the request as it is
            ├── ContextOverflow     the prompt does not fit the lane's context
            ├── AuthenticationFailed
            ├── OutOfCredit
            ├── ModelNotFound
            └── MalformedReply      the engine answered something that is not an answer

Each message says what is wrong and with which value; ``mend`` says what to do about it.
"""

from __future__ import annotations

from broker.call import Quota, Usage


class LanewayError(Exception):
    """Base of all of ours. ``mend`` is one sentence that tells the reader what to do, or "" where nothing helps."""

    def __init__(self, message: str, *, mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.message}\n  mend: {self.mend}" if self.mend else self.message


class ConfigError(LanewayError):
    pass


class BadTask(LanewayError):
    pass


class TaskConflict(BadTask):
    pass


class TaskTooLarge(BadTask):
    pass


class UnknownTask(LanewayError):
    pass


class ResultGone(UnknownTask):
    pass


class ReviewRefused(LanewayError):
    pass


class ResultTimeout(LanewayError):
    pass


class RedisUnavailable(LanewayError):
    pass


class RedisFull(LanewayError):
    pass


class LedgerError(LanewayError):
    pass


class LedgerChanged(LedgerError):
    pass


class ToolError(LanewayError):
    """``failure`` is the code that is booked."""

    def __init__(self, message: str, *, failure: str = "tool_failed") -> None:
        super().__init__(message)
        self.failure = failure


class ToolUnavailable(LanewayError):
    pass


class EngineError(LanewayError):
    """A model call that did not end well.

    ``usage`` is what the provider reported or is known to have used before the failure; None means unknown, which is
    booked at the reserved cost for a paid lane. ``quota`` is what it said of its limits, None for nothing.
    """

    failure = "engine_error"

    def __init__(self, message: str, *, mend: str = "", usage: Usage | None = None) -> None:
        super().__init__(message, mend=mend)
        self.usage = usage
        self.quota: Quota | None = None


class EngineUnavailable(EngineError):
    failure = "engine_unavailable"


class CallCancelled(EngineError):
    failure = "cancelled"


class CallNeverMade(CallCancelled):
    failure = "never_made"


class TransientEngineError(EngineError):
    """``retry_after_s`` is the provider's own wish in seconds, None where it named none."""

    failure = "transient"

    def __init__(
        self, message: str, *, mend: str = "", usage: Usage | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, mend=mend, usage=usage)
        self.retry_after_s = retry_after_s


class RateLimited(TransientEngineError):
    failure = "rate_limited"


class EngineOverloaded(TransientEngineError):
    failure = "overloaded"


class EngineTimeout(TransientEngineError):
    failure = "timeout"


class EngineConnectionLost(TransientEngineError):
    failure = "connection_lost"


class EngineFault(TransientEngineError):
    failure = "engine_fault"


class PermanentEngineError(EngineError):
    failure = "permanent"


class CallRejected(PermanentEngineError):
    failure = "rejected"


class ContextOverflow(PermanentEngineError):
    failure = "context_overflow"


class AuthenticationFailed(PermanentEngineError):
    failure = "authentication_failed"


class OutOfCredit(PermanentEngineError):
    failure = "out_of_credit"


class ModelNotFound(PermanentEngineError):
    failure = "model_not_found"


class MalformedReply(PermanentEngineError):
    failure = "malformed_reply"
