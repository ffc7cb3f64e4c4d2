"""What a lane's provider batches share on this node: see ``batch_send.py`` and ``batch_settle.py``.

Each step is in Redis before the next one is taken, so that a process may die anywhere and another one goes on:

    open     being filled. Tasks that joined are the batch's; nothing has left. Found alone, it is taken apart again.
    sending  it may have reached the provider or not. Found alone, the provider is asked for it.
    lost     the provider did not know it, or has its answers no more. Its tasks went on, their calls booked as
             unsettled; should it turn up within a day all the same, it is stopped, and what its lines cost is put
             right.
    sent     the provider has it. It is asked now and then; when it has ended each line is settled, once, by the same
             commit as any other call. Lines that were never worked on go back to where they wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from broker.batches import Batch, BatchBook, Holder
from broker.scopes import scopes_of
from broker.state import Move
from broker.task import BATCH, lane_queue
from workers.engines.batches import BatchDoor
from workers.jobs import Jobs

HANDFUL = 500
BATCHES_LOST = 2  # so often a task is put into another batch after it was not worked on


class Batches:
    """One lane's batches. ``pool`` is the queue of what waits for the next one."""

    def __init__(self, jobs: Jobs, door: BatchDoor) -> None:
        self.jobs, self.door, self.store, self.row = jobs, door, jobs.store, jobs.row
        self.lane = jobs.name
        self.book = BatchBook(jobs.store)
        self.pool = lane_queue(jobs.name, BATCH)

    def take_apart(self, batch: Batch, *, singly: bool) -> None:
        """Nothing of it was or will be worked on: its tasks go back, and what was reserved with them."""
        for handful in self.book.left(batch):
            self.put_back(batch, handful, singly=singly)
        self.book.close(batch)

    def put_back(self, batch: Batch, handful: Sequence[Holder], *, singly: bool) -> None:
        places = self.jobs.places()
        moves = []
        for claim in self.store.claims([holder for _, holder in handful], self.pool):
            if claim is not None:
                tried = claim.progress.retries + 1
                single = singly or tried > BATCHES_LOST
                queue = lane_queue(self.lane, "async") if single else places.of(claim, self.lane)
                told = replace(claim.progress, retries=tried, why="its batch did not come to it")
                scopes = scopes_of(claim.task, self.lane)
                moves.append(Move(claim, "queued", told, queue=queue, scopes=scopes))
        self.store.commit(moves)
        self.book.settled(batch, [line for line, _ in handful])
