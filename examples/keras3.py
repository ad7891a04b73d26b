"""A Keras 3 model: quantized, trained on in tf_keras, and its weights written back to Keras 3.

    python examples/keras3.py

Status 1 if the file differs from the model.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
from mnist import load_images, tflite_accuracy, train

import qat_round as qr

import keras as keras3  # isort: skip

OUT = pathlib.Path("artifacts/keras3")


def net() -> keras3.Model:
    """Depthwise-separable convolutions with swish, as small nets of today have them."""
    inputs = x = keras3.Input((28, 28, 1))
    x = keras3.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(x)
    for filters in (24, 32):
        x = keras3.layers.SeparableConv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = keras3.layers.BatchNormalization(momentum=0.9)(x)
        x = keras3.layers.Activation("hard_swish")(x)
    x = keras3.layers.GlobalAveragePooling2D()(x)
    return keras3.Model(inputs, keras3.layers.Dense(10, name="digit")(x))


def main() -> int:
    """Trains in Keras 3, quantizes, exports, writes back."""
    OUT.mkdir(parents=True, exist_ok=True)
    images = load_images()
    keras3.utils.set_random_seed(0)
    model = net()
    loss = keras3.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras3.optimizers.Adam(5e-3), loss)
    model.fit(images.train, images.train_digits, batch_size=64, epochs=8, verbose=0)

    print(qr.coverage(model).table())
    q = qr.quantize_model(model)
    qr.calibrate(q, images.train[:512])
    train(q, images, epochs=2, rate=3e-4)

    tflite = qr.export_tflite(q, OUT / "digits.tflite", io="int8")
    parity = qr.verify_tflite(q, tflite, images.test)
    print(parity.table())
    qr.write_back(q, model)
    logits = np.asarray(model.predict(images.test, verbose=0))
    print(f"{tflite_accuracy(tflite, images):.1%} in the file, ", end="")
    print(f"{np.mean(logits.argmax(1) == images.test_digits):.1%} in Keras 3, weights written back")
    return int(not parity.ok)


if __name__ == "__main__":
    sys.exit(main())
