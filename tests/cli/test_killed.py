"""kill -9 at drawn moments of export, calibration and `run`: no file is half written."""

from __future__ import annotations

import json
import pathlib
import random
import subprocess
from collections.abc import Callable

import pytest

from tests import scripts
from tests.scripts import small_run

KILLS, TRIES = 20, 60  # a kill that comes after the end is not counted
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """`work(argv, seconds)` runs the command line in a child that is killed after some seconds."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(scripts.command("killed"), cwd=scripts.ROOT, text=True, **pipes)

    def ask(argv: list[str], seconds: float | None = None) -> dict:
        process.stdin.write(json.dumps({"argv": argv, "seconds": seconds}) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield ask
    process.stdin.close()
    process.wait(60)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    small_run.make(folder, folder / "out")
    return folder


def shown(folder: pathlib.Path) -> dict[str, bytes]:
    """The files that a user sees, and what they say."""
    seen = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return {path.name: small_run.content(path) for path in seen}


def check_kills(work: Callable, argv: list[str], folder: pathlib.Path) -> int:
    """Kills a command that writes a file or two; how many of the kills found it running."""
    took = [work(argv) for _ in range(2)]  # the second one has what the system keeps of files
    assert took[1]["status"] == 0
    whole, within = shown(folder), took[1]["seconds"]
    draws, kills = random.Random(argv[0]), 0
    for number in range(TRIES):
        for path in folder.iterdir():
            path.unlink()
        after = draws.random() * within
        killed = work(argv, after)["status"] == -9
        kills, within = kills + killed, within if killed else min(within, after)
        assert shown(folder).items() <= whole.items()
        if number % 5 == 0:
            assert work(argv)["status"] == 0
            assert shown(folder) == whole
        if kills == KILLS:
            break
    return kills


def test_calibration_that_is_killed_leaves_no_half_file(work, place, tmp_path):
    data = ["--data", str(place / "data.npz")]
    argv = ["calibrate", str(place / "quantized.keras"), "-o", str(tmp_path / "c.keras"), *data]
    assert check_kills(work, argv, tmp_path) == KILLS


def test_an_export_that_is_killed_leaves_no_half_file(work, place, tmp_path):
    argv = ["export", str(place / "calibrated.keras"), "-o", str(tmp_path / "net.tflite")]
    assert check_kills(work, argv, tmp_path) == KILLS


def test_a_run_that_is_killed_ends_with_the_same_files(work, place, tmp_path):
    """Each is taken up until it ends; what it leaves on the way is whole."""
    draws = random.Random("run")
    argv = ["run", str(place / "recipe.toml")]
    took = work(argv)
    assert took["status"] == 0
    whole, kills, ended = shown(place / "out"), 0, 0
    while kills < KILLS:
        small_run.write_recipe(place, out := tmp_path / str(ended))
        out.mkdir()
        for _ in range(5):
            kills += work(argv, draws.random() * took["seconds"])["status"] == -9
            check_same(shown(out), whole, allowed_missing=True)
        assert work(argv)["status"] == 0
        check_same(shown(out), whole, allowed_missing=False)
        assert [p.name for p in out.iterdir() if p.name.startswith(".")] == [".net.training"]
        ended += 1


def check_same(found: dict[str, bytes], whole: dict[str, bytes], allowed_missing: bool) -> None:
    """The manifest names its folder; all else is the same bytes."""
    assert set(found) <= set(whole) if allowed_missing else set(found) == set(whole)
    for name in set(found) - {"net.json"}:
        assert found[name] == whole[name], name
    if "net.json" in found:
        assert json.loads(found["net.json"])["history"] == json.loads(whole["net.json"])["history"]
