"""What runs overnight: memory does not grow, nothing is traced again."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest

from tests import scripts

pytestmark = pytest.mark.slow


def run(what: str) -> dict:
    done = subprocess.run(
        scripts.command("long_run", what),
        cwd=scripts.ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
        check=True,
    )
    return json.loads(done.stdout)


def slope(memory: list[float]) -> float:
    """MB for each entry, least squares, without the first half, in which caches fill."""
    late = memory[len(memory) // 2 :]
    return float(np.polyfit(np.arange(len(late)), late, 1)[0])


def test_memory_and_time_are_flat_over_2000_steps_and_nothing_is_traced_again():
    found = run("steps")
    spent = np.diff(found["times"])[1:]  # of 50 steps each, in seconds
    early, late = np.array_split(spent, 2)
    assert np.median(late) < 1.5 * np.median(early), spent  # slack for what else the machine does
    assert slope(found["memory"]) * 20 < 1.0, found["memory"]  # an entry is 50 steps
    assert found["traces"][0] == found["traces"][-1]


def test_models_that_are_gone_leave_only_what_tensorflow_keeps():
    """Keras's optimizer has a gradient of its own in each training graph (that of `all_reduce`).

    TensorFlow's registry of such gradients keeps the graph, of float and of stock models too.
    """
    ours, stock = run("models"), run("models-stock")
    assert ours["alive"] == 0
    assert slope(ours["memory"]) < slope(stock["memory"]) + 4.0, (ours["memory"], stock["memory"])
