"""The mutations are of the code as it stands today; running them takes half an hour (``tests.soak.mutations``)."""

from pathlib import Path

import pytest

from tests.soak.mutations import MUTATIONS, Mutation, copy_of_the_tree


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_each_guard_that_a_mutation_takes_out_is_there(mutation: Mutation, tmp_path: Path) -> None:
    copy_of_the_tree(tmp_path, mutation)
