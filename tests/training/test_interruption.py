"""Training that is killed and started again ends with the weights of one that was not."""

from __future__ import annotations

import pathlib
import random
import subprocess
import time

import numpy as np
import pytest

from tests import scripts

KILLS = 20  # of the long test; the short one has two


def start(folder: pathlib.Path) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(scripts.command("interrupted", str(folder)), cwd=scripts.ROOT, **pipes)


def finish(folder: pathlib.Path) -> dict:
    process = start(folder)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told[-2000:]
    with np.load(folder / "done.npz") as found:
        return dict(found)


def kill_after(folder: pathlib.Path, epoch: int, seconds: float) -> bool:
    """Kills the training some time after an epoch's end; whether it was still running."""
    process = start(folder)
    for line in process.stdout:
        if line.startswith("epoch") and int(line.split()[1]) >= epoch:
            break
    time.sleep(seconds)
    running = process.poll() is None
    process.kill()
    process.communicate()
    return running


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("whole"))


def check_resumes(folder: pathlib.Path, whole: dict) -> None:
    resumed = finish(folder)
    assert 0.0 < float(whole["frozen"]) < 1.0
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, name)


def test_training_that_is_killed_resumes_bit_for_bit(whole, tmp_path):
    """Annealed knob, learned ranges, frozen weights and random rounding included."""
    assert kill_after(tmp_path, epoch=3, seconds=0.0)
    check_resumes(tmp_path, whole)


@pytest.mark.slow
def test_training_that_is_killed_at_random_moments_resumes_bit_for_bit(whole, tmp_path):
    """Kills at moments drawn over the epochs, some while a backup is being written."""
    draws = random.Random(8)
    kills = 0
    for number in range(KILLS // 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        kills += kill_after(folder, draws.randrange(1, 4), draws.random() * 0.2)
        kills += kill_after(folder, draws.randrange(4, 8), draws.random() * 0.2)
        check_resumes(folder, whole)
    assert kills >= KILLS // 2
