"""The provider is told the attempt's own name, so that its records can be held against the ledger."""

from broker.settings.lanes import Lane
from broker.settings.types import TaskType
from broker.task import Claim, Progress, Task
from workers.compose import compose

MESSAGES = ({"role": "user", "content": "hello"},)


def test_a_call_carries_the_attempt_that_it_is_made_for() -> None:
    claim = Claim(Task("ticket-7", "acme", MESSAGES), Progress("general"), 3, "lane-rented-sync", 0, 0, 0, 0)
    call = compose(claim, Lane(engine="openai"), TaskType(chain=("rented",)), (), None)
    assert call.attempt_id == claim.attempt_id == "ticket-7-3"
