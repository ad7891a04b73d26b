"""Files that a release has written load in later versions: same predictions, training goes on."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tf_keras as keras

import qat_round as qr
from qat_round.pipeline.recipe_file import read_recipe
from qat_round.pipeline.recipe_run import run_recipe

RELEASES = pathlib.Path(__file__).parent / "releases"
FILES = sorted(
    str(path.relative_to(RELEASES))
    for ending in ("*.keras", "*.h5", "*.saved.zip")
    for path in RELEASES.glob(f"*/{ending}")
)
RUNS = sorted(str(path.relative_to(RELEASES)) for path in RELEASES.glob("*/run"))


@pytest.fixture
def saved(request, tmp_path):
    """A file, or an unpacked folder, that a release has written; and what was found then."""
    path = RELEASES / request.param
    found = np.load(path.parent / f"{path.name.split('.')[0]}.npz")
    if path.suffix == ".zip":
        zipfile.ZipFile(path).extractall(tmp_path)
        path = tmp_path
    return path, found


def test_every_release_has_every_kind():
    assert {name.split("/")[0] for name in FILES} == {"0.1.0"}
    kinds = (
        "adopted",
        "annealed",
        "annotated",
        "attention",
        "four_bit",
        "int16",
        "learned",
        "lstm",
    )
    expected = {f"0.1.0/{kind}{ending}" for kind in kinds for ending in (".keras", ".h5")}
    expected |= {f"0.1.0/{kind}.saved.zip" for kind in ("annealed", "four_bit", "learned")}
    assert set(FILES) == expected
    assert RUNS == ["0.1.0/run"]


@pytest.mark.parametrize("path", sorted(RELEASES.glob("*/names.json")), ids=lambda p: p.parent.name)
def test_registered_names_stay(path):
    names = json.loads(path.read_text())
    assert set(names["classes"]) <= set(keras.utils.get_custom_objects())
    assert set(names["rounders"]) <= set(qr.names())


@pytest.mark.parametrize("saved", FILES, indirect=True)
def test_predictions_are_bit_for_bit_those_of_the_release(saved):
    path, found = saved
    model = qr.load_model(path)
    np.testing.assert_array_equal(model(found["inputs"], training=False).numpy(), found["outputs"])
    if path.suffix == ".keras":  # training computes in floats: last bits depend on the processor
        batch = found["inputs"][:32], found["labels"][:32]
        losses = [float(model.train_on_batch(*batch)) for _ in range(2)]
        np.testing.assert_allclose(losses, found["losses"], rtol=1e-5)


def test_a_fresh_process_needs_nothing_but_the_import(tmp_path):
    """Keras's own `load_model`, after `import qat_round`."""
    program = (
        "import sys, numpy as np, qat_round, tf_keras\n"
        "for path in sys.argv[1:]:\n"
        "    found = np.load(path.replace('.keras', '.npz'))\n"
        "    outputs = tf_keras.models.load_model(path)(found['inputs'], training=False)\n"
        "    assert np.array_equal(outputs, found['outputs']), path\n"
    )
    paths = [str(RELEASES / name) for name in FILES if name.endswith(".keras")]
    command = [sys.executable, "-c", program, *paths]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.parametrize("run", RUNS)
def test_a_run_half_way_is_taken_up(run, tmp_path, monkeypatch):
    """Its state fits if the recipe, the data and the versions of all packages are the same."""
    folder = tmp_path / "run"
    shutil.copytree(RELEASES / run, folder)
    expected = json.loads((folder / "expected.json").read_text())
    (folder / "out").mkdir()
    shutil.move(folder / "net.training", folder / "out" / ".net.training")
    monkeypatch.chdir(folder)
    monkeypatch.setattr("qat_round.pipeline.recipe_run.versions", lambda: expected["versions"])
    lines: list[str] = []
    found = run_recipe(read_recipe("recipe.toml"), told=lines.append)
    assert [line[:7] for line in lines if line.startswith("epoch")] == ["epoch 2", "epoch 3"]
    assert found["history"][0] == expected["history"][0]
    losses = [[epoch["loss"] for epoch in each["history"]] for each in (found, expected)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    with np.load("data.npz") as data:
        outputs = keras.models.load_model("out/net.keras")(data["x"], training=False).numpy()
    np.testing.assert_allclose(outputs, expected["outputs"], atol=0.02)  # a step or two
