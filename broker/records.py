"""What is known of tasks, read from their records."""

from __future__ import annotations

from collections.abc import Sequence

import msgpack

from broker import keys
from broker.ask import ask
from broker.errors import ResultGone, UnknownTask
from broker.lua import Scripts
from broker.rows import told_of
from broker.state import Record
from broker.task import decode_outcome, decode_task, reference


class Records:
    def __init__(self, scripts: Scripts) -> None:
        self._client = scripts.client

    def one(self, ref: str) -> Record:
        """Raises UnknownTask, its leaf ResultGone, or BadTask for a record that cannot be read."""
        return self.many([ref])[0]

    def many(self, refs: Sequence[str]) -> list[Record]:
        """Many in one round trip. Raises as ``one`` does."""
        return [_record(ref, row) for ref, row in zip(refs, self._rows(refs), strict=True)]

    def that_are(self, status: str, refs: Sequence[str]) -> list[Record]:
        """Those of this status that are still kept, in one round trip. Raises BadTask."""
        rows = zip(refs, self._rows(refs), strict=True)
        kept = ((ref, row) for ref, row in rows if b"task" in row and row[b"status"].decode() == status)
        return [_record(ref, row) for ref, row in kept]

    def _rows(self, refs: Sequence[str]) -> list[dict[bytes, bytes]]:
        pipe = self._client.pipeline(transaction=False)
        for ref in refs:
            pipe.hgetall(keys.task_key(ref))
        return ask(pipe.execute)

    def status(self, ref: str) -> str | None:
        """The status alone, readable even where the rest of the record is not. None: unknown."""
        status = ask(lambda: self._client.hget(keys.task_key(ref), "status"))
        return None if status is None else status.decode()

    def find(self, task_id: str) -> list[str]:
        """The refs of that task id over all workspaces."""
        workspaces = ask(lambda: self._client.smembers(keys.ids_key(task_id)))
        return sorted(reference(workspace.decode(), task_id) for workspace in workspaces)

    def parts(self, ref: str) -> list[str]:
        """The refs of a task's sub-tasks, in the order of their names."""
        found = ask(lambda: self._client.smembers(keys.parts_key(ref)))
        return sorted(part.decode() for part in found)


def _record(ref: str, row: dict[bytes, bytes]) -> Record:
    if not row:
        raise unknown(ref)
    if b"task" not in row:
        raise ResultGone(
            f"task {ref!r} has ended ({row[b'status'].decode()}) and its payload and result are no longer kept",
            mend="its accounts are in the ledger; fleet.result_ttl_s says how long results are kept",
        )
    return Record(
        decode_task(row[b"task"]),
        told_of(row.get(b"progress", b""), row.get(b"losses", b"")),
        decode_outcome(row[b"outcome"]) if b"outcome" in row else None,
        row[b"status"].decode(),
        row[b"queue"].decode(),
        int(row[b"epoch"]),
        int(row[b"cost"]),
        int(row.get(b"reserved", 0)),
        int(row[b"submitted"]),
        int(row[b"started"]) if b"started" in row else None,
        int(row[b"finished"]) if b"finished" in row else None,
        int(row[b"enqueued"]),
        msgpack.unpackb(row[b"raised"]) if b"raised" in row else {},
        row.get(b"batch", b"").decode(),
        int(row.get(b"family", 0)),
        int(row.get(b"shares", 0)),
    )


def unknown(ref: str) -> UnknownTask:
    return UnknownTask(
        f"no task {ref!r} is known", mend="check the id and its workspace; records live 30 days"
    )
