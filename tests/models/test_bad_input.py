"""Models and settings that cannot be quantized: a clear error, and nothing changed."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras import default_8bit

import qat_round as qr
from tests.models import nets

layers = keras.layers
EIGHT_BIT = default_8bit.default_8bit_quantize_scheme.Default8BitQuantizeScheme()


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
