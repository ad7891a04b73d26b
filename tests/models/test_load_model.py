"""A saved model is the same model: same outputs, same next steps, in this process or another."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
import tf_keras as keras

import qat_round as qr
from qat_round.quantizers.quantized_tensors import quantized_tensors
from tests import scripts
from tests.models import nets

layers = keras.layers
KINDS = ("conv", "annealed", "stochastic", "partial", "overridden")
SAVED_MODELS = ("annealed", "stochastic")  # writing and reading one takes seconds
FILES = [f"{kind}{ending}" for kind in KINDS for ending in (".keras", ".h5")]
FOLDERS = [f"{kind}.saved" for kind in SAVED_MODELS]
SLOPE = qr.schedules.exponential(5.0, 500.0, steps=8)


def fit(model, rows, **options):
    """Calibrated, and trained for two steps."""
    labels = np.arange(len(rows)) % 3
    nets.ready(qr.calibrate(model, rows))
    model.fit(rows[:64], labels[:64], batch_size=32, shuffle=False, verbose=0, **options)
    return model


def partly_annotated():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            layers.Input((8,), name="row"),
            layers.Dense(6, "relu", name="plain"),
            qr.annotate_layer(layers.Dense(5, "relu", name="marked"), qr.LayerSpec("sine")),
            layers.Dense(3, name="last"),
        ]
    )


def made() -> dict:
    """One model of each kind, trained for two steps."""
    rows = nets.vectors()
    anneal = qr.Anneal("slope", SLOPE)
    by_hand = {"dense_a": qr.FLOAT, "last": qr.LayerSpec(qr.TensorSpec(bits=4))}
    return {
        "conv": fit(qr.quantize_model(nets.conv_net(), "sigmoid"), nets.pictures(64)[0]),
        "annealed": fit(qr.quantize_model(nets.dense_net(), "sigmoid"), rows, callbacks=[anneal]),
        "stochastic": fit(qr.quantize_model(nets.dense_net(), "stochastic"), rows),
        "partial": fit(qr.quantize_apply(partly_annotated()), rows),
        "overridden": fit(qr.quantize_model(nets.dense_net(), "ramp", overrides=by_hand), rows),
    }


def inputs_of(model) -> np.ndarray:
    return nets.pictures(64)[0] if len(model.input_shape) == 4 else nets.vectors()


@pytest.fixture(scope="module")
def models():
    return made()


@pytest.fixture(scope="module")
def here_and_there(models, tmp_path_factory):
    """What the models give here, and after loading in another process."""
    folder = tmp_path_factory.mktemp("saved")
    labels = np.arange(64) % 3
    data, here = {"labels": labels}, {}
    for kind, model in models.items():
        inputs = data[f"inputs_model_{kind}"] = inputs_of(model)
        for name in FILES + FOLDERS:
            if name.split(".")[0] == kind:
                model.save(folder / f"model_{name}")
        here[f"{kind}/outputs"] = model(inputs, training=False).numpy()
        here[f"{kind}/losses"] = nets.steps(model, inputs, labels)
    np.savez(folder / "data.npz", **data)
    subprocess.run(
        scripts.command("reload", str(folder)),
        cwd=scripts.ROOT,
        check=True,
        capture_output=True,
        timeout=600,
    )
    with np.load(folder / "results.npz") as there:
        return here, dict(there), folder


def kind_of(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("name", FILES + FOLDERS)
def test_predictions_are_identical_in_another_process(here_and_there, name):
    here, there, _ = here_and_there
    outputs = here[f"{kind_of(name)}/outputs"]
    assert np.ptp(outputs) > 0.1
    np.testing.assert_array_equal(there[f"model_{name}/outputs"], outputs)


@pytest.mark.parametrize("kind", KINDS)
def test_our_load_model_loads_as_keras_own(here_and_there, kind):
    here, there, _ = here_and_there
    np.testing.assert_array_equal(there[f"model_{kind}.keras/ours"], here[f"{kind}/outputs"])


@pytest.mark.parametrize("name", FILES)
def test_the_next_losses_are_identical_in_another_process(here_and_there, name):
    here, there, _ = here_and_there
    losses = here[f"{kind_of(name)}/losses"]
    assert losses[0] != losses[1]
    np.testing.assert_array_equal(there[f"model_{name}/losses"], losses)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_next_loss_of_a_saved_model_is_identical(here_and_there, name):
    """The one after it is not: Keras leaves Adam's state out of SavedModels, float ones too."""
    here, there, _ = here_and_there
    loss = here[f"{kind_of(name)}/losses"][0]
    assert there[f"model_{name}/losses"][0] == loss


def test_a_loaded_model_has_equal_quantizers_and_ranges(here_and_there):
    model = qr.load_model(here_and_there[2] / "model_overridden.keras")
    by_path = {tensor.path: tensor for tensor in quantized_tensors(model)}
    assert by_path["quant_last/kernel"].bits == 4
    assert by_path["quant_last/kernel"].quantizer.rounder == qr.RampRound()
    assert [path for path in by_path if "dense_a" in path] == ["quant_dense_a/output"]
    assert not any(tensor.is_first_guess for tensor in by_path.values())
    assert "quant_dense_a: asked for (qr.FLOAT)" in qr.summary(model)


def test_annealing_resumes_at_the_right_value(here_and_there):
    model = qr.load_model(here_and_there[2] / "model_annealed.keras")
    assert {knob["slope"] for knob in qr.knobs(model).values()} == {np.float32(SLOPE(2))}
    rows = nets.vectors(32)
    anneal = qr.Anneal("slope", SLOPE)
    model.fit(rows, np.arange(32) % 3, batch_size=32, verbose=0, callbacks=[anneal])
    assert {knob["slope"] for knob in qr.knobs(model).values()} == {np.float32(SLOPE(3))}


@pytest.mark.parametrize("ending", [".weights.h5", ".h5", ".ckpt"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_alone_bring_back_the_outputs(models, kind, ending, tmp_path):
    model = models[kind]
    model.save_weights(tmp_path / f"only{ending}")
    fresh = keras.models.clone_model(model)
    fresh.load_weights(tmp_path / f"only{ending}")
    inputs = inputs_of(model)
    np.testing.assert_array_equal(fresh(inputs, training=False), model(inputs, training=False))


def test_weights_fit_a_model_that_is_quantized_anew(models, tmp_path):
    models["stochastic"].save_weights(tmp_path / "only.weights.h5")
    fresh = qr.quantize_model(nets.dense_net(), "stochastic")
    fresh.load_weights(tmp_path / "only.weights.h5")
    rows = nets.vectors()
    np.testing.assert_array_equal(
        fresh(rows, training=True), models["stochastic"](rows, training=True)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_comes_back_from_its_config(models, kind):
    model = models[kind]
    again = type(model).from_config(model.get_config())
    again.set_weights(model.get_weights())
    inputs = inputs_of(model)
    np.testing.assert_array_equal(again(inputs, training=False), model(inputs, training=False))
    ours, theirs = ([t.quantizer for t in quantized_tensors(m)] for m in (again, model))
    assert ours == theirs


def test_an_annotated_model_can_be_saved_before_it_is_quantized(tmp_path):
    annotated = qr.annotate_model(nets.dense_net(), qr.LayerSpec("sine"))
    annotated.save(tmp_path / "annotated.h5")
    model = qr.quantize_apply(qr.load_model(tmp_path / "annotated.h5"))
    kernels = [t.quantizer for t in quantized_tensors(model) if t.variable is not None]
    assert [quantizer.rounder.name for quantizer in kernels] == ["sine"] * 3


@pytest.mark.slow
def test_every_format_of_every_kind_is_identical_in_another_process(tmp_path):
    """Float, annotated, quantized, in mid-training, on two replicas; in six formats."""
    options = {"check": True, "capture_output": True, "timeout": 900, "cwd": scripts.ROOT}
    subprocess.run(scripts.command("across_versions", "save", str(tmp_path)), **options)
    done = subprocess.run(scripts.command("across_versions", "load", str(tmp_path)), **options)
    found = json.loads(done.stdout)
    assert len(found) == 30
    assert set(found.values()) == {0.0}, found


def test_a_file_that_lacks_a_quantizers_state_is_refused(models, tmp_path):
    models["annealed"].save_weights(tmp_path / "only.weights.h5")
    fresh = qr.quantize_model(nets.dense_net(), "sine")
    with pytest.raises(ValueError, match="variables|weights"):
        fresh.load_weights(tmp_path / "only.weights.h5")
