"""Reads files whose paths come on standard input, and tells how it went; run by fuzz.py.

usage: fuzz_worker.py LIMIT_MB          a line of JSON, [verdict, what], for each kind and path
       fuzz_worker.py --corpus FOLDER   writes the whole files that fuzz.py damages
"""

from __future__ import annotations

import faulthandler
import json
import os
import pathlib
import resource
import sys
import warnings

import numpy as np

import qat_round as qr  # before TensorFlow

import tensorflow as tf  # isort: skip
import tf_keras as keras  # isort: skip

from qat_round.files.data_files import read_data
from qat_round.files.inspect import inspected
from qat_round.pipeline.recipe_file import read_recipe
from qat_round.report.write_report import write_comparison

MANIFEST = {
    "ok": True,
    "figures": {"accuracy_device": 0.9, "file_bytes": 1000},
    "parity": {"max_steps": 1.0},
    "history": [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}],
}
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


def inspect(path: str) -> None:
    found = inspected(path)
    found.table(tensors=True)
    json.dumps(found.to_dict())


def read_images(path: str) -> None:
    """All images of the folder that holds the class that holds the image."""
    read_data(pathlib.Path(path).parents[1], shape=(8, 8, 3))


def read_manifest(path: str) -> None:
    write_comparison(pathlib.Path(path).with_suffix(".html"), [path])


LIMIT_S = 25  # then it says where it is, and ends
READERS = {
    "tflite": read_tflite,
    "inspect": inspect,
    "keras": read_keras,
    "keras3": read_keras,
    "h5": read_keras,
    "toml": read_recipe,
    "npz": read_data,
    "npy": read_data,
    "png": read_images,
    "jpg": read_images,
    "manifest": read_manifest,
}


def verdict(kind: str, path: str, limit_mb: int) -> tuple[str, str]:
    before = peak_mb()
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    try:
        READERS[kind](path)
        found = ("read", "")
    except (ValueError, TypeError, OSError) as error:
        found = ("refused", type(error).__name__)
    except Exception as error:
        found = ("failed", f"{type(error).__name__}: {str(error)[:200]}")
    finally:
        faulthandler.cancel_dump_traceback_later()
    if peak_mb() - before > limit_mb:
        return "failed", f"took {peak_mb() - before:.0f} MB"
    return found


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_corpus(folder: pathlib.Path) -> None:
    rows = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    net = keras.Sequential([keras.layers.Dense(3, "relu", input_shape=(4,)), keras.layers.Dense(2)])
    net.save(folder / "whole.keras")
    net.save(folder / "whole.h5")
    (folder / "whole.tflite").write_bytes(
        qr.export_tflite(qr.calibrate(qr.quantize_model(net), rows))
    )
    qr.add_metadata(folder / "whole.tflite", folder / "whole.inspect.tflite", name="a net")
    (folder / "whole.toml").write_text(RECIPE)
    np.savez(folder / "whole.npz", x=rows, y=np.arange(32))
    np.save(folder / "whole.npy", rows)
    (folder / "whole.manifest.json").write_text(json.dumps(MANIFEST))
    pixels = (255 * np.random.default_rng(0).random((12, 10, 3))).astype(np.uint8)
    (folder / "whole.png").write_bytes(tf.io.encode_png(pixels).numpy())
    (folder / "whole.jpg").write_bytes(tf.io.encode_jpeg(pixels).numpy())
    import keras as keras3

    layers = [keras3.layers.Dense(3, activation="relu"), keras3.layers.Dense(2)]
    keras3.Sequential([keras3.Input((4,)), *layers]).save(folder / "whole.keras3.keras")


def main() -> None:
    if sys.argv[1] == "--corpus":
        write_corpus(pathlib.Path(sys.argv[2]))
        return
    told, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    warnings.simplefilter("ignore")
    faulthandler.enable()
    told.write("ready\n")
    told.flush()
    for line in sys.stdin:
        kind, path = line.rstrip("\n").split("\t")
        told.write(json.dumps(verdict(kind, path, int(sys.argv[1]))) + "\n")
        told.flush()


if __name__ == "__main__":
    main()
