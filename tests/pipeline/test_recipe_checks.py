"""What `qat-round run` refuses before it trains, and what it checks of the file afterwards."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import tf_keras as keras

import qat_round as qr
from qat_round.cli.main import main
from qat_round.files.data_files import Data
from qat_round.pipeline import recipe_run
from qat_round.training.epochs import check_labels, train_epochs, with_classes
from tests.cli.invoke import without
from tests.models import nets

RECIPE = """[model]
path = "net.keras"
[data]
train = "data.npz"
[train]
epochs = 1
[export]
name = "net"
"""
NO_PAGE = "[report]\nhtml = false\n"
ROWS = nets.vectors(128)
CLASSES = ROWS[:, :3].argmax(-1)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a float model and its data."""
    monkeypatch.chdir(tmp_path)
    nets.dense_net().save("net.keras")
    np.savez("data.npz", x=ROWS, y=CLASSES)
    return tmp_path


@pytest.fixture
def untrained(here, monkeypatch):
    """The same, where training is a failure: what is refused is refused before."""

    def trained(*_, **__):
        raise AssertionError("it was trained")

    monkeypatch.setattr(recipe_run, "train_epochs", trained)
    return here


def run(capsys, text: str, status: int = 0) -> dict:
    """The manifest, or with status 2 the line on standard error."""
    pathlib.Path("recipe.toml").write_text(text)
    capsys.readouterr()
    found = main(["run", "recipe.toml", "--json"])
    said = capsys.readouterr()
    assert found == status, said.err
    return {"said": said.err, **(json.loads(said.out) if said.out else {})}


# Before training

EXTRAS = {
    "jinja2": ("[report]\nhtml = true\n", "qat_round[report]"),
    "ethosu": (NO_PAGE + 'vela = "ethos-u55-128"\n', "qat_round[edge]"),
    "tflite_micro": (NO_PAGE + "micro = true\n", "qat_round[edge]"),
    "tf2onnx": ("onnx = true\n" + NO_PAGE, "qat_round[onnx]"),
}


@pytest.mark.parametrize("module", EXTRAS)
def test_a_missing_extra_is_named_before_training(module, untrained, capsys, monkeypatch):
    more, extra = EXTRAS[module]
    without(monkeypatch, module)
    assert extra in run(capsys, RECIPE + more, status=2)["said"]


def test_an_arena_is_not_limited_without_its_extra(untrained, capsys, monkeypatch):
    without(monkeypatch, "tflite_micro")
    text = RECIPE + NO_PAGE + "[check]\narena_bytes = 5000\n"
    assert "[check] arena_bytes needs" in run(capsys, text, status=2)["said"]


def test_a_page_that_was_not_asked_for_is_left_out_without_its_extra(here, capsys, monkeypatch):
    without(monkeypatch, "jinja2")
    found = run(capsys, RECIPE)
    assert "report" not in found["files"]
    assert found["notes"] == [
        "no report is written. The report needs 'jinja2': pip install 'qat_round[report]'."
    ]


def test_init_asks_for_no_page_where_there_can_be_none(here, capsys, monkeypatch):
    without(monkeypatch, "jinja2")
    assert main(["init", "net.keras"]) == 0
    assert "\n# html = true" in pathlib.Path("recipe.toml").read_text()


TEST_DATA = {
    "too large a class": ({"x": ROWS, "y": CLASSES + 1}, "[data] test: the labels go from 1 to 3"),
    "too few columns": ({"x": ROWS[:, :5], "y": CLASSES}, "[data] test: data of shape (128, 5)"),
    "no whole numbers": ({"x": ROWS, "y": CLASSES + 0.5}, "[data] test: "),
    "NaN": (
        {"x": np.where(ROWS > 2, np.nan, ROWS), "y": CLASSES},
        "[data] test: the data holds NaN",
    ),
}


@pytest.mark.parametrize("case", TEST_DATA)
def test_test_data_that_do_not_fit_are_refused_before_training(case, untrained, capsys):
    arrays, message = TEST_DATA[case]
    np.savez("test.npz", **arrays)
    text = RECIPE.replace("[train]", 'test = "test.npz"\n[train]') + NO_PAGE
    assert message in run(capsys, text, status=2)["said"]


NO_ACCURACY = {
    "no labels": ({"x": ROWS}, "no labels"),
    "other targets": ({"x": ROWS, "y": ROWS[:, :3]}, "mean_squared_error"),
}


@pytest.mark.parametrize("case", NO_ACCURACY)
def test_a_limit_of_accuracy_is_refused_where_there_is_none(case, untrained, capsys):
    arrays, word = NO_ACCURACY[case]
    np.savez("data.npz", **arrays)
    text = RECIPE.replace("epochs = 1", "epochs = 0") + NO_PAGE + "[check]\nmax_accuracy_drop = 2\n"
    said = run(capsys, text, status=2)["said"]
    assert "[check] max_accuracy_drop = 2 cannot be checked" in said
    assert word in said


def test_a_limit_of_accuracy_is_refused_for_several_outputs(untrained, capsys):
    nets.twin_net().save("net.keras")
    np.savez("data.npz", right_first=ROWS, left_second=ROWS, y=CLASSES)
    text = RECIPE.replace("epochs = 1", "epochs = 0") + NO_PAGE + "[check]\nmax_accuracy_drop = 2\n"
    assert "the model has 2 outputs" in run(capsys, text, status=2)["said"]


def test_init_limits_accuracy_where_there_is_one_output(here):
    assert main(["init", "net.keras"]) == 0
    assert "\nmax_accuracy_drop = 2.0" in pathlib.Path("recipe.toml").read_text()
    nets.twin_net().save("twin.keras")
    assert main(["init", "twin.keras", "-o", "twin.toml"]) == 0
    assert "\n# max_accuracy_drop" in pathlib.Path("twin.toml").read_text()


IMPOSSIBLE = {
    "16 bits with int8": ('io = "int8"\n[quantize]\nactivation_bits = 16\n', "io='int8'"),
    "4 bits unlifted": ("[quantize]\nactivation_bits = 4\n", "lift_activations"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_cannot_be_exported_is_not_trained(case, here, capsys):
    more, word = IMPOSSIBLE[case]
    assert word in run(capsys, RECIPE + more + NO_PAGE, status=2)["said"]
    assert not list(here.glob("out/.net.training"))


# Labels


def test_class_numbers_in_a_column_are_class_numbers():
    """As CIFAR's are: (n, 1)."""
    data = Data(ROWS, CLASSES[:, None].astype(np.uint8), (), "")
    assert with_classes(nets.dense_net(), data).labels.tolist() == CLASSES.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_one_hot_rows_are_class_numbers(dtype):
    data = Data(ROWS, np.eye(3)[CLASSES].astype(dtype), (), "")
    found = with_classes(nets.dense_net(), data)
    assert found.labels.tolist() == CLASSES.tolist()
    assert check_labels(nets.dense_net(), found) == "crossentropy"


@pytest.mark.parametrize(
    ("labels", "loss"),
    [
        (np.eye(3)[CLASSES], "mean_squared_error"),  # asked for
        (np.eye(3)[CLASSES] * 0.5, "auto"),
        (np.eye(3)[CLASSES] + np.eye(3)[(CLASSES + 1) % 3], "auto"),  # several classes each
        (ROWS[:, :3], "auto"),
        (CLASSES, "auto"),
    ],
)
def test_other_labels_stay_as_they_are(labels, loss):
    data = Data(ROWS, labels, (), "")
    assert with_classes(nets.dense_net(), data, loss).labels is labels


def test_a_binary_column_stays_a_column():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    data = Data(ROWS, (CLASSES > 0).astype(int)[:, None], (), "")
    assert with_classes(model, data).labels is data.labels
    assert check_labels(model, data) == "binary_crossentropy"


@pytest.mark.parametrize("form", [CLASSES[:, None], np.eye(3, dtype=np.float32)[CLASSES]])
def test_all_forms_of_labels_train_alike(form):
    def make():
        return qr.calibrate(qr.quantize_model(nets.dense_net()), ROWS)

    models = [train_epochs(make, Data(ROWS, y, (), ""), epochs=1)[0] for y in (CLASSES, form)]
    assert all(map(np.array_equal, *(model.get_weights() for model in models)))


@pytest.mark.parametrize("form", [CLASSES[:, None], np.eye(3)[CLASSES]])
def test_a_run_knows_the_accuracy_of_all_forms_of_labels(form, here, capsys):
    np.savez("data.npz", x=ROWS, y=form)
    found = run(capsys, RECIPE.replace("epochs = 1", "epochs = 0") + NO_PAGE)["figures"]
    logits = np.asarray(nets.dense_net()(ROWS[-12:]))
    assert found["accuracy_float"] == np.mean(logits.argmax(-1) == CLASSES[-12:])


# After training


def test_device_figures_are_in_the_manifest(here, capsys):
    pytest.importorskip("tflite_micro")
    pytest.importorskip("ethosu")
    text = RECIPE + NO_PAGE + 'micro = true\nvela = "ethos-u55-128"\n'
    devices = run(capsys, text)["devices"]
    assert devices["tflite_micro"]["arena_bytes"] > 0
    assert devices["ethos-u55-128"]["npu_share"] == 1.0
    assert json.loads(pathlib.Path("out/net.json").read_text())["devices"] == devices


LIMITS = {"arena_bytes": "arena", "flash_bytes": "Flash", "macs": "MACs"}


@pytest.mark.parametrize("key", LIMITS)
def test_a_limit_that_is_passed_is_a_check_that_failed(key, here, capsys):
    if key == "arena_bytes":
        pytest.importorskip("tflite_micro")
    text = RECIPE.replace("epochs = 1", "epochs = 0") + NO_PAGE
    found = run(capsys, text + f"[check]\n{key} = 10\n", status=1)
    assert not found["ok"]
    assert LIMITS[key] in found["failed"][0]
    assert found["failed"][0] in found["said"]
    assert run(capsys, text + f"[check]\n{key} = 1000000\n")["failed"] == []


def test_an_accuracy_that_fell_is_a_check_that_failed(here, capsys, monkeypatch):
    monkeypatch.setattr(
        recipe_run, "figures", lambda *_: {"accuracy_float": 0.9, "accuracy_device": 0.85}
    )
    found = run(capsys, RECIPE + NO_PAGE + "[check]\nmax_accuracy_drop = 4.9\n", status=1)
    assert "5.00 points lost, 4.9 are allowed" in found["said"]
    assert run(capsys, RECIPE + NO_PAGE + "[check]\nmax_accuracy_drop = 5\n")["ok"]


def test_what_a_device_refuses_is_told_and_the_manifest_written(here, capsys):
    pytest.importorskip("tflite_micro")
    text = (
        RECIPE.replace("epochs = 1", "epochs = 0")
        + "c_array = false\n[quantize]\nweight_bits = 4\n"
    )
    found = run(capsys, text + NO_PAGE + "micro = true\n", status=1)
    assert "refuses" in found["devices"]["tflite_micro"]["refused"]
    assert pathlib.Path("out/net.json").exists()


def test_a_recipe_writes_metadata_onnx_float16_and_a_named_array(here, capsys):
    for module in ("tf2onnx", "onnxruntime"):
        pytest.importorskip(module)
    more = 'onnx = true\nfloat16 = true\nc_name = "rows"\nalignment = 32\n'
    text = RECIPE.replace("epochs = 1", "epochs = 0") + more + '[metadata]\nauthor = "us"\n'
    found = run(capsys, text + NO_PAGE)
    assert set(found["files"]) == {"keras", "tflite", "c", "h", "onnx", "float16"}
    assert found["onnx"]["max_steps"] <= 1.001
    source = pathlib.Path("out/net.c").read_text()
    assert "aligned(32)" in source
    assert "rows[" in source
    assert main(["inspect", "out/net.tflite", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["metadata"]
    assert (said["name"], said["author"]) == ("net", "us")


def test_a_recipe_lifts_activations(here, capsys):
    more = "lift_activations = true\n[quantize]\nactivation_bits = 4\n"
    found = run(capsys, RECIPE.replace("epochs = 1", "epochs = 0") + more + NO_PAGE)
    assert found["parity"]["max_steps"] <= 1.001
    assert "written with 8 bits" in found["notes"][0]
