"""The integer plan: what is rewritten, where the quantizers sit, and what the file then answers."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.files.tflite_file import TFLiteFile
from qat_round.lowering.build import plan
from qat_round.quantizers.model_spec import model_spec
from tests.models.probe import bypassed

layers = keras.layers


def images(count=16, size=16, channels=3, scale=1.0):
    """Noise of different strengths and tints, so that averages differ from image to image."""
    rng = np.random.default_rng(0)
    tints = rng.random((count, 1, 1, channels))
    return (rng.random((count, size, size, channels)) * tints * scale).astype(np.float32)


def settled(model, x):
    """The model, with batch-norm statistics of the data."""
    for _ in range(3):
        model(x, training=True)
    return model


def hard_swish(x):
    return x * (tf.nn.relu6(x + 3.0) * (1.0 / 6.0))


def squeeze_excite(x, channels):
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = layers.Conv2D(channels // 2, 1, activation="relu")(s)
    s = layers.Conv2D(channels, 1)(s)
    return x * (tf.nn.relu6(s + 3.0) * (1.0 / 6.0))


def everything_net():
    """What TFMOT refuses or parts from its file over, in one small network."""
    keras.backend.clear_session()  # "conv2d_7" has to be free
    keras.utils.set_random_seed(1)
    pixels = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, -1)(pixels)
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    x = hard_swish(layers.BatchNormalization(momentum=0.1)(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = squeeze_excite(layers.ReLU()(layers.BatchNormalization(momentum=0.1)(x)), 8)
    x = layers.SeparableConv2D(8, 3, padding="same", name="conv2d_7")(x)
    pooled = layers.AveragePooling2D(2, 1, padding="same")(x)
    x = layers.Concatenate()([x, pooled])
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.1)(x))
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same")(x)
    x = layers.Flatten()(layers.MaxPooling2D(4)(x))
    x = layers.PReLU()(layers.BatchNormalization(momentum=0.1)(layers.Dense(8)(x)))
    x = layers.Dense(8, activation="elu")(x)
    x = layers.Dense(8, activation=tf.nn.silu)(x)
    return keras.Model(pixels, layers.Dense(10)(x))


@pytest.fixture(scope="module")
def everything():
    x = images(scale=255.0)
    float_model = settled(everything_net(), x)
    model = qr.quantize_model(float_model, "ste")
    qr.calibrate(model, x)
    return float_model, model, x


def plan_of(model, **settings):
    return plan(model, model_spec(**settings))


def test_without_quantizers_it_is_the_float_model(everything):
    float_model, model, x = everything
    expected = np.asarray(float_model(x, training=False))
    assert np.abs(bypassed(model, x) - expected).max() < 1e-5 * np.ptp(expected)


def test_everything_becomes_integer_and_stays_near(everything):
    _, model, x = everything
    parity = qr.verify_tflite(model, qr.export_tflite(model, io="int8"), x)
    assert parity.float_operators == {}
    # each of two dozen kernels rounds some values the other way, and random weights amplify that
    assert parity.within_one >= 0.9
    assert parity.max_steps <= 2.01


def test_it_trains_saves_and_loads(everything, tmp_path):
    _, model, x = everything
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    copied.compile("adam", "mse")
    before = np.asarray(copied(x, training=False))
    copied.fit(x, np.zeros((len(x), 10)), epochs=2, verbose=0)
    assert np.abs(np.asarray(copied(x, training=False)) - before).max() > 0.0
    copied.save(tmp_path / "q.keras")
    loaded = qr.load_model(tmp_path / "q.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), copied.predict(x, verbose=0))


def test_what_is_one_operator_in_the_file_has_one_quantizer():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(4, 3, use_bias=False, name="conv")(x)
    y = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(y))
    planned = plan_of(keras.Model(x, y))
    assert planned.layers["conv"].output is None
    assert planned.layers["norm"].output is None
    assert planned.layers["relu"].grid == "own"


@pytest.mark.parametrize("bits", [None, 4])
def test_equal_activations_of_one_tensor_are_one_as_in_the_file(bits):
    pixels = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(6, 3, use_bias=False)(pixels))
    branches = [
        layers.Conv2D(4, 3)(layers.Activation("relu", name=f"relu_{n}")(x)) for n in range(3)
    ]
    model = keras.Model(pixels, layers.Add()(branches))
    data = images(64, 8) - 0.5
    overrides = {} if bits is None else {"relu_1": qr.LayerSpec(activations={"bits": bits})}
    quantized = qr.quantize_model(settled(model, data), overrides=overrides)
    named = [layer.name for layer in quantized.layers if "relu" in layer.name]
    assert len(named) == (1 if bits is None else 2)
    qr.calibrate(quantized, data)
    if bits is None:
        (parity,) = qr.verify_tflite(quantized, qr.export_tflite(quantized), data).outputs
        assert parity.same == 1.0


def test_in_front_of_a_concatenation_only_tensors_with_other_readers_are_quantized():
    x = keras.Input((8,))
    lonely, shared = layers.Dense(4, name="lonely")(x), layers.Dense(4, name="shared")(x)
    both = layers.Concatenate(name="both")([lonely, shared])
    planned = plan_of(keras.Model(x, [both, layers.Dense(2, name="after")(shared)]))
    assert planned.layers["lonely"].output is None
    assert planned.layers["shared"].output is not None
    assert planned.layers["both"].output is not None


def test_what_a_pool_hands_to_a_concatenation_and_others_keeps_its_scale():
    keras.utils.set_random_seed(3)
    pixels = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, use_bias=False)(pixels)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.1)(x))
    pooled = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.1)(pooled))
    x = layers.Concatenate()([pooled, layers.Conv2D(6, 3, padding="same")(x)])
    averaged = layers.AveragePooling2D(2)(x)
    x = layers.Concatenate()([averaged, layers.Conv2D(6, 2, strides=2)(x)])
    data = images()
    model = qr.quantize_model(settled(keras.Model(pixels, layers.Conv2D(5, 1)(x)), data))
    qr.calibrate(model, data)
    parity = qr.verify_tflite(model, qr.export_tflite(model), data)
    assert parity.outputs[0].same == 1.0


def test_pooling_keeps_its_inputs_grid():
    x = keras.Input((8, 8, 3))
    y = layers.MaxPooling2D(name="largest")(layers.Conv2D(4, 3)(x))
    planned = plan_of(keras.Model(x, layers.AveragePooling2D(name="average")(y)))
    assert planned.layers["largest"].grid == "keeps"
    assert planned.layers["average"].grid == "averages"


def test_softmax_sigmoid_and_tanh_have_the_converters_fixed_scales():
    x = keras.Input((4,))
    names = ("softmax", "sigmoid", "tanh")
    planned = plan_of(keras.Model(x, [layers.Activation(n, name=n)(x) for n in names]))
    ranges = {name: planned.layers[name].output.range for name in names}
    assert (ranges["softmax"].lo, ranges["softmax"].hi) == (0.0, 255 / 256)
    assert ranges["sigmoid"] == ranges["softmax"]
    assert (ranges["tanh"].lo, ranges["tanh"].hi) == (-1.0, 127 / 128)


def test_token_ids_are_not_quantized():
    ids = keras.Input((5,), dtype="int32", name="ids")
    y = layers.GlobalAveragePooling1D()(layers.Embedding(10, 4, name="table")(ids))
    planned = plan_of(keras.Model(ids, y))
    assert planned.inputs == {}
    assert planned.layers["table"].weights["embeddings"].per_axis is False


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_averages_round_as_the_kernel_does(padding):
    x = keras.Input((8, 8, 2))
    model = keras.Model(x, layers.AveragePooling2D(2, 1, padding=padding)(x))
    quantized = qr.quantize_model(model)
    inputs = images(32, 8, 2) * 2.0 - 1.0
    qr.calibrate(quantized, inputs)
    parity = qr.verify_tflite(quantized, qr.export_tflite(quantized), inputs)
    assert parity.outputs[0].same == 1.0


def test_dense_weights_are_quantized_per_channel_and_found_again():
    keras.utils.set_random_seed(0)
    x = keras.Input((16,))
    model = keras.Model(x, layers.Dense(6, name="dense")(x))
    model.layers[-1].kernel.assign(model.layers[-1].kernel * [[1.0, 0.1, 10.0, 0.01, 2.0, 5.0]])
    quantized = qr.quantize_model(model)
    rows = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    qr.calibrate(quantized, rows)
    tflite = qr.export_tflite(quantized)
    kernel = next(t for t in TFLiteFile(tflite).tensors if t.type == "INT8" and t.shape == (6, 16))
    assert kernel.scales.size == 6
    assert qr.verify_tflite(quantized, tflite, rows).ok


def test_an_even_bias_is_exported_right():
    x = keras.Input((4, 4, 2))
    model = keras.Model(x, layers.Conv2D(3, 1, bias_initializer="ones", name="conv")(x))
    scales = np.array([1.0, 0.01, 7.0], np.float32)
    model.get_layer("conv").kernel.assign(model.get_layer("conv").kernel * scales)
    quantized = qr.quantize_model(model)
    inputs = images(8, 4, 2)
    qr.calibrate(quantized, inputs)
    parity = qr.verify_tflite(quantized, qr.export_tflite(quantized), inputs)
    assert parity.ok
    bias = quantized.get_layer("quant_conv").layer.bias.numpy()
    assert (bias == 1.0).all(), "export must leave the model as it was"


def test_keras3_models_are_read():
    keras3 = pytest.importorskip("keras")
    x = keras3.Input((8, 8, 3))
    y = keras3.layers.Conv2D(4, 3, activation="relu")(x)
    model = keras3.Model(x, keras3.layers.GlobalAveragePooling2D()(y))
    quantized = qr.quantize_model(model)
    inputs = images(4, 8, 3)
    expected = np.asarray(model(inputs))
    assert np.abs(bypassed(quantized, inputs) - expected).max() < 1e-5 * np.ptp(expected)


def test_layers_that_have_no_integer_operator_are_all_named():
    x = keras.Input((6, 4, 4, 2))
    y = layers.Activation(tf.sin, name="wave")(layers.Conv3D(3, 2, name="volume")(x))
    model = keras.Model(x, y)
    with pytest.raises(ValueError, match=r"(?s)2 of the model's.*volume \(Conv3D\).*wave \(Acti"):
        qr.quantize_model(model)
    in_float = qr.summary(qr.quantize_model(model, unsupported="float"))
    assert "quant_volume: TFLite's CONV_3D" in in_float


def test_float_layers_stay_in_float():
    x = keras.Input((6,))
    y = layers.Dense(3, name="last")(layers.Dense(4, name="first")(x))
    model = qr.quantize_model(keras.Model(x, y), overrides={"last": qr.FLOAT})
    assert "quant_last" in qr.summary(model)
    assert "qr.FLOAT" in qr.summary(model)


def test_tensorflows_own_converter_gives_the_same_file(everything):
    _, model, x = everything
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    assert TFLiteFile(converter.convert()).float_operators() == {}


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((8, 6), layers.Dense(5, "relu")),
        ((6, 6, 4), layers.Dense(5)),
        ((8, 6), layers.Conv1D(5, 3, padding="same", dilation_rate=2)),
        ((8, 8, 4), layers.Conv2D(4, 3, padding="same", dilation_rate=2)),
        ((8, 8, 4), layers.DepthwiseConv2D(3, padding="same", dilation_rate=2)),
        ((8, 6), layers.Conv1DTranspose(5, 3, strides=2, activation="relu")),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_bias_that_is_not_zero_leaves_nothing_in_float(shape, layer):
    x = keras.Input(shape)
    model = keras.Model(x, layer(x))
    layer.bias.assign(np.linspace(-0.3, 0.2, layer.bias.shape[0]))
    inputs = np.random.default_rng(0).normal(size=(16, *shape)).astype(np.float32)
    quantized = qr.quantize_model(model)
    qr.calibrate(quantized, inputs)
    parity = qr.verify_tflite(quantized, qr.export_tflite(quantized), inputs)
    assert parity.float_operators == {}
    assert parity.max_steps <= 1.001
