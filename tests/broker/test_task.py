import random
import uuid
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BadTask
from broker.events import (
    KINDS,
    Attempted,
    Submitted,
    decode_fact,
    decode_group,
    encode_fact,
    encode_group,
)
from broker.task import (
    Outcome,
    Progress,
    Task,
    decode_outcome,
    decode_progress,
    decode_task,
    encode_outcome,
    encode_progress,
    encode_task,
    new_task_id,
)

A_CALL = Attempted("x-1", 0, "local", "echo", "m", "task", 1, 2, 1.0, 2.0, 5, complaint="no")


def test_generated_ids_are_uuid7_and_sort_by_time() -> None:
    first, second = uuid.UUID(new_task_id()), uuid.UUID(new_task_id())
    assert first.version == second.version == 7
    assert first.variant == uuid.RFC_4122
    assert first.int >> 80 <= second.int >> 80


def test_a_task_and_its_progress_come_back_as_they_were() -> None:
    task = Task("a", "acme", ({"role": "user", "content": "hi"},), schema={"type": "object"}, value_nano=5)
    progress = Progress(
        task_type="t", chain=("local", "human"), skipped=(("x", "why"),), attempts=(A_CALL, A_CALL)
    )
    assert decode_task(encode_task(task)) == task
    assert decode_progress(encode_progress(progress)) == progress
    assert decode_fact(encode_fact(A_CALL)) == A_CALL


def test_half_a_letter_keeps_nothing_of_a_call_from_being_written() -> None:
    half, call = "a\ud83d", replace(A_CALL, complaint="a\ud83d")
    assert decode_fact(encode_fact(call)) == replace(call, complaint="a?")
    assert decode_fact(decode_group(encode_group([call]))[0]) == replace(call, complaint="a?")
    assert decode_progress(encode_progress(Progress(why=half))).why == "a?"
    assert decode_outcome(encode_outcome(Outcome("failed", half))).reason == "a?"


def test_a_newer_writer_s_extra_fields_are_passed_over_and_an_older_one_s_are_filled_in() -> None:
    newer = msgpack.packb([2, *msgpack.unpackb(encode_task(Task("a", "w", ())))[1:], "a field of tomorrow"])
    assert decode_task(newer) == Task("a", "w", ())
    older = msgpack.packb([1, 0, "sync"])
    assert decode_fact(older) == Submitted("sync")


@given(st.binary(max_size=200))
def test_bytes_that_are_no_task_are_told_so_and_nothing_else_is_raised(data: bytes) -> None:
    for decode, error in ((decode_task, BadTask), (decode_progress, BadTask), (decode_fact, ValueError)):
        try:
            decode(data)
        except error:
            continue


def test_ten_thousand_mutations_of_good_bytes_are_read_or_told_to_be_bad() -> None:
    chance = random.Random(1)
    task = Task("a", "acme", ({"role": "user", "content": "hi"},), schema={"type": "object"}, value_nano=5)
    progress = Progress(task_type="t", chain=("local", "human"), attempts=(A_CALL,))
    kinds = (
        (encode_task(task), decode_task, BadTask),
        (encode_progress(progress), decode_progress, BadTask),
        (encode_fact(A_CALL), decode_fact, ValueError),
    )
    told = 0
    for _ in range(10_000):
        good, decode, error = chance.choice(kinds)
        bytes_ = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            bytes_[chance.randrange(len(bytes_))] = chance.randrange(256)
        del bytes_[chance.randrange(1, 2 * len(bytes_)) :]
        try:
            decode(bytes(bytes_))
        except error:
            told += 1
    assert told > 5_000


def test_the_codes_of_facts_never_move() -> None:
    names = [kind.__name__ for kind in KINDS]
    assert names[:9] == [
        "Submitted", "Routed", "Attempted", "Escalated", "Parked", "Resumed", "Finished", "DeadLettered", "Rated",
    ]  # fmt: skip


@pytest.mark.parametrize("secret", ["my password is hunter2"])
def test_no_text_of_a_task_shows_its_payload(secret: str) -> None:
    task = Task("a", "w", ({"role": "user", "content": secret},))
    assert secret not in repr(task)
    assert secret not in repr(Progress(last_answer=secret))
