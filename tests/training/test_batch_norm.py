"""Batch-norm statistics: exact, folded from the start, and of norms that are called twice."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras as keras

import qat_round as qr
from tests.models import nets

# Batch norm.


def test_statistics_are_those_of_what_the_norms_see(float_net, pictures):
    q = qr.calibrate(qr.quantize_model(float_net, recipe="w2a4"), pictures[0][:128], "mse")
    x = pictures[0]
    qr.reestimate_batch_norm(q, x, batch_size=100)
    norms = [
        w
        for w in q.layers
        if isinstance(getattr(w, "layer", None), keras.layers.BatchNormalization)
    ]
    assert len(norms) == 2
    for wrapper in norms:
        seen = keras.Model(q.inputs, wrapper.input)(x, training=False).numpy().astype("float64")
        np.testing.assert_allclose(
            wrapper.layer.moving_mean, seen.mean((0, 1, 2)), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(wrapper.layer.moving_variance, seen.var((0, 1, 2)), rtol=1e-4)


def test_the_batch_size_does_not_matter(float_net, pictures):
    found = []
    for size in (50, 384):
        q = qr.calibrate(qr.quantize_model(float_net, recipe="w2a4"), pictures[0][:128], "mse")
        found.append(qr.reestimate_batch_norm(q, pictures[0], batch_size=size).get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


# Batch norm from the start.


def test_folded_batch_norm_is_in_the_kernels_from_the_start(float_net, pictures):
    x = pictures[0][:64]
    q = qr.calibrate(qr.quantize_model(float_net, batch_norm="folded"), x)
    assert not any("bn" in layer.name for layer in q.layers)
    live = qr.calibrate(qr.quantize_model(float_net), x)
    wanted = float_net.predict(x, verbose=0)
    errors = [np.abs(m.predict(x, verbose=0) - wanted).mean() for m in (q, live)]
    assert errors[0] < 1.5 * errors[1]
    nets.ready(q, rate=1e-4).fit(*pictures, epochs=1, verbose=0)
    parity = qr.verify_tflite(q, qr.export_tflite(q, io="int8"), x)
    assert parity.ok
    assert parity.max_steps <= 1.0


def test_folded_batch_norm_can_be_asked_for_by_a_recipe(float_net):
    recipe = qr.recipes()["w4a4"] | {"batch_norm": "folded"}
    assert len(qr.quantize_model(float_net, recipe=recipe).layers) < len(
        qr.quantize_model(float_net, recipe="w4a4").layers
    )
    with pytest.raises(ValueError, match="batch_norm='gone' is unknown"):
        qr.quantize_model(float_net, batch_norm="gone")


def test_folded_batch_norm_is_written_back(float_net, pictures):
    q = qr.calibrate(qr.quantize_model(float_net, batch_norm="folded"), pictures[0][:64])
    nets.ready(q, rate=1e-3).fit(*pictures, epochs=1, verbose=0)
    original = nets.conv_net()
    original.set_weights(float_net.get_weights())
    before = original.predict(pictures[0][:32], verbose=0)
    qr.write_back(q, original)
    after = original.predict(pictures[0][:32], verbose=0)
    ours = q.predict(pictures[0][:32], verbose=0)
    assert np.abs(after - ours).mean() < 0.2 * np.abs(ours - before).mean() + 0.05


L = keras.layers


def images(count=48, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, 8, 8, 3)) * rng.uniform(0.3, 1.0, (count, 1, 1, 1))).astype(
        np.float32
    )


def shared_norm():
    """One batch norm behind two convolutions."""
    keras.utils.set_random_seed(0)
    x, norm = keras.Input((8, 8, 3)), L.BatchNormalization(momentum=0.5, name="norm")
    arms = [L.ReLU()(norm(L.Conv2D(4, 3, use_bias=False, name=f"conv_{i}")(x))) for i in range(2)]
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(L.Concatenate()(arms))))


def siamese():
    """One tower of convolution and batch norm for two inputs."""
    keras.utils.set_random_seed(0)
    conv, norm = L.Conv2D(4, 3, use_bias=False, name="conv"), L.BatchNormalization(name="norm")
    norm.momentum = 0.5
    inputs = [keras.Input((8, 8, 3), name=name) for name in ("left", "right")]
    arms = [L.GlobalAveragePooling2D()(L.ReLU()(norm(conv(x)))) for x in inputs]
    return keras.Model(inputs, L.Dense(3)(L.Subtract()(arms)))


def settled(model, x):
    for _ in range(3):
        model(x, training=True)
    return model


def norm_of(quantized):
    return quantized.get_layer("quant_norm").layer


def check_file(quantized, x):
    parity = qr.verify_tflite(quantized, qr.export_tflite(quantized), x)
    assert parity.float_operators == {}
    assert parity.outputs[0].same >= 0.95
    assert parity.max_steps <= 1.001


def test_a_norm_behind_two_convolutions_gets_the_statistics_of_both():
    x = images()
    quantized = qr.calibrate(qr.quantize_model(settled(shared_norm(), x)), x)
    qr.reestimate_batch_norm(quantized, x, batch_size=20)
    seen = [
        keras.Model(quantized.inputs, quantized.get_layer(f"quant_conv_{i}").output)(x)
        for i in range(2)
    ]
    seen = np.concatenate([np.asarray(y, np.float64).reshape(-1, 4) for y in seen])
    norm = norm_of(quantized)
    np.testing.assert_allclose(norm.moving_mean, seen.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, seen.var(0), rtol=1e-4)
    check_file(quantized, x)


def test_the_norm_of_a_shared_convolution_stays_and_is_folded_in_the_file():
    x = [images(seed=0), images(seed=1) * 1.5]
    float_model = settled(siamese(), x)
    expected = np.asarray(float_model(x, training=False))
    quantized = qr.calibrate(qr.quantize_model(float_model), x)
    assert type(norm_of(quantized)) is L.BatchNormalization
    error = np.asarray(quantized(x, training=False)) - expected
    assert np.sqrt(np.mean(error**2)) < 0.05 * expected.std()
    check_file(quantized, x)
    before = norm_of(quantized).moving_mean.numpy()
    quantized.compile("sgd", "mse")
    quantized.fit(x, np.zeros((48, 3)), batch_size=16, verbose=0)
    assert np.abs(norm_of(quantized).moving_mean.numpy() - before).max() > 0.0
    qr.reestimate_batch_norm(quantized, x)
    check_file(quantized, x)


def test_what_reads_a_shared_convolution_besides_its_norm_keeps_the_norm_constant():
    keras.utils.set_random_seed(0)
    conv, norm = L.Conv2D(4, 3, name="conv"), L.BatchNormalization(name="norm")
    x = keras.Input((8, 8, 3))
    y, z = conv(x), conv(L.ReLU()(x))
    model = keras.Model(x, L.Concatenate()([norm(y), norm(z), z]))
    names = {type(getattr(layer, "layer", layer)) for layer in qr.quantize_model(model).layers}
    assert L.BatchNormalization not in names
