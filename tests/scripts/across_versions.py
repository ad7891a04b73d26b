"""Saves models in every format, or loads them in another process, version or strategy.

usage: python -m tests.scripts.across_versions save FOLDER | load FOLDER
`load` prints a line of JSON: how far each model's predictions are from those where it was saved.
"""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from tests.models import nets

FORMATS = ("keras", "h5", "saved", "weights.h5", "ckpt", "checkpoint")
WEIGHTS_ONLY = ("weights.h5", "ckpt", "checkpoint")
ROWS = nets.vectors()
LABELS = np.arange(len(ROWS)) % 3


def quantized() -> keras.Model:
    spec = qr.TensorSpec(rounder="sigmoid", range="learned")
    return qr.quantize_model(nets.dense_net(), weights=spec, activations=spec)


def trained(model: keras.Model) -> keras.Model:
    nets.steps(nets.ready(qr.calibrate(model, ROWS)), ROWS, LABELS, 3)
    return model


def distributed() -> keras.Model:
    """Trained on two replicas."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, logical)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = nets.ready(qr.calibrate(quantized(), ROWS))
    model.fit(ROWS, LABELS, batch_size=32, shuffle=False, verbose=0)
    return model


FRESH = {  # what weights alone are loaded into
    "float": nets.dense_net,
    "annotated": lambda: qr.annotate_model(nets.dense_net(), qr.LayerSpec("sine")),
    "quantized": quantized,
    "training": lambda: nets.ready(quantized()),
    "distributed": lambda: nets.ready(quantized()),
}
MAKE = {
    "distributed": distributed,  # first: it sets up the devices
    "float": lambda: nets.ready(nets.dense_net()),
    "annotated": FRESH["annotated"],
    "quantized": lambda: qr.calibrate(quantized(), ROWS),
    "training": lambda: trained(quantized()),
}


def predicted(kind: str, model: keras.Model) -> np.ndarray:
    return model.predict(ROWS[:32], verbose=0) if kind == "float" else model(ROWS[:32]).numpy()


def save(folder: pathlib.Path) -> None:
    outputs = {}
    for kind, make in MAKE.items():
        model = make()
        outputs[kind] = predicted(kind, model)
        for ending in FORMATS:
            path = str(folder / f"{kind}.{ending}")
            if ending == "checkpoint":
                tf.train.Checkpoint(model=model).write(path)
            elif ending in WEIGHTS_ONLY:
                model.save_weights(path)
            elif ending == "saved":
                model.save(path, save_format="tf")
            else:
                model.save(path)
    np.savez(folder / "outputs.npz", **outputs)


def loaded(kind: str, ending: str, folder: pathlib.Path) -> keras.Model:
    path = str(folder / f"{kind}.{ending}")
    if ending not in WEIGHTS_ONLY:
        return keras.models.load_model(path)
    model = FRESH[kind]()
    if ending == "checkpoint":
        tf.train.Checkpoint(model=model).read(path).assert_existing_objects_matched()
    else:
        model.load_weights(path)
    return model


def load(folder: pathlib.Path) -> dict[str, float]:
    """(kind, format) -> furthest prediction from the one where it was saved; NaN is an error."""
    found = {}
    with np.load(folder / "outputs.npz") as outputs:
        for kind in FRESH:
            for ending in FORMATS:
                model = loaded(kind, ending, folder)
                furthest = np.abs(predicted(kind, model) - outputs[kind]).max()
                found[f"{kind}.{ending}"] = float(furthest)
                if kind in ("training", "distributed") and ending != "saved":
                    nets.steps(nets.ready(model), ROWS, LABELS, 1)  # goes on
    return found


if __name__ == "__main__":
    what, where = sys.argv[1], pathlib.Path(sys.argv[2])
    if what == "save":
        save(where)
    else:
        sys.stdout.write(json.dumps(load(where)) + "\n")
