"""Batch norms that are called several times: folded where they can be, and exactly re-estimated."""

from __future__ import annotations

import numpy as np
import tf_keras as keras

import qat_round as qr

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
