"""Annotated by hand: each layer says its bits and rounder while the model is built.

    python examples/mixed_bits.py

Layers that are not annotated stay in float. `qr.quantize_model(overrides=...)` does the same to a
model that exists. Writes artifacts/mixed/digits.tflite. Status 1 if file and model differ.
"""

from __future__ import annotations

import pathlib
import sys

from mnist import load_images, tflite_accuracy, train

import qat_round as qr

import tf_keras as keras  # isort: skip

OUT = pathlib.Path("artifacts/mixed")

FOUR_BITS = qr.LayerSpec(weights=qr.TensorSpec(bits=4, rounder="sine"))
SOFT = qr.LayerSpec(weights=qr.TensorSpec(bits=8, rounder=qr.SigmoidRound(slope=4.0)))


def annotated_net() -> keras.Model:
    """Two dense layers of 4 bits, which hold most weights, between layers of 8."""
    marked = qr.annotate_layer
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            marked(keras.layers.Conv2D(8, 5, strides=2, activation="relu", name="eye"), SOFT),
            marked(keras.layers.Flatten(name="flat")),
            marked(keras.layers.Dense(32, "relu", name="wide"), FOUR_BITS),
            marked(keras.layers.Dense(32, "relu", name="middle"), FOUR_BITS),
            marked(keras.layers.Dense(10, name="digit")),
        ]
    )


def main() -> int:
    """Trains in float, quantizes as annotated, trains on, checks."""
    OUT.mkdir(parents=True, exist_ok=True)
    images = load_images()
    keras.utils.set_random_seed(0)
    annotated = train(annotated_net(), images, epochs=4, rate=3e-3)  # annotations do nothing yet

    q = qr.quantize_apply(annotated)
    qr.calibrate(q, images.train[:512])
    train(q, images, epochs=2, rate=3e-4)
    print(qr.summary(q))

    tflite = qr.export_tflite(q, OUT / "digits.tflite", io="int8")
    parity = qr.verify_tflite(q, tflite, images.test)
    print(parity.table())
    print(f"{tflite_accuracy(tflite, images):.1%} of 1,000 test images, {len(tflite):,} bytes")
    return int(not parity.ok)


if __name__ == "__main__":
    sys.exit(main())
