"""What context guards leave of long conversations and documents: cases and laws."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.settings.types import ContextGuards
from broker.task import Task
from dispatcher import turns
from dispatcher.context import (
    GAP,
    SHORTEST,
    SUMMARY,
    applied,
    asks_itself,
    chosen,
    excerpt,
    guarded,
    long_texts,
    pieces,
    question,
    unused_tokens,
)
from dispatcher.embedding import HashEmbedder

SYSTEM = {"role": "system", "content": "Be brief."}
NEEDLE = "The warranty of the red pump ends on 4 May 2031."
FILLER = [f"Chapter {n} is about gardens, kites and the weather of the {n}th week." for n in range(120)]


def conversation(turns: int) -> list[dict[str, Any]]:
    said = [SYSTEM]
    for n in range(turns):
        said.append({"role": "user", "content": f"Question {n}? With more words that nobody needs later."})
        said.append({"role": "assistant", "content": f"Answer {n}. And its long explanation."})
    return said


def history(turns: int, in_full: int = 5) -> tuple[dict[str, Any], ...]:
    return guarded(conversation(turns), ContextGuards(turns=in_full), ()).messages  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("turns", "in_full"), [(1, 1), (5, 5), (9, 9), (10, 5), (12, 7), (14, 9), (15, 5), (101, 6)]
)
def test_at_least_the_last_five_turns_are_told_in_full_and_fewer_than_ten(turns: int, in_full: int) -> None:
    told = history(turns)
    whole = [one for one in told if one in conversation(turns) and one["role"] == "user"]
    assert len(whole) == in_full
    assert told[-2 * in_full :] == tuple(conversation(turns)[-2 * in_full :])


def test_what_was_before_is_told_in_first_sentences_after_the_system_text() -> None:
    system, gist, *_ = history(20)
    assert system == SYSTEM
    assert gist["content"].splitlines()[:3] == [SUMMARY, "user: Question 0?", "assistant: Answer 0."]
    assert "explanation" not in gist["content"]


def test_the_beginning_stays_as_it_was_for_five_turns_so_that_caches_find_it() -> None:
    beginnings = [history(turns)[1]["content"] for turns in range(10, 20)]
    assert len(set(beginnings)) == 2
    assert beginnings == [beginnings[0]] * 5 + [beginnings[5]] * 5


def test_without_guards_everything_is_told_as_it_is() -> None:
    said = conversation(50)
    cut = guarded(said, ContextGuards(), ())
    assert (cut.messages, cut.history_tokens, cut.passages_tokens) == (tuple(said), 0, 0)


def test_what_is_cut_is_counted() -> None:
    cut = guarded(conversation(50), ContextGuards(turns=5), ())
    size = [sum(len(one["content"]) for one in told) for told in (conversation(50), cut.messages)]
    assert cut.history_tokens == (size[0] - size[1]) // 4 > 400


def nearest(text: str, asked: str, limit: int) -> str:
    task = Task("t", "w", ({"role": "user", "content": text}, {"role": "user", "content": asked}))
    passages = pieces(text)
    vectors = HashEmbedder().embed([*passages, question(task, 0)])
    return excerpt(text, chosen(passages, vectors[:-1], vectors[-1], limit, asks=asks_itself(task, 0)))


@pytest.mark.parametrize("place", [1, 17, 60, 118])
def test_the_passage_that_is_asked_for_is_among_those_that_are_told(place: int) -> None:
    lines = [*FILLER[:place], NEEDLE, *FILLER[place:]]
    told = nearest("\n".join(lines), "When does the warranty of the red pump end?", 1_200)
    assert NEEDLE in told
    assert len(told.replace(GAP, "")) < 1_300 < len("\n".join(lines)) / 5


def test_gaps_are_marked() -> None:
    told = nearest("\n".join(FILLER), "the weather of the 60th week", 800)
    assert told.startswith(GAP)
    assert "60th" in told


def test_a_small_limit_is_for_what_is_near_and_not_for_the_ends() -> None:
    lines = [*FILLER[:70], NEEDLE, *FILLER[70:]]
    assert NEEDLE in nearest("\n".join(lines), "When does the warranty of the red pump end?", 500)


def test_a_document_and_its_question_in_one_message() -> None:
    text = "\n".join([*FILLER[:60], NEEDLE, *FILLER[60:], "When does the warranty of the red pump end?"])
    task = Task("t", "w", ({"role": "user", "content": text},))
    assert long_texts(task, 1_000) == [0]
    passages = pieces(text)
    vectors = HashEmbedder().embed([*passages, question(task, 0)])
    told = excerpt(text, chosen(passages, vectors[:-1], vectors[-1], 1_000, asks=asks_itself(task, 0)))
    assert NEEDLE in told
    assert told.startswith(FILLER[0])
    assert told.endswith("end?")


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ({"role": "user", "content": "x" * SHORTEST}, 500),
        ({"role": "user", "content": "x" * 9_000}, 9_000),
        ({"role": "system", "content": "x" * 9_000}, 500),
        ({"role": "user", "content": [{"type": "text", "text": "x" * 9_000}]}, 500),
        ({"role": "user", "content": "x" * 9_000}, None),
    ],
)
def test_what_is_short_or_no_users_text_is_told_whole(message: dict[str, Any], limit: int | None) -> None:
    assert long_texts(Task("t", "w", (message,)), limit) == []


@given(st.text(max_size=3_000), st.data())
def test_pieces_joined_are_the_text_and_all_of_them_kept_change_nothing(
    text: str, data: st.DataObject
) -> None:
    passages = pieces(text)
    assert "".join(passages) == text
    assert excerpt(text, range(len(passages))) == text
    some = data.draw(st.sets(st.sampled_from(range(len(passages))))) if passages else set()
    told = excerpt(text, sorted(some))
    assert all(passages[at] in told for at in some)


@given(st.integers(1, 60), st.integers(1, 8))
def test_no_last_message_is_ever_lost(count: int, in_full: int) -> None:
    said = conversation(count)
    assert history(count, in_full)[-1] == said[-1]
    assert len(history(count, in_full)) <= len(said)


def test_a_task_may_do_without_a_guard() -> None:
    guards = ContextGuards(turns=5, passages_chars=1_000)
    task = Task("t", "w", (), guards=("history",))
    assert applied(guards, task) == ContextGuards(turns=5)
    assert applied(guards, Task("t", "w", ())) == guards


def test_results_of_early_tool_steps_are_cut_and_their_calls_stay() -> None:
    said: list[dict[str, Any]] = []
    for n in range(10):
        call = {"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        said += [{"role": "assistant", "content": "", "tool_calls": [call], "lane": "l"}]
        said += [{"role": "tool", "tool_call_id": f"c{n}", "content": "y" * 900}]
    told = turns.messages(said, 5)
    assert [len(one["content"]) for one in told if one["role"] == "tool"] == [164] * 5 + [900] * 5
    assert len(told) == 20
    assert turns.messages(said[:18], 5) == turns.messages(said[:18])


def test_what_an_answer_shows_no_trace_of_is_counted_and_short_context_is_not() -> None:
    text = "\n".join([*FILLER, NEEDLE])
    asked = [{"role": "user", "content": text}]
    unused = unused_tokens(asked, "It ends on 4 May 2031.")
    assert 0.8 * len(text) / 4 < unused < len(text) / 4
    assert unused_tokens([{"role": "user", "content": "short"}], "no") == 0
