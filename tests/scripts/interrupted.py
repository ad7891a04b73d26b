"""Trains with BackupAndRestore, may be killed; run by training/test_interruption.py.

usage: python -m tests.scripts.interrupted FOLDER [callback ...]
Prints "epoch N" after each epoch, writes FOLDER/done.npz at the end.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import tf_keras as keras

import qat_round as qr
from tests.models import nets

EPOCHS, STEPS = 8, 8


class Told(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        sys.stdout.write(f"epoch {epoch + 1}\n")
        sys.stdout.flush()


def main(folder: pathlib.Path) -> None:
    keras.utils.set_random_seed(3)
    rows = nets.vectors(32 * STEPS)
    labels = rows[:, :3].argmax(-1)
    weights = qr.TensorSpec(bits=2, rounder="stochastic")
    outputs = qr.TensorSpec(rounder="sigmoid", range="learned")
    model = qr.quantize_model(nets.dense_net(), weights=weights, activations=outputs)
    nets.ready(qr.calibrate(model, rows), rate=1e-2)
    freeze = qr.FreezeOscillating(momentum=0.1, threshold=0.05)
    model.fit(
        rows,
        labels,
        batch_size=32,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[
            qr.Anneal("slope", qr.schedules.exponential(2.0, 200.0, steps=EPOCHS * STEPS)),
            freeze,
            keras.callbacks.BackupAndRestore(str(folder / "backup")),
            Told(),
        ],
    )
    weights_now = {f"w{i}": w for i, w in enumerate(model.get_weights())}
    np.savez(folder / "done.npz", frozen=freeze.frozen, **weights_now)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
