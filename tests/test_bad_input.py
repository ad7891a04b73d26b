"""Bad input: a clear error in the user's words, and nothing changed."""

from __future__ import annotations

import nets
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras import default_8bit

import qat_round as qr

layers = keras.layers
EIGHT_BIT = default_8bit.default_8bit_quantize_scheme.Default8BitQuantizeScheme()


@pytest.fixture(scope="module")
def quantized():
    """Quantized, never calibrated; every test leaves it so."""
    return qr.quantize_model(nets.dense_net(), "sine")


@pytest.fixture(scope="module")
def calibrated():
    return qr.calibrate(qr.quantize_model(nets.dense_net()), nets.vectors())


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def keras3_model():
    keras3 = pytest.importorskip("keras")
    return keras3.Sequential([keras3.layers.Input((4,)), keras3.layers.Dense(2)])


# Models


def by_scheme(model):
    return qr.quantize_model(model, base_scheme=EIGHT_BIT)


VERBS = [by_scheme, qr.annotate_model, qr.quantize_apply]
verbs = pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)


@verbs
def test_a_keras_3_model_is_told_how_to_become_a_tf_keras_one(verb):
    with pytest.raises(TypeError, match=r"Keras 3 model \(Sequential\).*TF_USE_LEGACY_KERAS=1"):
        verb(keras3_model())


@verbs
@pytest.mark.parametrize("thing", [None, "model.keras", np.zeros(3)])
def test_something_else_is_no_model(verb, thing):
    with pytest.raises(TypeError, match="is no tf_keras model"):
        verb(thing)


@verbs
def test_a_subclassed_model_is_told_of_the_functional_api(verb):
    model = Subclassed()
    model(np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="Subclassed is a subclassed model.*Functional API"):
        verb(model)


@verbs
def test_an_unbuilt_model_is_told_to_build(verb):
    with pytest.raises(ValueError, match=r"not built.*model\.build\(input_shape\)"):
        verb(keras.Sequential([layers.Dense(2)]))


@verbs
def test_a_quantized_model_is_not_quantized_again(verb, quantized):
    with pytest.raises(ValueError, match="quantized already"):
        verb(quantized)


@pytest.mark.parametrize("thing", [None, 3, np.zeros(3)])
def test_what_is_neither_a_model_nor_a_path_is_refused(thing):
    with pytest.raises(TypeError, match="give a tf_keras or Keras 3 model, or the path"):
        qr.quantize_model(thing)


def test_a_file_that_is_missing_or_no_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no file or folder 'model\.keras'"):
        qr.quantize_model("model.keras")
    (tmp_path / "notes.keras").write_text("no model")
    with pytest.raises(ValueError, match=r"notes\.keras"):
        qr.quantize_model(str(tmp_path / "notes.keras"))


def test_an_unbuilt_or_quantized_model_is_refused_by_the_plan(quantized):
    with pytest.raises(ValueError, match="build"):
        qr.quantize_model(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(ValueError, match="quantized already"):
        qr.quantize_model(quantized)


def test_unsupported_is_error_or_float():
    with pytest.raises(ValueError, match='"error" and "float"'):
        qr.quantize_model(nets.dense_net(), unsupported="skip")


def test_a_model_without_annotations_is_told_how_to_annotate():
    with pytest.raises(ValueError, match=r"no layer of the model is annotated.*annotate_layer"):
        qr.quantize_apply(nets.dense_net())


@pytest.mark.parametrize("layer", [None, "dense", nets.dense_net()])
def test_only_layers_are_annotated(layer):
    with pytest.raises(TypeError, match="is no tf_keras layer"):
        qr.annotate_layer(layer)


def test_a_layer_is_annotated_once():
    with pytest.raises(TypeError, match="annotated already"):
        qr.annotate_layer(qr.annotate_layer(layers.Dense(2)))


def test_an_annotation_takes_a_layer_spec_only():
    with pytest.raises(TypeError, match=r"is no qr\.LayerSpec"):
        qr.annotate_layer(layers.Dense(2), "sine")


def test_every_layer_that_tfmot_does_not_take_is_named_at_once():
    inputs = layers.Input((12, 12, 1))
    x = layers.Conv2D(4, 3, name="fine")(inputs) + 1.0
    x = keras.Sequential([layers.Input((10, 10, 4)), layers.Conv2D(4, 3)], name="nested")(x)
    x = layers.LayerNormalization(name="normalized")(x)
    x = layers.Activation("selu", name="selu")(x)
    x = layers.Dense(3, activation="softplus", name="soft")(x)
    x = layers.BatchNormalization(name="stray")(layers.Flatten(name="flat")(x))
    model = keras.Model(inputs, layers.Lambda(lambda t: 2.0 * t, name="twice")(x))
    config, weights = model.count_params(), model.get_weights()
    with pytest.raises(ValueError, match="7 of the model's layers cannot be quantized") as error:
        qr.quantize_model(model, base_scheme=EIGHT_BIT)
    for line in (
        "tf.__operators__.add",
        "nested (Sequential): a model inside of the model",
        "normalized (LayerNormalization): TFMOT has no QuantizeConfig",
        "selu (Activation): TFMOT does not know the activation selu",
        "soft (Dense): TFMOT does not know the activation softplus",
        "stray (BatchNormalization): batch norm that follows no convolution or dense layer",
        "twice (Lambda): a raw operator or Lambda",
        "qr.FLOAT",
    ):
        assert line in str(error.value)
    assert "fine" not in str(error.value)
    assert model.count_params() == config
    assert all(map(np.array_equal, model.get_weights(), weights))


def test_layers_that_tfmot_does_not_take_can_be_left_in_float():
    inputs = layers.Input((8,))
    x = layers.Dense(8, activation="softplus", name="soft")(inputs)
    x = layers.LayerNormalization(name="normalized")(x)
    x = layers.Lambda(lambda t: 2.0 * t, name="twice")(x) + 1.0
    model = keras.Model(inputs, layers.Dense(3, name="last")(x))
    names = ("soft", "normalized", "twice", "tf.*")
    quantized = qr.quantize_model(model, overrides=dict.fromkeys(names, qr.FLOAT))
    assert "quant_last" in qr.summary(quantized)
    assert np.all(np.isfinite(nets.predicted(quantized, nets.vectors())))


def test_the_verbs_for_quantized_models_name_what_to_do_with_a_float_one():
    model = nets.dense_net()
    for verb in (qr.summary, qr.export_tflite, lambda m: qr.calibrate(m, nets.vectors())):
        with pytest.raises(ValueError, match=r"not quantized\. Make one with qr\.quantize_model"):
            verb(model)


# Settings


@pytest.mark.parametrize(
    "settings",
    [{"rounder": "sinus"}, {"weights": "sinus"}, {"activations": {"name": "sinus"}}],
)
def test_an_unknown_rounder_lists_the_allowed_and_the_nearest(settings):
    with pytest.raises(ValueError, match=r"sinus.*sigmoid.*sine") as error:
        qr.quantize_model(nets.dense_net(), **settings)
    assert "Did you mean" in str(error.value) or "nearest" in str(error.value).lower()


@pytest.mark.parametrize("bits", [1, 17, 0, -8, 8.0, "8", True])
@pytest.mark.parametrize("which", ["weight_bits", "activation_bits"])
def test_bits_outside_2_to_16_are_refused(which, bits):
    with pytest.raises(ValueError, match="has to be a whole number from 2 to 16"):
        qr.quantize_model(nets.dense_net(), **{which: bits})


def test_an_unknown_setting_is_refused():
    with pytest.raises(TypeError, match="wieght_bits"):
        qr.quantize_model(nets.dense_net(), wieght_bits=4)


@pytest.mark.parametrize("key", ["dens_*", layers.Conv2D])
def test_an_override_that_matches_nothing_is_refused(key):
    with pytest.raises(ValueError, match="matches no layer.*dense_a"):
        qr.quantize_model(nets.dense_net(), overrides={key: qr.FLOAT})


def test_an_override_is_a_layer_spec():
    with pytest.raises(TypeError, match=r"give a qr\.LayerSpec"):
        qr.quantize_model(nets.dense_net(), overrides={"last": "sine"})


def test_a_base_scheme_is_a_tfmot_scheme():
    with pytest.raises(TypeError, match="is no TFMOT QuantizeScheme"):
        qr.quantize_model(nets.dense_net(), base_scheme="8bit")


# Calibration

ROWS = nets.vectors()


def with_value(value):
    rows = ROWS.copy()
    rows[40, 3] = value
    return rows


def late_trouble():
    yield ROWS
    yield with_value(np.nan)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (nets.vectors(width=7), ValueError, r"shape \(32, 7\) does not fit the input 'row'"),
        (ROWS[0], ValueError, "does not fit the input"),
        (ROWS.astype(str), TypeError, "not numeric"),
        (ROWS.astype(complex), TypeError, "not numeric"),
        (ROWS[:0], ValueError, "the data is empty"),
        ([], ValueError, "the data is empty"),
        (iter(()), ValueError, "the data is empty"),
        (tf.data.Dataset.from_tensor_slices(ROWS[:0]).batch(8), ValueError, "the data is empty"),
        (with_value(np.nan), ValueError, r"NaN or infinity \(first at \[8, 3\]"),
        (with_value(np.inf), ValueError, "NaN or infinity"),
        (with_value(-np.inf), ValueError, "NaN or infinity"),
        (late_trouble(), ValueError, "NaN or infinity"),
        ([ROWS, ROWS], ValueError, "has 1 inputs, the data 2"),
        ({"column": ROWS}, ValueError, r"lacks the inputs \['row'\]"),
        (7, TypeError, "data is a int"),
        (None, TypeError, "data is a NoneType"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_calibration_data_that_does_not_fit_changes_nothing(quantized, data, error, message):
    before = quantized.get_weights()
    with pytest.raises(error, match=message):
        qr.calibrate(quantized, data)
    assert all(map(np.array_equal, quantized.get_weights(), before))


def test_inputs_of_different_lengths_are_refused():
    model = qr.quantize_model(nets.twin_net())
    with pytest.raises(ValueError, match="different numbers of samples"):
        qr.calibrate(model, [ROWS, ROWS[:10]])


def test_an_unknown_calibration_method_is_refused(quantized):
    with pytest.raises(ValueError, match="unknown method 'median'"):
        qr.calibrate(quantized, ROWS, method="median")


@pytest.mark.parametrize("size", [0, -1, 2.5, True])
def test_a_batch_size_that_is_no_count_is_refused(quantized, size):
    with pytest.raises(ValueError, match="batch_size"):
        qr.calibrate(quantized, ROWS, batch_size=size)


# Export


def test_export_names_the_tensors_that_were_never_calibrated(quantized, tmp_path):
    with pytest.raises(ValueError, match=r"quantize_row/input, .*Run qr\.calibrate") as error:
        qr.export_tflite(quantized, tmp_path / "model.tflite")
    assert "quant_last/output" in str(error.value)
    assert "kernel" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("io", ["int4", "INT8", None, np.int8])
def test_an_unknown_io_type_is_refused(calibrated, io):
    with pytest.raises(ValueError, match=r"io=.* is unknown; allowed are \['float32', 'int8'"):
        qr.export_tflite(calibrated, io=io)


def test_activations_that_tflite_cannot_hold_are_named():
    model = qr.quantize_model(nets.dense_net(), activation_bits=4)
    qr.calibrate(model, ROWS)
    with pytest.raises(ValueError, match=r"quant_last/output \(4 bits\)"):
        qr.export_tflite(model)


def test_a_path_that_cannot_be_written_is_refused_before_converting(calibrated, tmp_path):
    (tmp_path / "file").write_text("mine")
    for path, error, message in (
        (tmp_path, IsADirectoryError, "is a folder"),
        (tmp_path / "missing" / "model.tflite", FileNotFoundError, "does not exist"),
        (tmp_path / "file" / "model.tflite", OSError, "Nothing can be written in"),
        ("/proc/model.tflite", OSError, "Nothing can be written in '/proc'"),
    ):
        with pytest.raises(error, match=message):
            qr.export_tflite(calibrated, path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


# Verification


@pytest.fixture(scope="module")
def tflite(calibrated):
    return qr.export_tflite(calibrated)


@pytest.mark.parametrize("kept", [0, 4, 8, 40, 0.5, 0.99])
def test_a_cut_off_file_is_called_damaged(calibrated, tflite, kept):
    end = kept if isinstance(kept, int) else int(kept * len(tflite))
    with pytest.raises(ValueError, match=r"is damaged|no \.tflite"):
        qr.verify_tflite(calibrated, tflite[:end], ROWS)


def test_a_corrupted_file_is_called_damaged(calibrated, tflite):
    rng = np.random.default_rng(0)
    spoilt = bytearray(tflite)
    for at in rng.integers(8, len(tflite), 200):
        spoilt[at] ^= 0xFF
    with pytest.raises(ValueError, match="damaged"):
        qr.verify_tflite(calibrated, bytes(spoilt), ROWS)


def test_some_other_file_is_no_tflite(calibrated, tmp_path):
    (tmp_path / "notes.txt").write_text("these are my notes")
    with pytest.raises(ValueError, match=r"This is no \.tflite"):
        qr.verify_tflite(calibrated, tmp_path / "notes.txt", ROWS)
    with pytest.raises(FileNotFoundError, match=r"There is no \.tflite file at"):
        qr.verify_tflite(calibrated, tmp_path / "missing.tflite", ROWS)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (ROWS[:, :5], "does not fit the input"),
        (ROWS[:0], "empty"),
        (with_value(np.nan), "NaN or infinity"),
        ([ROWS, ROWS], "2 inputs|inputs, the data 2"),
        ({"column": ROWS}, "lacks? the inputs|inputs lack"),
    ],
)
@pytest.mark.parametrize("from_outputs", [False, True])
def test_verification_refuses_inputs_that_do_not_fit(
    calibrated, tflite, inputs, message, from_outputs
):
    given = np.zeros((64, 3), np.float32) if from_outputs else calibrated
    with pytest.raises(ValueError, match=message):
        qr.verify_tflite(given, tflite, inputs)


def test_outputs_for_other_inputs_are_refused(tflite):
    with pytest.raises(ValueError, match="not outputs for the same inputs"):
        qr.verify_tflite(np.zeros((10, 3), np.float32), tflite, ROWS)


def test_outputs_under_a_wrong_name_are_refused(tflite):
    with pytest.raises(ValueError, match=r"outputs lack \['quant_last'\]"):
        qr.verify_tflite({"first": np.zeros((64, 3))}, tflite, ROWS)


def test_loading_from_nowhere_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        qr.load_model(tmp_path / "missing.keras")


# Annealing


def test_annealing_a_knob_that_nothing_has_is_refused(calibrated):
    callback = qr.Anneal("slope", qr.schedules.cosine(5.0, 100.0, steps=4))
    nets.ready(calibrated)
    with pytest.raises(ValueError, match="no quantizer of the model has the knob 'slope'"):
        calibrated.fit(ROWS, np.zeros(64), verbose=0, callbacks=[callback])


def test_annealing_layers_that_are_not_there_is_refused():
    model = nets.ready(qr.quantize_model(nets.dense_net(), "sigmoid"))
    callback = qr.Anneal("slope", qr.schedules.cosine(5.0, 100.0, steps=4), layers="conv*")
    with pytest.raises(ValueError, match=r"layers='conv\*' matches no layer.*quant_last"):
        model.fit(ROWS, np.zeros(64), verbose=0, callbacks=[callback])


def test_a_schedule_has_to_be_callable():
    with pytest.raises(TypeError, match="cannot be called with a step"):
        qr.Anneal("slope", 5.0)
