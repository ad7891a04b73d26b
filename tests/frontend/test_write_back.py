"""Trained weights find their way back into the original."""

from __future__ import annotations

import numpy as np
import pytest

from qat_round._compat import keras, tf, tfmot
from qat_round.frontend.check_equal import parity
from qat_round.frontend.to_functional import conv1d_as_conv2d, split_separable, to_functional
from qat_round.frontend.write_back import write_back

L = keras.layers


def _nested():
    x = keras.Input([8, 8, 3])
    tower = keras.Sequential(
        [L.Conv2D(4, 3, activation=tf.nn.relu6, name="conv"), L.BatchNormalization(name="norm")]
    )
    y = L.SeparableConv2D(4, 3, name="separable")(tower(L.Rescaling(0.5)(x)))
    y = L.BatchNormalization(name="late")(L.ReLU()(y))
    y = L.Conv2D(3, 1, use_bias=False, name="conv")(y)
    y = L.BatchNormalization(name="last")(y)
    return keras.Model(x, L.Dense(2, name="head")(L.Flatten()(y)))


def _disturbed(model, seed=0):
    """All weights moved, but the constants of preprocessing."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if layer.trainable:
            for weight in layer.weights:
                weight.assign(weight + rng.uniform(0.05, 0.2, weight.shape))
    return model


@pytest.mark.parametrize("options", [{}, {"fold_batch_norm": True}])
def test_weights_come_back(options):
    original = _disturbed(_nested())
    trained = _disturbed(to_functional(original, **options), seed=1)
    assert parity(trained, original) > 1e-2
    write_back(trained, original)
    assert parity(trained, original) < 1e-5


def test_weights_come_back_from_split_layers():
    original = _disturbed(_nested())
    trained = conv1d_as_conv2d(split_separable(to_functional(original)))
    write_back(_disturbed(trained, seed=1), original)
    assert parity(trained, original) < 1e-5


def test_weights_come_back_from_one_dimension():
    original = keras.Sequential([keras.Input([9, 4]), L.Conv1D(3, 3), L.SeparableConv1D(2, 3)])
    trained = conv1d_as_conv2d(to_functional(original))
    write_back(_disturbed(trained), original)
    assert parity(trained, original) < 1e-5


@pytest.mark.parametrize("options", [{"center": False}, {"scale": False}, {}])
@pytest.mark.parametrize("use_bias", [True, False])
def test_folded_batch_norm_is_unfolded(options, use_bias):
    original = _disturbed(
        keras.Sequential(
            [
                keras.Input([8, 8, 3]),
                L.DepthwiseConv2D(3, use_bias=use_bias),
                L.BatchNormalization(**options),
            ]
        )
    )
    trained = _disturbed(to_functional(original, fold_batch_norm=True), seed=1)
    write_back(trained, original)
    assert parity(trained, original) < 1e-5


def test_weights_come_back_from_a_quantized_model():
    x = keras.Input([8, 8, 3])
    inner = keras.Sequential([L.Conv2D(4, 3, name="conv"), L.BatchNormalization(), L.ReLU()])
    original = _disturbed(keras.Model(x, L.Dense(2)(L.Flatten()(inner(x)))))
    functional = to_functional(original)
    quantized = tfmot.quantization.keras.quantize_model(functional)
    quantized.compile("sgd", "mse")
    quantized.fit(tf.ones([4, 8, 8, 3]), tf.zeros([4, 2]), epochs=2, verbose=0)
    before = inner.layers[0].kernel.numpy()
    write_back(quantized, original)
    wrapper = quantized.get_layer("quant_conv")
    kernel = next(w for w in wrapper.weights if w.name.endswith("kernel:0"))
    np.testing.assert_array_equal(inner.layers[0].kernel, kernel)
    assert not np.array_equal(before, kernel)


def test_subclassed_model_gets_its_weights():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.lstm, self.dense = L.Bidirectional(L.LSTM(3)), L.Dense(2)

        def call(self, x):
            return self.dense(self.lstm(x))

    original = Net()
    original(tf.ones([1, 5, 4]))
    trained = _disturbed(to_functional(original))
    write_back(trained, original)
    assert parity(trained, original) < 1e-5


def test_keras3_model_gets_its_weights():
    keras3 = pytest.importorskip("keras", minversion="3.0")
    x = keras3.Input((8, 4))
    y = keras3.layers.MultiHeadAttention(2, 3)(x, x)
    y = keras3.layers.Bidirectional(keras3.layers.GRU(3))(y)
    inner = keras3.Sequential([keras3.layers.Dense(4), keras3.layers.BatchNormalization()])
    original = keras3.Model(x, inner(y))
    trained = _disturbed(to_functional(original))
    write_back(trained, original)
    assert parity(trained, lambda t: np.asarray(original(t.numpy()))) < 1e-5


def test_another_model_is_refused():
    original = keras.Sequential([keras.Input([4]), L.Dense(3, name="dense")])
    other = keras.Sequential([keras.Input([4]), L.Dense(3, name="other")])
    with pytest.raises(ValueError, match=r"no weights for 1 layers of the original: \['dense'\]"):
        write_back(other, original)
    smaller = keras.Sequential([keras.Input([4]), L.Dense(2, name="dense")])
    with pytest.raises(ValueError, match="has no weight 'kernel' of 12 numbers"):
        write_back(smaller, original)


def test_folded_preprocessing_is_refused():
    original = keras.Sequential([keras.Input([4]), L.Rescaling(0.1), L.Dense(3)])
    trained = to_functional(original, fold_preprocessing=True)
    with pytest.raises(ValueError, match="fold_preprocessing=False"):
        write_back(trained, original)


def test_only_models_are_written_to():
    with pytest.raises(TypeError, match="given str"):
        write_back(keras.Sequential(), "model.keras")
