"""`qat-round init` and `run` on the demo's net: in one go, after kill -9 and Ctrl-C."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import qat_round as qr
from qat_round.cli.main import main

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
mlxtend = pytest.importorskip("mlxtend")

ROOT = pathlib.Path(qr.__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'examples'}"}
ENDINGS = (".keras", ".tflite", ".c", ".h", ".json", ".html")
MOMENTS = (".training", ".keras", ".c", ".html", ".json")
"""Killed when the first file of this ending is about to get its name."""

KILLING = """
import os, signal, sys
sys.argv = ["qat-round"]
replace = os.replace
def killing(source, target, **options):
    if str(target).endswith(os.environ["KILL_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target, **options)
os.replace = killing
from qat_round.cli.main import main
sys.exit(main(["run", "recipe.toml"]))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the demo's float net, its images, and what `init` and `run` made of them."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples"))
        patch.chdir(folder)
        import mnist

        images = mnist.load_images()
        few = images._replace(train=images.train[:640], train_digits=images.train_digits[:640])
        model = mnist.train(mnist.float_model(), few, 2, mnist.FLOAT_RATE)
        mnist.keep_float(model, few, folder)
        assert main(["init", "demo.keras", "--data", "digits.npz"]) == 0
        recipe = pathlib.Path("recipe.toml")
        recipe.write_text(recipe.read_text().replace("epochs = 3", "epochs = 2"))
    assert run_alone(folder) == 0
    return folder


def run_alone(folder: pathlib.Path) -> int:
    """In a process of its own, as a user's: what other tests did to TensorFlow is not in it."""
    command = [sys.executable, "-m", "qat_round", "run", "recipe.toml"]
    return subprocess.run(command, env=ENVIRONMENT, cwd=folder).returncode


@pytest.fixture
def again(place, tmp_path, monkeypatch):
    """The same before `run`."""
    for name in ("demo.keras", "digits.npz", "recipe.toml"):
        (tmp_path / name).write_bytes((place / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def hears_ctrl_c() -> None:
    """A shell starts what runs in the background deaf to Ctrl-C, and children inherit it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def made(folder: pathlib.Path) -> dict[str, bytes]:
    """All but the state of training, which stays for the next `run`."""
    files = sorted((folder / "out").iterdir())
    return {p.name: p.read_bytes() for p in files if p.name != ".demo_int8.training"}


def test_one_go_gives_all_files(place):
    assert sorted(made(place)) == sorted(f"demo_int8{ending}" for ending in ENDINGS)
    manifest = json.loads(made(place)["demo_int8.json"])
    assert manifest["ok"]
    assert set(manifest["files"]) == {"keras", "tflite", "c", "h", "report"}
    assert manifest["files"]["tflite"]["sha256"] in made(place)["demo_int8.h"].decode()


def test_killed_at_five_moments_it_ends_with_the_same_model(place, again):
    whole = made(place)
    for moment in MOMENTS:
        done = subprocess.run(
            [sys.executable, "-c", KILLING],
            env={**ENVIRONMENT, "KILL_AT": moment},
            capture_output=True,
        )
        assert done.returncode == -signal.SIGKILL, (moment, done.stderr[-500:])
        for name, content in made(again).items():  # what has its name is whole
            if name.endswith((".tflite", ".c", ".h")):
                assert content == whole[name], (moment, name)
    assert run_alone(again) == 0
    found = made(again)
    assert list(found) == list(whole)
    for name in ("demo_int8.tflite", "demo_int8.c", "demo_int8.h"):
        assert found[name] == whole[name]
    manifests = [json.loads(files["demo_int8.json"]) for files in (found, whole)]
    for key in ("ok", "recipe", "sources", "figures", "parity", "history", "layers"):
        assert manifests[0][key] == manifests[1][key], key


def test_ctrl_c_while_training_is_one_line_and_leaves_no_half_file(again):
    command = [sys.executable, "-m", "qat_round", "run", "recipe.toml"]
    run = subprocess.Popen(
        command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, preexec_fn=hears_ctrl_c
    )
    state = again / "out" / ".demo_int8.training"
    while not state.exists() and run.poll() is None:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate()
    assert run.returncode == 130
    assert said == "qat-round: interrupted; what was finished is whole.\n"
    assert [p.name for p in (again / "out").iterdir()] == [state.name]
