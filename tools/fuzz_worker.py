"""Reads files whose paths come on standard input, and tells how it went; run by fuzz.py.

usage: fuzz_worker.py LIMIT_MB          a line of JSON, [verdict, what], for each path
       fuzz_worker.py --corpus FOLDER   writes the whole files that fuzz.py damages
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import sys
import warnings

import numpy as np
import tf_keras as keras

import qat_round as qr
from qat_round.data_files import read_data
from qat_round.recipe_file import read_recipe

RECIPE = """seed = 1
[model]
path = "net.keras"
[data]
train = "train.npz"
[quantize]
rounder = "sine"
[train]
epochs = 2
learning_rate = 1e-3
"""


def read_keras(path: str) -> None:
    """By both ways: as a float model to be quantized, and by Keras's own loader."""
    try:
        qr.quantize_model(path)
    except (ValueError, TypeError, OSError) as error:
        qr.load_model(path, compile=False)
        raise error from None


def read_tflite(path: str) -> None:
    qr.verify_tflite(np.zeros((2, 2), np.float32), path, np.zeros((2, 4), np.float32))


READERS = {".tflite": read_tflite, ".keras": read_keras, ".toml": read_recipe, ".npz": read_data}


def verdict(path: str, limit_mb: int) -> tuple[str, str]:
    before = peak_mb()
    try:
        READERS[pathlib.Path(path).suffix](path)
        found = ("read", "")
    except (ValueError, TypeError, OSError) as error:
        found = ("refused", type(error).__name__)
    except Exception as error:
        found = ("failed", f"{type(error).__name__}: {str(error)[:200]}")
    if peak_mb() - before > limit_mb:
        return "failed", f"took {peak_mb() - before:.0f} MB"
    return found


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_corpus(folder: pathlib.Path) -> None:
    rows = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    net = keras.Sequential([keras.layers.Dense(3, "relu", input_shape=(4,)), keras.layers.Dense(2)])
    net.save(folder / "whole.keras")
    (folder / "whole.tflite").write_bytes(
        qr.export_tflite(qr.calibrate(qr.quantize_model(net), rows))
    )
    (folder / "whole.toml").write_text(RECIPE)
    np.savez(folder / "whole.npz", x=rows, y=np.arange(32))


def main() -> None:
    if sys.argv[1] == "--corpus":
        write_corpus(pathlib.Path(sys.argv[2]))
        return
    told, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    warnings.simplefilter("ignore")
    told.write("ready\n")
    told.flush()
    for line in sys.stdin:
        told.write(json.dumps(verdict(line.strip(), int(sys.argv[1]))) + "\n")
        told.flush()


if __name__ == "__main__":
    main()
