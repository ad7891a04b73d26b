"""Random graphs of every layer that has an integer operator: equal in intake, near in the file."""

from __future__ import annotations

import pytest

from tests.models.random_graphs import figures

ONE = 1.001  # a step, with the slack of a float comparison
QUICK = (11, 18, 20)


def check(seed):
    found = figures(seed)
    assert found["intake differs by"] <= 1e-5
    assert found["float operators"] == ""
    assert found["operators furthest"] <= ONE
    return found


@pytest.mark.parametrize("seed", QUICK)
def test_a_random_graph_is_integer_and_near(seed):
    found = check(seed)
    assert found["furthest"] <= 2.0 * ONE
    assert found["same %"] >= 90.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(23))
def test_random_graphs_are_integer(seed):
    check(seed)
