"""Our book beside somebody else's."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from accounting.bills.second_book import Difference, compare, read
from broker.pricebook import book
from broker.pricebook import read as book_of

DAY = "2026-10-26"  # of the snapshot
OURS = book_of(
    "acme/a\t1970-01-01\t1000000,100000,1250000,2000000,3000000\nacme/b\t1970-01-01\t5,5,5,5,5\n"
    "x-ai/c\t1970-01-01\t2000000,2000000,2000000,2000000,4000000\n"
)


def test_each_figure_that_differs_is_listed() -> None:
    snapshot = {
        "prices": {
            "acme": {
                "a": {
                    "standard": [
                        {"start": None, "rates": {"input": 9, "output": 9}},
                        {
                            "start": "2026-01-01T00:00:00Z",
                            "rates": {"input": 1.5, "cache_read": 0.1, "output": 3},
                        },
                        {"start": "2026-12-01T00:00:00Z", "rates": {"input": 7, "output": 7}},
                    ]
                },
                "unknown": {"standard": [{"start": None, "rates": {"input": 1, "output": 1}}]},
            },
            "xai": {"c": {"standard": [{"start": None, "rates": {"input": 2, "output": 4}}]}},
        }
    }
    held = compare(OURS, read(json.dumps(snapshot), DAY), DAY)
    assert held.differences == (Difference("acme/a", "input", "1.0", "1.5"),)
    assert (held.both, held.agree, held.ours, held.theirs) == (2, 1, 1, 1)


def test_litellms_file_is_read_too() -> None:
    costs = {
        "sample_spec": {"input_cost_per_token": "what a token costs"},
        "acme/a": {
            "litellm_provider": "acme",
            "input_cost_per_token": 9.99999999999999e-07,
            "output_cost_per_token": 3.1e-06,
        },
        "image": {"litellm_provider": "acme", "output_cost_per_image": 1},
    }
    held = compare(OURS, read(json.dumps(costs), DAY), DAY)
    assert held.differences == (Difference("acme/a", "output", "3.0", "3.1"),)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "[]",
        "{}",
        '{"prices": {}}',
        '{"prices": []}',
        '{"prices": {"acme": {"a": []}}}',
        '{"prices": {"acme": {"a": {"standard": [{}]}}}}',
        '{"prices": {"acme": {"a": {"standard": [{"start": null, "rates": {"input": "x"}}]}}}}',
        '{"a": {"litellm_provider": "acme", "input_cost_per_token": "x"}}',
        '{"a": {"litellm_provider": "acme", "input_cost_per_token": [1]}}',
    ],
)
def test_what_is_no_book_is_told(said: str) -> None:
    with pytest.raises(ValueError, match=r"no JSON|no price book"):
        read(said, DAY)


def test_the_shipped_book_and_the_second_one_agree_on_what_models_read_and_write_at_openai_and_anthropic() -> (
    None
):
    other = read((files("model_prices") / "snapshot.json").read_text(encoding="utf-8"), DAY)
    held = compare(book(), other, DAY)
    assert held.both > 200
    assert held.agree >= held.both * 0.85
    assert len({one.model for one in held.differences}) == held.both - held.agree
    # A model that has no cache is read at the price of input with us and at nothing there.
    makers = {one.model.partition("/")[0] for one in held.differences if one.of in ("input", "output")}
    assert makers.isdisjoint({"openai", "anthropic", "x-ai"})
