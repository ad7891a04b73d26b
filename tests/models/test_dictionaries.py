"""Models whose inputs and outputs are dictionaries, from float to a checked file."""

from __future__ import annotations

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import qat_round as qr

ROWS = 96
GENERATOR = np.random.default_rng(3)
INPUTS = {
    "picture": GENERATOR.uniform(size=(ROWS, 8, 8, 3)).astype(np.float32),
    "sensor": GENERATOR.normal(size=(ROWS, 6)).astype(np.float32),
}
TARGETS = {
    "kind": GENERATOR.integers(0, 4, ROWS),
    "place": GENERATOR.normal(size=(ROWS, 2)).astype(np.float32),
}


def two_in_two_out(keras):
    """The inputs in another order than their names', the outputs' names other than the keys."""
    sensor, picture = keras.Input((6,), name="sensor"), keras.Input((8, 8, 3), name="picture")
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="stem")(picture)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    y = keras.layers.Dense(8, activation="relu", name="inner")(sensor)
    x = keras.layers.Concatenate(name="joined")([x, y])
    kind = keras.layers.Dense(4, name="kind_logits")(x)
    place = keras.layers.Dense(2, name="where")(x)
    return keras.Model(
        {"sensor": sensor, "picture": picture}, {"place": place, "kind": kind}, name="twin"
    )


@pytest.fixture(scope="module", params=[tf_keras, keras3], ids=["tf_keras", "keras3"])
def trained(request):
    """Quantized, calibrated and trained with dictionaries from a `tf.data.Dataset`."""
    model = two_in_two_out(request.param)
    q = qr.quantize_model(model)
    data = tf.data.Dataset.from_tensor_slices((INPUTS, TARGETS)).batch(32)
    qr.calibrate(q, data)
    losses = {
        "kind": tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "place": "mse",
    }
    q.compile(tf_keras.optimizers.Adam(1e-3), losses)
    history = q.fit(data, epochs=4, verbose=0).history
    return model, q, history


def test_it_answers_with_the_keys_of_the_original(trained):
    model, q, _ = trained
    found, wanted = q.predict(INPUTS, verbose=0), model.predict(INPUTS, verbose=0)
    shapes = [{key: y.shape for key, y in answers.items()} for answers in (found, wanted)]
    assert shapes[0] == shapes[1]


def test_it_trains_on_dictionaries(trained):
    history = trained[2]
    assert history["loss"][-1] < history["loss"][0]
    parts = [history[f"{name}_loss"] for name in trained[1].output_names]  # each had its targets
    assert all(part[-1] < part[0] for part in parts)


def test_the_file_answers_the_same(trained):
    tflite = qr.export_tflite(trained[1], io="int8")
    parity = qr.verify_tflite(trained[1], tflite, INPUTS)
    assert parity.ok, parity.table()
    assert parity.max_steps <= 1.0
    assert len(parity.outputs) == 2


def test_the_signature_of_the_file_has_names_for_all(trained, tmp_path):
    path = tmp_path / "twin.tflite"
    qr.export_tflite(trained[1], path)
    interpreter = tf.lite.Interpreter(str(path))
    runner = interpreter.get_signature_runner()
    assert set(runner.get_input_details()) == {"sensor", "picture"}
    found = runner(**{name: values[:1] for name, values in INPUTS.items()})
    wanted = trained[1].predict({k: v[:1] for k, v in INPUTS.items()}, verbose=0)
    assert set(found) == set(trained[1].output_names)
    for values in wanted.values():
        (ours,) = (y for y in found.values() if y.shape == values.shape)
        np.testing.assert_allclose(ours, values, atol=0.1 + 0.02 * np.abs(values).max())


def test_it_comes_back_from_a_file(trained, tmp_path):
    path = tmp_path / "twin.keras"
    trained[1].save(path)
    again = qr.load_model(path)
    before, after = (m.predict(INPUTS, verbose=0) for m in (trained[1], again))
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)
