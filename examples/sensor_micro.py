"""A 1-D net for a microcontroller: TFLite-Micro's own answer, its arena, and a budget.

    python examples/sensor_micro.py

The signal is real: MNIST digits as a line sensor scans them, 28 steps of 28 values. Writes
artifacts/sensor/scan.tflite, .c and .h. Needs the extra [edge]. Status 1 if TFLite-Micro answers
otherwise than LiteRT, or the budget is not kept.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
from mnist import load_images, train

import qat_round as qr

import tf_keras as keras  # isort: skip

OUT = pathlib.Path("artifacts/sensor")
FLASH, SRAM, MACS = 32 * 1024, 16 * 1024, 500_000  # what is left for the net on a small part


def net() -> keras.Model:
    """Three 1-D convolutions over time, the mean over time, ten logits."""
    inputs = x = keras.Input((28, 28), name="scan")
    for filters, strides in ((16, 1), (24, 2), (32, 2)):
        x = keras.layers.Conv1D(filters, 5, strides, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="digit")(x))


def main() -> int:
    """Trains, exports, runs it as the microcontroller does."""
    OUT.mkdir(parents=True, exist_ok=True)
    images = load_images()
    scans = images._replace(train=images.train[..., 0], test=images.test[..., 0])
    keras.utils.set_random_seed(0)
    model = train(net(), scans, epochs=8, rate=5e-3)

    q = qr.quantize_model(model)
    qr.calibrate(q, scans.train[:512])
    train(q, scans, epochs=2, rate=3e-4)
    tflite = qr.export_tflite(q, OUT / "scan.tflite", io="int8", batch_size=1)
    qr.export_c(tflite, OUT / "scan")

    run = qr.edge.run_micro(tflite, scans.test)
    (logits,) = run.outputs.values()
    accuracy = np.mean(logits.reshape(-1, 10).argmax(1) == scans.test_digits)
    print(f"TFLite-Micro: {accuracy:.1%} of 1,000 scans, arena {run.arena_bytes:,} bytes, ", end="")
    print(f"furthest from LiteRT {run.furthest:.0f} steps")

    budget = qr.edge.budget(tflite, flash=FLASH, sram=SRAM, ops=MACS)
    print(budget.table())
    return int(run.furthest > 1.001 or not budget.ok)


if __name__ == "__main__":
    sys.exit(main())
