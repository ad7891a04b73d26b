"""Training that is killed and taken up ends as training in one go."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import qat_round as qr
from qat_round.files.data_files import read_data

ROOT = pathlib.Path(qr.__file__).parent.parent


# Interrupted


KILLING = """
import os, signal, sys
sys.argv = ["qat-round"]
moment = int(os.environ["KILL_AT"])
import qat_round.export.tflite as export
replace, count = os.replace, [0]
def counted(*paths):
    count[0] += 1
    if count[0] == moment:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*paths)
os.replace = counted
from qat_round.cli.main import main
sys.exit(main(["run", "recipe.toml"]))
"""


@pytest.mark.slow
def test_a_run_killed_at_five_moments_ends_with_the_same_model(here, tmp_path, monkeypatch):
    whole = (here / "out" / "net_int8.tflite").read_bytes()
    for name in ("net.keras", "data.npz", "recipe.toml"):
        (tmp_path / name).write_bytes((here / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    # one replacement a run is survived at most: each run is killed at its first, second, ... file
    for moment in (1, 2, 2, 3, 4):
        done = subprocess.run(
            [sys.executable, "-c", KILLING],
            env={**env, "KILL_AT": str(moment)},
            capture_output=True,
        )
        assert done.returncode == -9, done.stderr[-500:]
    again = subprocess.run([sys.executable, "-m", "qat_round", "run", "recipe.toml"], env=env)
    assert again.returncode == 0
    assert (tmp_path / "out" / "net_int8.tflite").read_bytes() == whole
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        p.name for p in (here / "out").iterdir()
    )


def test_training_that_is_taken_up_ends_as_training_at_once(here, tmp_path, monkeypatch):
    from qat_round.training import epochs

    data = read_data("data.npz").part(0, 128)
    settings = {"epochs": 2, "state": tmp_path / "state", "fingerprint": "same"}

    def make():
        return qr.load_model("out/net_int8.keras", compile=False)

    whole, _ = epochs.train_epochs(make, data, **{**settings, "state": None})
    killed = iter([False, True])
    save = epochs._save

    def save_or_die(*given):
        if next(killed):
            raise KeyboardInterrupt
        save(*given)

    with monkeypatch.context() as patch:
        patch.setattr(epochs, "_save", save_or_die)
        with pytest.raises(KeyboardInterrupt):
            epochs.train_epochs(make, data, **settings)
    resumed, history = epochs.train_epochs(make, data, **settings)
    assert len(history) == 2
    assert all(map(np.array_equal, whole.get_weights(), resumed.get_weights()))


def test_a_damaged_state_file_is_not_used(here, tmp_path):
    from qat_round.training.epochs import _load

    (tmp_path / "state").write_bytes(b"PK broken")
    assert _load(tmp_path / "state", "same") is None


@pytest.mark.parametrize("about", ['{"history": []}', "[]", '{"fingerprint": "same"}', "3"])
def test_a_state_file_of_something_else_is_not_used(about, tmp_path):
    from qat_round.training.epochs import _load

    np.savez(tmp_path / "state.npz", about=np.array(about))
    assert _load(tmp_path / "state.npz", "same") is None
