"""Patterns before examples, examples before the default; and how far a guess is to be believed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import ConfigError
from broker.settings import Settings, parse
from dispatcher.classify import Classified, Classifier
from dispatcher.embedding import HashEmbedder
from dispatcher.head import fit
from dispatcher.patterns import rules

EXAMPLES = Path(__file__).parents[2] / "demo" / "examples"
CARDS = [
    "My card has not arrived",
    "where is my new card?",
    "the card is late again",
    "no card came in the post",
]
SUMS = [
    "Summarise this text",
    "write a short summary of the article",
    "a summary in one line",
    "summarise the report",
]


def settings(types: str, fleet: str = "") -> Settings:
    return parse(f'[fleet]\n{fleet}\n[types.general]\nchain = ["local"]\n{types}')


def table(name: str, **fields: object) -> str:
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in fields.items())
    return f'[types.{name}]\nchain = ["local"]\n{lines}\n'


def classifier(types: str, fleet: str = "") -> Classifier:
    return Classifier.build(settings(types, fleet), HashEmbedder())


@pytest.fixture(scope="module")
def two_types() -> Classifier:
    return classifier(
        table("cards", examples=CARDS) + table("sums", examples=SUMS, patterns=["(?i)^tl;?dr", "^Sum:"])
    )


def test_a_pattern_wins_over_every_example(two_types: Classifier) -> None:
    assert two_types.classify(["TLDR: my card has not arrived"]) == [
        Classified("sums", "regex", "(?i)^tl;?dr", 1.0)
    ]


def test_of_two_patterns_the_first_of_the_file_wins_wherever_it_stands() -> None:
    found = classifier(table("a", patterns=["late"]) + table("b", patterns=["early"])).classify(
        ["early or late"]
    )

    assert found == [Classified("a", "regex", "late", 1.0)]


def test_an_example_is_its_own_type_and_is_named(two_types: Classifier) -> None:
    [found] = two_types.classify(["where is my new card"])

    assert (found.task_type, found.by, found.rule) == ("cards", "embedding", "where is my new card?")
    assert 0.35 <= found.confidence <= 1


@pytest.mark.parametrize("prompt", ["", "   ", "\ud800", "quantum chromodynamics lattice"])
def test_what_is_like_nothing_goes_to_the_default(two_types: Classifier, prompt: str) -> None:
    [found] = two_types.classify([prompt])

    assert (found.task_type, found.by) == ("general", "default")
    assert found.confidence < 0.35


def test_the_threshold_is_the_fleets() -> None:
    types = table("cards", examples=CARDS) + table("sums", examples=SUMS)

    [sure] = classifier(types, "abstain_below = 0.999").classify(["where is my new card"])
    [open_to_all] = classifier(types, "abstain_below = 0.0").classify(["quantum chromodynamics"])

    assert sure.by == "default"
    assert open_to_all.by == "embedding"


def test_answers_come_in_the_order_of_the_prompts(two_types: Classifier) -> None:
    prompts = ["Sum: x", "no card came", "tldr", "a summary in one line please", ""]

    together = two_types.classify(prompts)

    assert together == [found for prompt in prompts for found in two_types.classify([prompt])]
    assert two_types.classify([]) == []


def test_without_examples_or_patterns_everything_is_the_default() -> None:
    assert classifier("").classify(["a", "b"]) == [Classified("general", "default", "", 0.0)] * 2


def test_one_type_with_examples_still_knows_what_is_not_like_it() -> None:
    only = classifier(table("cards", examples=CARDS))

    assert [found.by for found in only.classify(["my card has not arrived", "bake a pie"])] == [
        "embedding",
        "default",
    ]


def test_one_example_is_enough() -> None:
    found = classifier(table("cards", examples=["my card"]) + table("sums", examples=["a summary"])).classify(
        ["my card"]
    )

    assert found[0].task_type == "cards"


def test_an_instruction_before_a_long_body_is_what_counts(two_types: Classifier) -> None:
    body = "The committee met on Tuesday and discussed the budget of the coming year. " * 200

    [found] = two_types.classify([f"Write a short summary of the article. Summarise this text.\n\n{body}"])

    assert found.task_type == "sums"


def test_examples_are_read_from_a_file_beside_the_inline_ones(tmp_path: Path) -> None:
    file = tmp_path / "cards.jsonl"
    file.write_text(
        "".join(
            f"{json.dumps({'text': text}, ensure_ascii=False)}\n\n" for text in [*CARDS, "two\u2028lines"]
        )
    )
    types = table("cards", examples=["a card, inline"], examples_file=str(file)) + table(
        "sums", examples=SUMS
    )

    assert [found.rule for found in classifier(types).classify([CARDS[2], "a card, inline"])] == [
        CARDS[2],
        "a card, inline",
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "line 1 is not JSON"),
        (b'{"text": "a"}\n{"txt": "b"}\n', "line 2 has no text"),
        (b'["a"]', "line 1 has no text"),
        (b"\xff\xfe", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_broken_examples_file_is_told_by_its_key(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    file = tmp_path / "cards.jsonl"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigError, match=problem) as caught:
        classifier(table("cards", examples_file=str(file)))

    assert caught.value.message.startswith("types.cards.examples_file: ")


def test_a_pattern_that_cannot_be_bounded_is_told_by_its_key() -> None:
    with pytest.raises(ConfigError, match=r"^types\.cards\.patterns\[1\]: .* linear time"):
        classifier(table("cards", patterns=["card", r"(?<!no )card"]))


def test_hostile_text_does_not_slow_patterns_down() -> None:
    slow = classifier(table("a", patterns=[r"(a+)+$", r"(\w+\s?)*!$"]))
    started = time.process_time()

    slow.classify(["a" * 1_000_000 + "?"] * 20)

    assert time.process_time() - started < 2


def test_patterns_keep_their_own_flags_when_they_are_searched_together() -> None:
    found = rules([("a", "(?i)refund"), ("b", "(?x) in voice  # the word"), ("c", "URGENT")])

    assert found.any is not None
    assert found.first("a REFUND") == ("a", "(?i)refund")
    assert found.first("an invoice") == ("b", "(?x) in voice  # the word")
    assert found.first("urgent") is None
    assert found.first("URGENT") == ("c", "URGENT")


def test_too_many_patterns_for_one_search_are_tried_one_by_one() -> None:
    found = rules([(f"t{at}", f"x{at}[a-z]{{1000}}") for at in range(30)])

    assert found.any is None
    assert found.first("x17" + "a" * 1000) == ("t17", "x17[a-z]{1000}")


def test_learning_twice_gives_the_same_head() -> None:
    vectors, labels = HashEmbedder().embed(CARDS + SUMS), [0] * 4 + [1] * 4

    one, other = fit(vectors, labels), fit(vectors, labels)

    assert np.array_equal(one.weights, other.weights)
    assert one.calibration == other.calibration


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=()), max_size=200), max_size=8))
def test_any_prompts_are_classified(two_types: Classifier, prompts: list[str]) -> None:
    found = two_types.classify(prompts)

    assert len(found) == len(prompts)
    assert all(one.task_type in ("general", "cards", "sums") and 0 <= one.confidence <= 1 for one in found)


def test_the_shipped_examples_tell_their_types_apart() -> None:
    """Every fourth example is asked, the others are what is learned from."""
    files = {
        path.stem: [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").strip().split("\n")]
        for path in EXAMPLES.glob("*.jsonl")
    }
    learned = {name: [text for at, text in enumerate(texts) if at % 4] for name, texts in files.items()}
    types = "".join(table(name, examples=texts) for name, texts in learned.items() if name != "general")
    shipped = parse(
        f'[types.general]\nchain = ["local"]\nexamples = {json.dumps(learned["general"])}\n{types}'
    )
    asked = [(name, text) for name, texts in files.items() for text in texts[::4]]

    found = Classifier.build(shipped, HashEmbedder()).classify([text for _, text in asked])

    assert sum(one.task_type == name for (name, _), one in zip(asked, found, strict=True)) / len(asked) > 0.8
