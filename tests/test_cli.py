"""The command line: every command once on a real model, and every kind of wrong use."""

from __future__ import annotations

import io
import json
import os
import pathlib
import subprocess
import sys

import nets
import numpy as np
import pytest

import qat_round as qr
from qat_round.cli.main import main
from qat_round.files.data_files import read_data
from qat_round.pipeline import recipe_schema
from qat_round.pipeline.recipe_file import RecipeError, read_recipe

ROOT = pathlib.Path(qr.__file__).parent.parent


@pytest.fixture(scope="module")
def place(tmp_path_factory, float_net, pictures):
    """A folder with a float model, data, a recipe for one epoch, and what `run` made of it."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        float_net.save("net.keras")
        np.savez("data.npz", x=pictures[0], y=pictures[1])
        assert main(["init", "net.keras"]) == 0
        text = pathlib.Path("recipe.toml").read_text()
        text = text.replace("epochs = 3", "epochs = 2").replace("html = true", "html = false")
        pathlib.Path("recipe.toml").write_text(text)
        assert main(["run", "recipe.toml"]) == 0
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def told(capsys) -> str:
    """The one line on standard error."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert error.startswith("qat-round: ")
    return error


def without(monkeypatch, *modules: str) -> None:
    """As if packages were not installed."""
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in modules else found(name, *a)
    )


def as_json(capsys, *argv: str, status: int = 0) -> dict:
    capsys.readouterr()
    assert main([*argv, "--json"]) == status
    return json.loads(capsys.readouterr().out)


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


# What it refuses: one line, status 2


WRONG = {
    "a missing model": (["coverage", "nix.keras"], "nix.keras"),
    "a missing file": (["inspect", "nix.tflite"], "nix.tflite"),
    "a missing recipe": (["run", "nix.toml"], "qat-round init"),
    "an unknown rounder": (["quantize", "net.keras", "-o", "q.keras", "--rounder", "sin"], "sine"),
    "an unknown option": (["inspect", "--frob"], "--frob"),
    "a missing array": (
        ["calibrate", "out/net_int8.keras", "-o", "c.keras", "--data", "data.npz", "--inputs", "z"],
        "'z'",
    ),
    "missing data": (
        ["calibrate", "out/net_int8.keras", "-o", "c.keras", "--data", "nix.npz"],
        "nix.npz",
    ),
    "a missing module": (
        ["calibrate", "out/net_int8.keras", "-o", "c.keras", "--data", "nix:load"],
        "nix",
    ),
    "a float model": (
        ["verify", "net.keras", "out/net_int8.tflite", "--data", "data.npz"],
        "quant",
    ),
    "a wrong ending": (["quantize", "net.keras", "-o", "q.tflite"], ".keras"),
    "a wrong io": (["export", "out/net_int8.keras", "-o", "q.tflite", "--io", "int16"], "int8"),
    "a C array of ONNX": (["export", "out/net_int8.keras", "-o", "q.onnx", "--c-array"], ".onnx"),
    "a recipe that is there": (["init", "net.keras"], "--force"),
    "io of ONNX": (
        ["export", "out/net_int8.keras", "-o", "q.onnx", "--io", "int8"],
        "--io would do nothing",
    ),
    "io of float16": (
        ["export", "net.keras", "-o", "q.tflite", "--float16", "--io", "int8"],
        "--io would do nothing",
    ),
    "lifting in float16": (
        ["export", "net.keras", "-o", "q.tflite", "--float16", "--lift-activations"],
        "--lift-activations would",
    ),
    "an array's name without array": (
        ["export", "out/net_int8.keras", "-o", "q.tflite", "--c-name", "q"],
        "--c-name would",
    ),
    "a name that C does not take": (
        ["export", "out/net_int8.keras", "-o", "q.tflite", "--c-array", "--c-name", "a-b"],
        "'a_b'",
    ),
    "unknown metadata": (
        ["export", "out/net_int8.keras", "-o", "q.tflite", "--metadata", "nam=x"],
        "'nam'",
    ),
    "a recipe and a rounder": (
        ["quantize", "net.keras", "-o", "q.keras", "--recipe", "recipe.toml", "--rounder", "sine"],
        "--rounder would",
    ),
    "a recipe and a layer": (
        ["coverage", "net.keras", "--recipe", "recipe.toml", "--float-layer", "bn"],
        "--float-layer would",
    ),
    "a scale of arrays": (
        ["calibrate", "out/net_int8.keras", "-o", "c.keras", "--data", "data.npz", "--scale", "2"],
        "leave them out",
    ),
    "a model and its file without data": (
        ["report", "out/net_int8.keras", "out/net_int8.tflite"],
        "--data",
    ),
    "a model without its file": (["report", "a.keras", "--data", "data.npz"], "two files"),
    "manifests and an NPU": (["report", "out/net_int8.json", "--micro"], "--micro would"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_ends_with_status_2_and_one_line(case, here, capsys):
    argv, word = WRONG[case]
    before = sorted(here.rglob("*"))
    assert main(argv) == 2
    assert word in told(capsys)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    "content",
    [b"", b"TFL3", b"\x1c\0\0\0TFL3" + bytes(range(256)) * 4, os.urandom(512)],
    ids=["empty", "short", "damaged", "random"],
)
def test_a_broken_file_ends_with_status_2(content, here, capsys):
    (here / "broken.tflite").write_bytes(content)
    assert main(["inspect", "broken.tflite"]) == 2
    assert ".tflite" in told(capsys)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_cut_short_ends_with_status_2(share, here, capsys):
    content = (here / "out" / "net_int8.tflite").read_bytes()
    (here / "cut.tflite").write_bytes(content[: int(len(content) * share)])
    assert main(["inspect", "cut.tflite"]) == 2
    assert "damaged" in told(capsys)


def test_a_broken_npz_is_named(here, capsys):
    (here / "cut.npz").write_bytes((here / "data.npz").read_bytes()[:1000])
    argv = ["calibrate", "out/net_int8.keras", "-o", "c2.keras", "--data", "cut.npz"]
    assert main(argv) == 2
    assert "cut.npz" in told(capsys)
    assert not (here / "c2.keras").exists()


def test_broken_images_are_named_and_counted(tmp_path):
    for number in range(7):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"7 of 7 images .*0\.png.* and 2 more"):
        read_data(tmp_path, shape=(4, 4, 1))


def test_a_folder_with_a_broken_image_is_refused_before_training(here, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "ones").mkdir()
    for number in range(3):
        image.new("L", (12, 12), 40 * number).save(tmp_path / "ones" / f"{number}.png")
    whole = (tmp_path / "ones" / "1.png").read_bytes()
    (tmp_path / "ones" / "1.png").write_bytes(whole[: len(whole) // 2])
    argv = ["train", "out/net_int8.keras", "-o", "w.keras", "--data", str(tmp_path)]
    assert main(argv) == 2
    said = told(capsys)
    assert "1 of 3 images cannot be read" in said
    assert "1.png" in said
    assert not (here / "w.keras").exists()


def test_labels_that_do_not_fit_are_refused_before_training(here, capsys):
    data = np.load("data.npz")
    np.savez("wrong.npz", x=data["x"], y=data["y"] + 5)
    argv = ["train", "out/net_int8.keras", "-o", "w.keras", "--data", "wrong.npz"]
    assert main(argv) == 2
    assert "0 to 9" in told(capsys)


def test_data_without_labels_is_refused_for_training(here, capsys):
    np.savez("plain.npz", x=np.load("data.npz")["x"])
    assert main(["train", "out/net_int8.keras", "-o", "w.keras", "--data", "plain.npz"]) == 2
    assert "--labels" in told(capsys)


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/proc"])  # missing; not even root may write
def test_a_folder_that_cannot_be_written_is_named(folder, here, capsys):
    argv = ["export", "out/net_int8.keras", "-o", f"{folder}/model.tflite"]
    assert main(argv) == 2
    assert repr(folder) in told(capsys)


def test_a_full_disk_leaves_the_old_file(here, capsys, monkeypatch):
    (here / "full.tflite").write_bytes(b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["export", "out/net_int8.keras", "-o", "full.tflite"]) == 2
    assert "No space left" in told(capsys)
    assert (here / "full.tflite").read_bytes() == b"old"
    assert not list(here.glob(".full*"))


def test_ctrl_c_says_so_and_leaves_nothing_half_written(here, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    assert main(["export", "out/net_int8.keras", "-o", "stopped.tflite"]) == 130
    assert "interrupted" in told(capsys)
    assert not list(here.glob("*stopped*"))


def test_an_unexpected_error_shows_its_traceback_with_debug_only(here, capsys, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("deep inside")

    monkeypatch.setattr("qat_round.files.inspect.inspected", broken)
    assert main(["inspect", "out/net_int8.tflite"]) == 2
    assert "deep inside" in told(capsys)
    with pytest.raises(RuntimeError, match="deep inside"):
        main(["inspect", "out/net_int8.tflite", "--debug"])


def test_an_extra_that_is_not_installed_is_named(here, capsys, monkeypatch):
    without(monkeypatch, "jinja2")
    assert main(["report", "out/net_int8.json"]) == 2
    assert "pip install 'qat_round[report]'" in told(capsys)


# Recipes


GOOD = '[model]\npath = "net.keras"\n\n[data]\ntrain = "data.npz"\n\n[quantize]\nrounder = "sine"\n'


def recipe(tmp_path, text: str) -> pathlib.Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_a_recipe_fills_in_defaults(tmp_path):
    found = read_recipe(recipe(tmp_path, GOOD))
    assert found.train == recipe_schema.TrainPart()
    assert found.quantize == {"rounder": "sine"}


BROKEN = {
    'seed = "x"\n': ("line 1", "whole number"),
    "seed = 1\nmodle = 3\n": ("line 2", "'model'"),
    '[model]\npth = "a"\n': ("line 2", "'path'"),
    "[model]\npath = 3\n": ("line 2", "a string"),
    '[model]\nsafe_mode = true\n[data]\ntrain = "d"\n': ("line 1", "needs path"),
    GOOD + "[train]\nepochs = 2.5\n": ("line 10", "whole number"),
    GOOD + "[train]\nepochs = -1\n": ("line 10", "at least 0"),
    GOOD + "[train]\nlearning_rate = 0\n": ("line 10", "above 0"),
    GOOD + '[export]\nio = "int9"\n': ("line 10", "'int8'"),
    GOOD + '[export]\nname = "a/b"\n': ("line 10", "letters"),
    GOOD + '[train]\nloss = "entropy"\n': ("line 10", "'crossentropy'"),
    GOOD + "weight_bts = 4\n": ("line 9", "'weight_bits'"),
    GOOD + 'weight_bits = "4"\n': ("line 9", "whole number"),
    GOOD + "weight_bits = 40\n": ("line", "40"),
    GOOD.replace("sine", "sinus"): ("line 8", "'sine'"),
    GOOD + '[[quantize.overrides]]\nweights = "sine"\n': ("line", "layers"),
    GOOD + 'recipe = "w4a8"\n': ("line 8", "leave ['rounder'] out"),
    GOOD.replace('rounder = "sine"', 'recipe = "w4a9"'): ("line 8", "'w4a8'"),
    GOOD + '[data2]\nmethod = "mse"\n': ("line 9", "'data'"),
    GOOD + "weight_bits = 8\nactivation_bits = 17\n": ("line 10", "17"),
    GOOD + 'preserve = "sparse"\n': ("line 9", "'sparse'"),
    GOOD
    + '[[quantize.overrides]]\nlayers = "a"\n[[quantize.overrides]]\nlayers = "b"\nweights = 3\n': (
        "line 11",
        "3",
    ),
    GOOD.replace("sine", "ste") + '[train]\nknob = "slope"\n': ("line 10", "they have none"),
    GOOD.replace("sine", "tanh") + '[train]\nknob = "sharpnes"\n': ("line 10", "'sharpness'"),
    GOOD + "[train]\nknob_start = 2\n": ("line 10", "knob = ..."),
    GOOD.replace("sine", "sigmoid") + '[train]\nknob = "slope"\nknob_start = 5\n': (
        "line 9",
        "knob_stop",
    ),
    GOOD.replace("sine", "sigmoid") + '[train]\nknob = "slope"\nknob_stop = 5\nknob_start = -5\n': (
        "line 12",
        "knob_start",
    ),
    GOOD + '[report]\nvela = "ethos-u55-129"\n': ("line 10", "'ethos-u55-128'"),
    GOOD + "[report]\nmicro = true\n[export]\nbatch_size = 2\n": ("line 10", "batch_size is 2"),
    GOOD + "[check]\narena_bytes = 1\n[export]\nbatch_size = 2\n": ("line 10", "batch_size is 2"),
    GOOD + '[export]\nc_name = "int"\n': ("line 10", "'_int'"),
    GOOD + "[export]\nalignment = 3\n": ("line 10", "allowed are [1, 2, 4"),
    GOOD + "[metadata]\nauthors = 3\n": ("line 10", "'author'"),
    "model = 3\n": ("line 1", "[model]"),
    "[model\n": ("no TOML", "line 1"),
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_recipe_is_refused_with_its_line(text, tmp_path):
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe(tmp_path, text))
    assert all(word in str(caught.value) for word in BROKEN[text]), caught.value


def test_a_named_recipe_brings_its_calibration_and_statistics(here, capsys):
    text = pathlib.Path("recipe.toml").read_text()
    start, stop = text.index("\n[quantize]") + 1, text.index("\n[train]") + 1
    text = text[:start] + '[quantize]\nrecipe = "w4a8"\n\n' + text[stop:]
    text = text.replace("net_int8", "net_w4a8").replace("epochs = 2", "epochs = 1")
    pathlib.Path("w4a8.toml").write_text(text)
    found = as_json(capsys, "run", "w4a8.toml")
    assert found["ok"]
    assert found["recipe"]["quantize"] == {"recipe": "w4a8"}
    assert as_json(capsys, "inspect", "out/net_w4a8.tflite")["tensor_types"]["INT4"] == 3


def test_a_recipe_for_a_model_with_float_layers_names_them(here):
    import tf_keras

    model = tf_keras.Sequential(
        [tf_keras.Input((8, 8, 8, 1)), tf_keras.layers.Conv3D(2, 3, name="solid")]
    )
    model.save("solid.keras")
    assert main(["init", "solid.keras", "-o", "solid.toml"]) == 0
    assert read_recipe("solid.toml").quantize["overrides"][0]["layers"] == "solid"


def test_a_recipe_names_layers_whatever_they_are_called():
    from qat_round._compat import read_toml
    from qat_round.pipeline.recipe_init import _quantize
    from qat_round.quantizers.model_spec import _matches

    names = ['say "x"', "back\\slash", "a[0]*?", "two\nlines", "\U0001f600"]
    found = read_toml(_quantize(dict.fromkeys(names, "no\noperator")))["quantize"]["overrides"]
    for name, override in zip(names, found, strict=True):
        assert [n for n in names if _matches(override["layers"], n, ())] == [name]


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


@pytest.mark.slow
def test_no_module_of_an_extra_is_imported_with_the_package():
    script = (
        "import sys, qat_round;"
        "extras = {'jinja2', 'tflite_micro', 'ethosu', 'tf2onnx', 'onnxruntime'};"
        "assert not extras & set(sys.modules), extras & set(sys.modules)"
    )
    in_new_process(script)


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("quiet", [True, False])
def test_progress_is_shown_on_a_terminal_only(quiet, monkeypatch):
    import click

    from qat_round.cli.progress import working

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with click.Context(click.Command("run"), obj={"quiet": quiet}), working("training") as progress:
        progress.moved(3, 10)
        progress.told("epoch [1] of 3")
    assert ("epoch [1] of 3" in screen.getvalue()) is not quiet


def test_training_tells_every_step_once(here):
    from qat_round.training import epochs

    seen = []
    epochs.train_epochs(
        lambda: qr.load_model("out/net_int8.keras", compile=False),
        read_data("data.npz").part(0, 100),
        epochs=2,
        moved=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
