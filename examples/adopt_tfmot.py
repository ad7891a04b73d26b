"""Stock TFMOT code goes on with another rounding method: one line, nothing trained is lost.

    python examples/adopt_tfmot.py

Status 1 if adopting changes a prediction, or the file differs from the model.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
from mnist import float_model, keras_accuracy, load_images, train

import qat_round as qr

import tensorflow_model_optimization as tfmot  # isort: skip
import tf_keras as keras  # isort: skip

OUT = pathlib.Path("artifacts/adopt")


def main() -> int:
    """Trains with TFMOT, adopts, trains on."""
    OUT.mkdir(parents=True, exist_ok=True)
    images = load_images()
    keras.utils.set_random_seed(0)
    model = train(float_model(), images, epochs=6, rate=5e-3)

    stock = tfmot.quantization.keras.quantize_model(model)  # your code of today
    train(stock, images, epochs=2, rate=1e-3)

    q = qr.adopt(stock, rounder="sine")  # the line that is new
    before, after = (m.predict(images.test, verbose=0) for m in (stock, q))
    same = bool(np.array_equal(before, after))
    print(f"predictions are those of the stock model: {'yes' if same else 'NO'}")

    train(q, images, epochs=1, rate=3e-4)
    tflite = qr.export_tflite(q, OUT / "digits.tflite", io="int8")
    parity = qr.verify_tflite(q, tflite, images.test)
    print(parity.table())
    print(f"stock {keras_accuracy(stock, images):.1%}, adopted {keras_accuracy(q, images):.1%}")
    return int(not (same and parity.ok))


if __name__ == "__main__":
    sys.exit(main())
