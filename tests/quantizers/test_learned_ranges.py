"""Facts about learned ranges: their gradients, their limits, their life in a model."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.quantizers.learned_ranges import is_at_its_limit
from qat_round.quantizers.lsq_gradients import LEAST_GROWTH
from qat_round.quantizers.quantized_tensors import quantized_tensors
from tests.models import nets


def built(quantizer, shape=(3,), ends=(-1.0, 1.0)):
    weights = quantizer.build(shape, "x", keras.layers.Layer())
    quantizer.set_range(
        weights,
        np.broadcast_to(np.reshape(ends, (2, 1)), (2, shape[-1]))
        if quantizer.per_axis
        else np.array(ends),
    )
    return weights


def gradient_of(quantizer, weights, x, dy, name="growth"):
    with tf.GradientTape() as tape:
        y = quantizer(tf.constant(x, tf.float32), True, weights)
    return tape.gradient(y, weights[name], output_gradients=tf.constant(dy, tf.float32)).numpy()


@pytest.mark.parametrize("bits", [2, 4])
def test_the_steps_gradient_is_that_of_lsq(bits):
    rng = np.random.default_rng(0)
    x, dy = rng.uniform(-2, 2, 200), rng.normal(size=200)
    q = qr.RoundingQuantizer(bits, "ste", range="learned", symmetric=True)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    step = 0.3
    weights = built(q, ends=(low * step, high * step))
    v = x / step
    inside = np.floor(np.clip(v, low, high) + 0.5) - v
    by_step = np.where(v <= low, low, np.where(v >= high, high, inside))
    lsq = np.sum(dy * by_step) / np.sqrt(200 * high)  # Esser et al., equations 3 and 4
    found = gradient_of(q, weights, x, dy)
    assert found == pytest.approx(lsq * step / step**2, rel=1e-3)


def test_each_channel_has_a_step_of_its_own():
    q = qr.RoundingQuantizer(3, "ste", range="learned", symmetric=True, per_axis=True)
    weights = built(q, (4, 2), (-1.0, 0.75))
    x = np.tile([[0.4, 0.0]], (4, 1))
    found = gradient_of(q, weights, x, np.ones((4, 2)))
    assert found.shape == (2,)
    assert found[0] != 0.0
    assert found[1] == 0.0  # zeros are on every grid


def test_the_zero_point_learns_where_there_is_something_below_zero():
    q = qr.RoundingQuantizer(
        4, "ste", range=qr.ranges.get_range({"name": "learned", "zero_point": True})
    )
    weights = built(q, ends=(-0.5, 1.0))
    assert gradient_of(q, weights, [-3.0, 0.1, 0.3], [1.0, 1.0, 1.0], "offset") > 0.0
    behind_relu = built(q, ends=(0.0, 1.0))
    assert gradient_of(q, behind_relu, [0.0, 5.0], [1.0, 1.0], "offset") == 0.0


def test_pact_moves_its_end_by_what_it_cuts_off():
    q = qr.RoundingQuantizer(4, "ste", range="pact")
    weights = built(q, ends=(0.0, 2.0))
    assert gradient_of(q, weights, [0.3, 1.9], [1.0, 1.0]) == 0.0
    assert gradient_of(q, weights, [0.3, 2.5, 9.0], [5.0, 1.0, 3.0]) == pytest.approx(2.0 * 4.0)


def test_pact_adds_its_l2_term_to_the_loss():
    q = qr.quantize_model(
        nets.dense_net(), activations=qr.TensorSpec(range={"name": "pact", "l2": 0.5})
    )
    assert len(q.losses) == 4  # three layers' outputs and the input
    assert [float(loss) for loss in q.losses] == [0.5] * 4


def test_without_calibration_the_first_batch_sets_the_start():
    q = qr.RoundingQuantizer(4, "ste", range="learned")
    weights = q.build((3,), "x", keras.layers.Layer())
    q(tf.constant([0.0, 1.0, 3.0]), True, weights)
    q(tf.constant([0.0, 1.0, 300.0]), True, weights)
    assert float(weights["max_var"]) == 3.0


def test_a_tensor_that_saw_nothing_but_zero_waits_and_is_named():
    inputs = keras.Input((4,), name="row")
    dead = keras.layers.Dense(
        3, "relu", bias_initializer=keras.initializers.Constant(-99.0), name="dead"
    )
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(dead(inputs)))
    q = qr.quantize_model(model, weight_bits=4, activations=qr.TensorSpec(bits=4, range="learned"))
    with pytest.warns(UserWarning, match="quant_dead/output, .* saw nothing but 0"):
        qr.calibrate(q, nets.vectors(64, 4), method="mse")
    assert np.isfinite(q(nets.vectors(8, 4), training=True)).all()
    tensor = next(t for t in quantized_tensors(q) if t.path == "quant_dead/output")
    y = tensor.quantizer(tf.constant([0.0, 2.0]), True, tensor.weights)
    assert y.numpy().tolist() == [0.0, 2.0]


def test_calibration_on_one_value_gives_a_range_that_holds_it():
    q = qr.RoundingQuantizer(4, "ste", range="learned")
    weights = built(q, ends=q.measure(tf.fill([8], 2.5)).numpy())
    np.testing.assert_allclose(q(tf.fill([8], 2.5), False, weights), 2.5, rtol=1e-6)


@pytest.mark.parametrize("growth", [-5.0, 0.0, 1e30, float("nan")])
def test_a_wild_growth_leaves_a_positive_step_and_finite_values(growth):
    q = qr.RoundingQuantizer(4, "ste", range="learned")
    weights = built(q, ends=(-1.0, 1.0))
    weights["growth"].assign(growth)
    assert float(q.grid(weights).step) > 0.0
    for training in (True, False):
        assert np.isfinite(q(tf.constant([-1.0, 0.2, 3.0]), training, weights)).all()


def test_a_range_at_its_limit_is_reported_when_the_file_is_made():
    q = qr.quantize_model(nets.dense_net(), weights=qr.TensorSpec(bits=4, range="learned"))
    qr.calibrate(q, nets.vectors())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qr.export_tflite(q)
    tensor = next(t for t in quantized_tensors(q) if t.variable is not None)
    tensor.weights["growth"].assign(tf.fill(tensor.weights["growth"].shape, LEAST_GROWTH))
    assert is_at_its_limit(tensor.quantizer.range, tensor.weights)
    with pytest.warns(UserWarning, match="quant_dense_a/kernel to their limit"):
        qr.export_tflite(q)


def test_it_comes_back_from_its_limit():
    q = qr.RoundingQuantizer(4, "ste", range="learned")
    weights = built(q, ends=(0.0, 1.0))
    weights["growth"].assign(-1.0)
    assert gradient_of(q, weights, [0.5, 2.0], [-1.0, -1.0]) < 0.0  # a descent makes it grow


@pytest.mark.parametrize(
    "config",
    [
        {"name": "learned", "rate": 0.0},
        {"name": "pact", "l2": -1.0},
        {"name": "pact", "rate": -1.0},
    ],
)
def test_settings_out_of_range_are_refused(config):
    with pytest.raises(ValueError, match="has to be"):
        qr.ranges.get_range(config)


def test_a_learned_model_saves_loads_and_trains_on(tmp_path):
    q = qr.quantize_model(nets.dense_net(), recipe="w4a4")
    x = nets.vectors()
    qr.calibrate(q, x, method="mse")
    q.compile(keras.optimizers.Adam(1e-2), "mse")
    q.fit(x, np.ones((len(x), 3)), epochs=2, verbose=0)
    moved = [t.weights["growth"].numpy() for t in quantized_tensors(q) if "growth" in t.weights]
    assert any((growth != 1.0).any() for growth in moved)
    q.save(tmp_path / "q.keras")
    again = qr.load_model(tmp_path / "q.keras")
    np.testing.assert_array_equal(again(x, training=False), q(x, training=False))
    again.fit(x, np.ones((len(x), 3)), epochs=1, verbose=0)
