"""Recurrent layers in integers: unrolled, equal, exported, and their weights found again."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.files.tflite_file import TFLiteFile
from qat_round.frontend.build import build
from qat_round.frontend.to_functional import read_graph, rewritten
from qat_round.frontend.write_back import write_back
from qat_round.layers.ops import Affine
from qat_round.lowering.lower import lower
from qat_round.quantizers.quantized_tensors import quantized_tensors as qr_tensors
from tests.models.probe import furthest

L = keras.layers
SERIES = (4, 3)


def sequences(count=6, shape=SERIES):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def net(make, shape=SERIES):
    """A model of one input, with weights that are nowhere zero."""
    keras.utils.set_random_seed(0)
    x = keras.Input(shape)
    return disturbed(keras.Model(x, make(x)), 1)


def disturbed(model, seed):
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if not isinstance(layer, (L.DepthwiseConv2D, Affine)):  # here they stand for constants
            layer.set_weights([w + rng.uniform(0.05, 0.3, w.shape) for w in layer.get_weights()])
    return model


def handed_on(x):
    _, *states = L.LSTM(2, return_state=True)(x)
    return L.LSTM(2, return_sequences=True)(x, initial_state=states)


def bidirectional_handed_on(x):
    _, *states = L.Bidirectional(L.LSTM(2, return_state=True))(x)
    return L.Bidirectional(L.LSTM(2))(x, initial_state=states)


def called_twice(x):
    layer = L.GRU(2, return_sequences=True)
    return layer(x), layer(L.ReLU()(x))


def tower():
    layers = [keras.Input(SERIES[1:]), L.Dense(4), L.ReLU(), L.Dense(2, activation="tanh")]
    return keras.Sequential(layers)


def bidirectional(mode, **options):
    return lambda x: L.Bidirectional(L.GRU(2, **options), merge_mode=mode)(x)


NETS = {
    "lstm": lambda x: L.LSTM(2)(x),
    "lstm, all out": lambda x: L.LSTM(2, return_sequences=True, return_state=True)(x),
    "lstm, no bias, backwards": lambda x: L.LSTM(2, use_bias=False, go_backwards=True)(x),
    "lstm, dropout": lambda x: L.LSTM(2, dropout=0.5, recurrent_dropout=0.5)(x),
    "lstm, keras 1": lambda x: L.LSTM(2, "relu", "hard_sigmoid")(x),
    "lstm, functions": lambda x: L.LSTM(2, tf.nn.relu6, tf.nn.sigmoid)(x),
    "lstm, one step": lambda x: L.LSTM(2)(L.Reshape([1, 12])(x)),
    "lstm, handed on": handed_on,
    "gru": lambda x: L.GRU(2)(x),
    "gru, all out": lambda x: L.GRU(2, return_sequences=True, return_state=True)(x),
    "gru, no bias": lambda x: L.GRU(2, use_bias=False, return_sequences=True)(x),
    "gru, reset before": lambda x: L.GRU(2, reset_after=False, go_backwards=True)(x),
    "gru, no bias, reset before": lambda x: L.GRU(2, reset_after=False, use_bias=False)(x),
    "gru, handed on": lambda x: L.GRU(3)(x, initial_state=L.GlobalAveragePooling1D()(x)),
    "gru, called twice": called_twice,
    "simple": lambda x: L.SimpleRNN(2, return_sequences=True)(x),
    "simple, linear": lambda x: L.SimpleRNN(2, None, return_sequences=True, use_bias=False)(x),
    "simple, swish": lambda x: L.SimpleRNN(2, "swish")(x),
    "cell": lambda x: L.RNN(L.LSTMCell(2), return_sequences=True, go_backwards=True)(x),
    "cells": lambda x: L.RNN([L.LSTMCell(3), L.GRUCell(2)], return_state=True)(x),
    "bidirectional": bidirectional("concat", return_sequences=True),
    "bidirectional, sum": bidirectional("sum", return_sequences=True, return_state=True),
    "bidirectional, mul": bidirectional("mul"),
    "bidirectional, ave": bidirectional("ave"),
    "bidirectional, none": bidirectional(None, return_sequences=True),
    "bidirectional, handed on": bidirectional_handed_on,
    "steps, dense": lambda x: L.TimeDistributed(L.Dense(2, "tanh"))(x),
    "steps, model": lambda x: L.TimeDistributed(tower())(x),
}


@pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
def test_unrolled_layers_compute_the_same_and_give_their_weights_back(make):
    model, x = net(make), sequences()
    unrolled = build(lower(rewritten(read_graph(model))))
    kept = (L.LSTM, L.GRU, L.SimpleRNN, L.RNN, L.Bidirectional, L.TimeDistributed)
    assert not [layer.name for layer in unrolled.layers if isinstance(layer, kept)]
    assert furthest(model, unrolled, x) < 1e-5
    disturbed(unrolled, 2)
    write_back(unrolled, model)
    assert furthest(unrolled, model, x) < 1e-5


@pytest.mark.parametrize("inner", [lambda: L.Conv2D(2, 2), lambda: L.LSTM(2), lambda: L.Flatten()])
def test_any_layer_runs_on_every_step(inner):
    shape = (3, 4, 2) if type(inner()) is L.LSTM else (3, 4, 4, 2)
    model = net(lambda x: L.TimeDistributed(inner())(x), shape)
    assert furthest(model, build(lower(rewritten(read_graph(model)))), sequences(4, shape)) < 1e-5


def test_a_norm_behind_a_convolution_on_every_step_is_right_behind_it():
    conv, norm = L.TimeDistributed(L.Conv2D(2, 2)), L.TimeDistributed(L.BatchNormalization())
    model = net(lambda x: norm(conv(x)), (3, 4, 4, 2))
    kinds = [type(layer).__name__ for layer in build(lower(rewritten(read_graph(model)))).layers]
    assert kinds == ["InputLayer", "MergeTime", "Conv2D", "BatchNormalization", "SplitTime"]


@pytest.mark.parametrize(
    "make",
    [
        lambda x: L.GRU(2, activation="softmax")(x),
        lambda x: L.LSTM(2, dropout=0.5)(x, training=True),
    ],
)
def test_what_cannot_be_unrolled_stays_and_is_named(make):
    with pytest.raises(ValueError, match=r"(LSTM|GRU|Bidirectional)\)"):
        qr.quantize_model(net(make))


MASKED = {
    "lstm": lambda: L.LSTM(2),
    "gru, all": lambda: L.GRU(2, return_sequences=True),
    "simple, backwards": lambda: L.SimpleRNN(2, go_backwards=True),
    "bidirectional": lambda: L.Bidirectional(L.LSTM(2)),
    "bidirectional, all": lambda: L.Bidirectional(L.LSTM(2, return_sequences=True)),
}


@pytest.mark.parametrize("source", ["words", "steps"])
@pytest.mark.parametrize("make", MASKED.values(), ids=MASKED.keys())
def test_masked_steps_are_left_out(make, source):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    if source == "words":
        x, masked = keras.Input((4,), dtype="int32"), L.Embedding(9, 3, mask_zero=True)
        data = rng.integers(1, 9, (6, 4))
    else:
        x, masked = keras.Input((4, 3)), L.Masking()
        data = rng.normal(size=(6, 4, 3)).astype(np.float32)
    data[:3, 2:] = 0
    model = keras.Model(x, L.Flatten()(make()(masked(x))))
    assert furthest(model, build(lower(rewritten(read_graph(model)))), data) < 1e-5


def test_an_unknown_number_of_steps_is_not_unrolled():
    with pytest.raises(ValueError, match=r"\(GRU\)"):
        qr.quantize_model(net(lambda x: L.GRU(2)(x), (None, 3)))


def test_many_steps_are_warned_of():
    model = net(lambda x: L.SimpleRNN(1)(x), (65, 1))
    with pytest.warns(UserWarning, match="A recurrent layer of 65 steps is written out"):
        lower(rewritten(read_graph(model)))


def test_all_steps_share_their_grid_and_the_sequence_stays_on_it():
    model = net(lambda x: L.GRU(2, return_sequences=True, name="gru")(x))
    quantized = qr.quantize_model(model)
    config = quantized.get_layer("quant_gru_sequence").quantize_config
    assert config.grid == "keeps"
    state = quantized.get_layer("quant_gru_state").quantize_config.output
    assert type(state.range).__name__ == "AllValues"


@pytest.fixture(scope="module")
def trained():
    """A calibrated model of all three layers, trained for two steps."""
    keras.utils.set_random_seed(0)
    x = keras.Input((2, 3))
    y = L.LSTM(4, return_sequences=True)(x)
    y = L.TimeDistributed(L.Dense(3, activation="relu"))(L.GRU(4, return_sequences=True)(y))
    model = keras.Model(x, L.Dense(2)(L.SimpleRNN(4)(y)))
    quantized = qr.quantize_model(model)
    data = sequences(64, (2, 3))
    qr.calibrate(quantized, data)
    quantized.compile(keras.optimizers.Adam(1e-3), "mse")
    before = quantized.predict(data, verbose=0)
    quantized.fit(data, np.ones((64, 2)), batch_size=32, verbose=0)
    assert np.abs(quantized.predict(data, verbose=0) - before).max() > 0.0
    return quantized, data


def test_the_file_is_all_integers_and_answers_as_keras_does(trained):
    model, data = trained
    tflite = qr.export_tflite(model)
    assert TFLiteFile(tflite).float_operators() == {}
    parity = qr.verify_tflite(model, tflite, data)
    assert parity.outputs[0].same >= 0.95
    assert parity.ok


def test_it_is_saved_and_loaded(trained, tmp_path):
    model, data = trained
    model.save(tmp_path / "q.keras")
    loaded = qr.load_model(tmp_path / "q.keras")
    same = loaded.predict(data, verbose=0), model.predict(data, verbose=0)
    np.testing.assert_array_equal(*same)


LAYERS = {
    "lstm": lambda x: L.LSTM(5, return_sequences=True)(x),
    "gru": lambda x: L.GRU(5)(x),
    "simple": lambda x: L.SimpleRNN(5)(x),
}
STEPS = (2, 3)


def calibrated(make, **settings):
    model = net(make, STEPS)
    data = sequences(128, STEPS)
    return model, qr.calibrate(qr.quantize_model(model, **settings), data), data


@pytest.mark.parametrize("name", [pytest.param("lstm", marks=pytest.mark.slow), "gru", "simple"])
def test_inside_are_16_bits_and_the_error_is_smaller_for_it(name):
    def error(state_bits):
        spec = qr.LayerSpec(state_bits=state_bits)
        model, quantized, data = calibrated(LAYERS[name], spec=spec)
        wanted, given = (tf.nest.flatten(m(data))[0] for m in (model, quantized))
        return float(tf.sqrt(tf.reduce_mean((given - wanted) ** 2)))

    assert error(16) < 0.8 * error(8)


@pytest.mark.parametrize("name", ["lstm", pytest.param("gru", marks=pytest.mark.slow), "simple"])
def test_the_wide_file_is_all_integers_and_as_keras_on_every_kernel(name):
    _, quantized, data = calibrated(LAYERS[name])
    tflite = qr.export_tflite(quantized, io="int8")
    file = TFLiteFile(tflite)
    assert file.float_operators() == {}
    assert file.tensor_types()["INT16"] >= 10
    read = {t for op in file.operators for t in (*op.inputs, *op.outputs)}
    ends = {*file.inputs, *file.outputs}
    assert set(range(len(file.tensors))) <= read | ends
    for kernels in ("default", "reference")[: 1 + (name == "simple")]:
        parity = qr.verify_tflite(quantized, tflite, data, kernels=kernels)
        assert parity.outputs[0].max_steps <= 1.01
        assert parity.outputs[0].same >= 0.97


def test_coverage_says_16_bits_or_what_was_asked():
    model = net(LAYERS["lstm"], STEPS)
    (row,) = [r for r in qr.coverage(model).layers if r.layer == "LSTM"]
    assert (row.outcome, row.why) == ("16-bit", "16-bit activations")
    narrow = qr.coverage(model, overrides={L.LSTM: qr.LayerSpec(state_bits=8)})
    assert {r.outcome for r in narrow.layers} == {"rewritten"}


def test_with_other_activations_than_sigmoid_and_tanh_all_has_8_bits():
    model = net(lambda x: L.LSTM(4, activation="relu")(x), STEPS)
    assert {r.outcome for r in qr.coverage(model).layers} == {"rewritten"}


@pytest.mark.parametrize("bits", [4, 16])
def test_where_other_bits_are_asked_there_is_no_change_of_grid(bits):
    _, quantized, _ = calibrated(LAYERS["lstm"], activation_bits=bits)
    assert {t.bits for t in qr_tensors(quantized) if t.variable is None} == {bits}
    assert not [layer.name for layer in quantized.layers if "narrow" in layer.name]


def test_a_state_of_other_bits_is_refused():
    with pytest.raises(ValueError, match=r"state_bits=4; allowed are \[None, 8, 16\]"):
        qr.LayerSpec(state_bits=4)


def test_the_bits_of_the_state_are_part_of_a_config():
    spec = qr.LayerSpec(state_bits=8)
    assert qr.LayerSpec.from_config(spec.get_config()) == spec
    assert "state_bits" not in qr.LayerSpec().get_config()


def test_an_override_has_the_last_word_on_the_bits_of_the_state():
    base = qr.LayerSpec(state_bits=8)
    assert qr.LayerSpec().over(base).state_bits == 8
    assert qr.LayerSpec(state_bits=16).over(base).state_bits == 16
    assert qr.FLOAT.over(base) == qr.FLOAT
