"""Loads every saved model of a folder in a process of its own; run by models/test_load_model.py."""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import tf_keras as keras

import qat_round as qr
from tests.models import nets


def reload(folder: pathlib.Path) -> None:
    """Writes predictions and the next losses of each model in the folder to `results.npz`."""
    given = np.load(folder / "data.npz")
    results = {}
    for path in sorted(folder.glob("model_*")):
        inputs = given[f"inputs_{path.name.split('.')[0]}"]
        model = keras.models.load_model(path)
        if path.suffix == ".keras":
            ours = qr.load_model(path)
            results[f"{path.name}/ours"] = ours(inputs, training=False).numpy()
        results[f"{path.name}/outputs"] = model(inputs, training=False).numpy()
        results[f"{path.name}/losses"] = nets.steps(model, inputs, given["labels"])
    np.savez(folder / "results.npz", **results)


if __name__ == "__main__":
    reload(pathlib.Path(sys.argv[1]))
