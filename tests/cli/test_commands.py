"""The command line: every command once on a real model."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import qat_round as qr
from qat_round.cli.main import main
from qat_round.files.data_files import read_data
from tests.cli.invoke import as_json, told, without
from tests.models import nets

ROOT = pathlib.Path(qr.__file__).parent.parent


def in_new_process(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


# What it does


def test_help_and_wrong_use_need_no_tensorflow():
    script = (
        "import sys; sys.argv = ['qat-round'];"
        "from qat_round.cli.main import main;"
        "assert main(['--help']) == 0 and main(['run', '--help']) == 0 and main(['frob']) == 2;"
        "assert 'tensorflow' not in sys.modules and 'numpy' not in sys.modules"
    )
    in_new_process(script)


def test_the_list_of_methods_needs_no_tensorflow():
    script = (
        "import sys; sys.argv = ['qat-round'];"
        "from qat_round.cli.main import main;"
        "assert main(['methods']) == 0 and main(['methods', '--json']) == 0;"
        "assert 'tensorflow' not in sys.modules and 'tf_keras' not in sys.modules"
    )
    in_new_process(script)


@pytest.mark.slow
def test_the_command_line_sees_the_same_names_as_an_import():
    script = (
        "import sys; sys.argv = ['qat-round']; import qat_round as qr;"
        "assert callable(qr.calibrate) and callable(qr.coverage) and callable(qr.adopt);"
        "assert set(qr.__all__) <= set(dir(qr)); assert qr.names()[0] == 'sigmoid'"
    )
    in_new_process(script)


def test_methods_lists_every_rounder(capsys):
    found = as_json(capsys, "methods")
    assert list(found["methods"]) == qr.names()


def test_methods_draws_curves(here, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["methods", "--curves", str(tmp_path / "curves.svg")]) == 0
    drawn = (tmp_path / "curves.svg").read_text()
    assert "<svg" in drawn
    assert drawn.count("gradient") >= len(qr.names())


def test_drawing_without_matplotlib_names_the_extra(here, capsys, monkeypatch):
    without(monkeypatch, "matplotlib")
    assert main(["methods", "--curves", "curves.svg"]) == 2
    assert "pip install 'qat_round[curves]'" in told(capsys)
    assert not (here / "curves.svg").exists()


def test_run_writes_files_that_pass_and_a_manifest_with_their_hashes(here):
    manifest = json.loads((here / "out" / "net_int8.json").read_text())
    assert manifest["ok"]
    assert manifest["parity"]["max_steps"] <= 1.001
    assert set(manifest["files"]) == {"keras", "tflite", "c", "h"}
    for file in manifest["files"].values():
        assert recipe_hash(here / "out" / file["name"]) == file["sha256"]
    assert manifest["recipe"]["seed"] == 0
    assert manifest["versions"]["tensorflow"]


def recipe_hash(path: pathlib.Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_coverage(here, capsys):
    found = as_json(capsys, "coverage", "net.keras")
    assert found["ok"]
    assert {row["name"] for row in found["layers"]} >= {"conv", "bn", "classes"}


def test_coverage_fails_where_a_layer_stays_in_float(here, capsys):
    found = as_json(capsys, "coverage", "net.keras", "--float-layer", "classes", status=1)
    assert not found["ok"]


def test_verify_passes_for_the_models_own_file(here, capsys):
    paths = ("out/net_int8.keras", "out/net_int8.tflite")
    found = as_json(capsys, "verify", *paths, "--data", "data.npz", "--layers")
    assert found["ok"]
    assert found["samples"] == 384
    assert found["layers"]


@pytest.mark.parametrize("kernels", ["builtin", "reference"])
def test_verify_runs_other_kernels_as_which_the_model_computes(here, capsys, kernels):
    paths = ("out/net_int8.keras", "out/net_int8.tflite")
    found = as_json(capsys, "verify", *paths, "--data", "data.npz", "--kernels", kernels)
    assert found["max_steps"] == 0.0
    model = qr.load_model(paths[0], compile=False)
    images = np.load("data.npz")["x"]
    default = qr.verify_tflite(np.asarray(model(images)), paths[1], images, kernels=kernels)
    assert default.outputs[0].same < 1.0  # they round twice


def test_verify_refuses_unknown_kernels(here, capsys):
    paths = ["out/net_int8.keras", "out/net_int8.tflite"]
    assert main(["verify", *paths, "--data", "data.npz", "--kernels", "fast"]) == 2
    assert "'fast' is not one of 'default', 'builtin', 'reference', 'micro'" in told(capsys)


def test_verify_fails_for_another_models_file(here, capsys):
    other = qr.calibrate(qr.quantize_model(nets.conv_net()), nets.pictures(64, seed=3)[0])
    qr.export_tflite(other, "other.tflite", io="int8")
    status = main(["verify", "out/net_int8.keras", "other.tflite", "--data", "data.npz"])
    assert status == 1
    assert "does not answer" in told(capsys)


def test_inspect_counts_operators_and_bytes(here, capsys):
    found = as_json(capsys, "inspect", "out/net_int8.tflite")
    assert found["operators"]["CONV_2D"] == 2
    assert found["file_bytes"] == os.path.getsize("out/net_int8.tflite")
    assert main(["inspect", "out/net_int8.tflite", "--tensors"]) == 0


def test_quantize_calibrate_train_export_verify_step_by_step(here, capsys):
    steps = (
        ["quantize", "net.keras", "-o", "q.keras", "--rounder", "sine", "--weight-bits", "4"],
        ["calibrate", "q.keras", "-o", "c.keras", "--data", "data.npz"],
        ["train", "c.keras", "-o", "t.keras", "--data", "data.npz", "--epochs", "1"],
        ["export", "t.keras", "-o", "t.tflite", "--io", "uint8", "--batch-size", "1", "--c-array"],
        ["verify", "t.keras", "t.tflite", "--data", "data.npz", "--samples", "64"],
    )
    for argv in steps:
        assert main(argv) == 0, capsys.readouterr().err
    found = as_json(capsys, "inspect", "t.tflite")
    assert found["inputs"][0]["type"] == "UINT8"
    assert found["inputs"][0]["shape"][0] == 1
    assert found["tensor_types"]["INT4"] == 3
    assert not list(here.glob(".t*"))  # no state and no part of a file is left
    manifest = json.loads((here / "t.tflite.json").read_text())
    assert set(manifest["files"]) == {"tflite", "c", "h"}
    for file in manifest["files"].values():
        assert recipe_hash(here / file["name"]) == file["sha256"]
    assert manifest["sources"] == {"model": recipe_hash(here / "t.keras")}
    assert manifest["settings"] == {"io": "uint8", "batch_size": 1, "c_array": True}
    assert {"tensor": "conv/kernel", "bits": 4, "rounder": "sine"}.items() <= next(
        row for row in manifest["tensors"] if row["tensor"] == "conv/kernel"
    ).items()


def test_a_page_of_a_model_and_its_file_needs_no_run(here, capsys):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    pair = ("out/net_int8.keras", "out/net_int8.tflite")
    found = as_json(capsys, "report", *pair, "--data", "data.npz", "-o", "page.html")
    assert found["ok"]
    assert found["figures"]["accuracy_device"] > 0.5
    page = (here / "page.html").read_text()
    assert "accuracy device" in page
    assert recipe_hash(here / "out/net_int8.tflite") in page


def test_export_names_and_aligns_the_array_and_says_what_the_file_is(here, capsys):
    argv = ["export", "out/net_int8.keras", "-o", "n.tflite", "--c-array", "--c-name", "digits"]
    argv += ["--alignment", "64", "--metadata", "author=us", "--metadata", "version=1=b"]
    found = as_json(capsys, *argv)
    assert found["c"] == ["n.c", "n.h"]
    source = (here / "n.c").read_text()
    assert "aligned(64)" in source
    assert "const unsigned char digits[" in source
    said = as_json(capsys, "inspect", "n.tflite")["metadata"]
    assert (said["name"], said["author"], said["version"]) == ("n", "us", "1=b")


def test_activations_below_8_bits_are_lifted_where_that_is_asked_for(here, capsys):
    argv = ["quantize", "net.keras", "-o", "low.keras", "--activation-bits", "4"]
    assert main(argv) == 0
    assert main(["calibrate", "low.keras", "-o", "low.keras", "--data", "data.npz"]) == 0
    assert main(["export", "low.keras", "-o", "low.tflite"]) == 2
    found = as_json(capsys, "export", "low.keras", "-o", "low.tflite", "--lift-activations")
    assert "written with 8 bits" in found["notes"][0]
    argv = ["verify", "low.keras", "low.tflite", "--data", "data.npz", "--samples", "64"]
    assert as_json(capsys, *argv)["ok"]


def test_a_float_model_is_exported_in_float16(here, capsys):
    assert main(["export", "net.keras", "-o", "half.tflite", "--float16"]) == 0
    assert as_json(capsys, "inspect", "half.tflite")["tensor_types"]["FLOAT16"] >= 3


def test_data_may_come_from_a_function_or_npy_files(here, capsys):
    (here / "my_data.py").write_text(
        "import numpy as np\ndef load():\n    d = np.load('data.npz'); return d['x'], d['y']\n"
    )
    x = read_data("data.npz").inputs
    np.save("x.npy", x[:8])
    assert np.array_equal(read_data("my_data:load").inputs, x)
    assert len(read_data("x.npy").inputs) == 8


def test_an_image_folder_gives_pixels_and_classes(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for label, grey in (("cats", 0), ("dogs", 255)):
        (tmp_path / label).mkdir()
        image.new("L", (6, 6), grey).save(tmp_path / label / "a.png")
    data = read_data(tmp_path, shape=(4, 4, 1))
    assert data.classes == ("cats", "dogs")
    assert data.labels.tolist() == [0, 1]
    assert data.inputs.shape == (2, 4, 4, 1)
    assert data.inputs.max() == 1.0
    other = read_data(tmp_path, shape=(4, 4, 1), scale=1 / 127.5, offset=-1.0)
    assert (other.inputs.min(), other.inputs.max()) == (-1.0, 1.0)
    assert other.hash != data.hash


@pytest.mark.slow
def test_json_is_all_that_is_printed_when_piped(here):
    command = [sys.executable, "-m", "qat_round", "export", "out/net_int8.keras", "-o", "p.tflite"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--json"], env=env, capture_output=True, text=True)
    assert json.loads(done.stdout)["bytes"] > 1000
    assert done.stderr == ""


@pytest.mark.slow
def test_no_module_of_an_extra_is_imported_with_the_package():
    script = (
        "import sys, qat_round;"
        "extras = {'jinja2', 'tflite_micro', 'ethosu', 'tf2onnx', 'onnxruntime'};"
        "assert not extras & set(sys.modules), extras & set(sys.modules)"
    )
    in_new_process(script)
