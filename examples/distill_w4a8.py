"""4-bit weights, taught by the float model.

    python examples/distill_w4a8.py

Writes artifacts/distill/digits.tflite. Status 1 if the file differs from the model.
"""

from __future__ import annotations

import pathlib
import sys

from mnist import float_model, keras_accuracy, load_images, tflite_accuracy, train

import qat_round as qr

import tf_keras as keras  # isort: skip

OUT = pathlib.Path("artifacts/distill")


def main() -> int:
    """Trains the teacher, then the student."""
    OUT.mkdir(parents=True, exist_ok=True)
    images = load_images()
    keras.utils.set_random_seed(0)
    teacher = train(float_model(), images, epochs=8, rate=5e-3)

    student = qr.quantize_model(teacher, recipe="w4a8")
    qr.calibrate(student, images.train[:512])
    train(qr.Distiller(student, teacher, share=0.9, temperature=2.0), images, epochs=3, rate=1e-3)
    qr.reestimate_batch_norm(student, images.train)

    tflite = qr.export_tflite(student, OUT / "digits.tflite", io="int8")
    parity = qr.verify_tflite(student, tflite, images.test)
    print(parity.table())
    print(f"float {keras_accuracy(teacher, images):.1%}, ", end="")
    print(f"4-bit file {tflite_accuracy(tflite, images):.1%}, {len(tflite):,} bytes")
    return int(not parity.ok)


if __name__ == "__main__":
    sys.exit(main())
