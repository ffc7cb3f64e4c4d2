"""What a process has in hand, over the claims of a real Redis."""

from broker.hands import Hands
from broker.store import Store
from broker.task import DISPATCH
from tests.broker.tasks import take, task


def test_only_the_claim_that_was_asked_about_is_broken_off(store: Store) -> None:
    store.submit([task("a")])
    (stale,) = take(store)
    store.release([stale])
    (fresh,) = take(store)
    hands = Hands()
    hands.take([fresh], DISPATCH, messages=1, hold_s=60)
    hands.break_off(store.keep([(stale.ref, stale.epoch)], []).broken)
    assert hands.broken(stale)
    assert not hands.broken(fresh)
