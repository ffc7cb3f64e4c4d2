"""The soak in short: the same fleet, nemesis and checker as `make soak`, for a minute and a half."""

from pathlib import Path

import pytest

from tests.soak.check import check
from tests.soak.evidence import gather
from tests.soak.run import Size, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_every_invariant_holds_under_a_nemesis(tmp_path: Path) -> None:
    run(tmp_path / "soak", Size(tasks=350, minutes=1.0, seed=11), print)
    verdict = check(gather(tmp_path / "soak"))
    print("\n".join(verdict.facts))
    assert not verdict.broken
