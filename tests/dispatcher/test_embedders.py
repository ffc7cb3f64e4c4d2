"""One suite over every embedder of the table."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from broker.errors import ConfigError
from dispatcher.embedding import EMBEDDERS, Embedder, HashEmbedder, embedder, installed

TEXTS = ["my card has not arrived", "where is my bank card?", "a recipe for apple pie", "ÄÖÜ 漢字 🙂"]


@pytest.fixture(params=EMBEDDERS, scope="module")
def model(request: pytest.FixtureRequest) -> Embedder:
    if request.param != "hash" and not installed():
        pytest.skip("wordllama is not installed")
    return embedder(request.param)


def test_one_normalised_row_of_float32_a_text_in_order(model: Embedder) -> None:
    rows = model.embed(TEXTS)

    assert rows.shape == (len(TEXTS), model.dimensions)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    for row, text in zip(rows, TEXTS, strict=True):
        np.testing.assert_allclose(row, model.embed([text])[0], atol=1e-6)


def test_no_texts_are_no_rows(model: Embedder) -> None:
    assert model.embed([]).shape == (0, model.dimensions)


def test_a_text_without_words_is_a_row_of_zeros(model: Embedder) -> None:
    assert not model.embed([""]).any()


def test_like_texts_lie_nearer_than_unlike_ones(model: Embedder) -> None:
    card, bank_card, pie, _ = model.embed(TEXTS)

    assert card @ bank_card > card @ pie


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\x00", "x" * 1_000_000, "\u202e", "🙂" * 1000])
def test_any_text_gives_finite_numbers(model: Embedder, text: str) -> None:
    assert np.isfinite(model.embed([text])).all()


def test_of_a_long_text_its_start_and_end_count(model: Embedder) -> None:
    instruction, body = "Summarise this contract in three sentences. " * 6, "card transfer bank " * 500

    one, other = model.embed([instruction + body, instruction + "apple pie flour " * 500])

    assert one @ other > 0.5


def test_another_process_gives_the_same_rows(model: Embedder) -> None:
    name = "joined" if "+" in model.name else model.name.partition("-")[0]
    code = f"from dispatcher.embedding import embedder; print(embedder({name!r}).embed(['my card']).sum())"

    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )

    assert float(found.stdout) == pytest.approx(float(model.embed(["my card"]).sum()), abs=1e-5)
    assert found.stderr == ""


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="auto, joined, wordllama, hash"):
        embedder("bert")


def test_a_missing_package_is_told_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)

    with pytest.raises(ConfigError, match="pip install --no-deps wordllama tokenizers"):
        embedder("wordllama")


def test_auto_falls_back_to_the_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.embedding.installed", lambda: False)

    assert isinstance(embedder(), HashEmbedder)
