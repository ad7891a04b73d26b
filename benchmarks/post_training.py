"""TensorFlow's own post-training conversion of a float model to int8, as its guides have it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


def converted(model: Any, inputs: Sequence[np.ndarray]) -> bytes:
    """The file, from representative data, int8 operators only.

    A model that the converter refuses with an open batch (all recurrent layers) is saved for one
    sample at a time first, as TensorFlow's guide to LSTMs does.

    Args:
        model: a `tf_keras` model.
        inputs: an array for each of its inputs, all of them representative.
    """
    import tensorflow as tf

    try:
        return _int8(tf.lite.TFLiteConverter.from_keras_model(model), inputs)
    except Exception:  # the converter's own classes of errors differ from version to version
        with tempfile.TemporaryDirectory() as folder:
            _save_for_one(model, inputs, folder)
            return _int8(tf.lite.TFLiteConverter.from_saved_model(folder), inputs)


def _int8(converter: Any, inputs: Sequence[np.ndarray]) -> bytes:
    import tensorflow as tf

    def samples() -> Iterator[list[np.ndarray]]:
        for at in range(len(inputs[0])):
            yield [array[at : at + 1] for array in inputs]

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = samples
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def _save_for_one(model: Any, inputs: Sequence[np.ndarray], folder: str) -> None:
    import tensorflow as tf

    names = [tensor.name.split(":")[0] for tensor in model.inputs]
    shapes = [
        tf.TensorSpec([1, *array.shape[1:]], array.dtype, name)
        for array, name in zip(inputs, names, strict=True)
    ]
    run = tf.function(lambda *given: model(list(given) if len(given) > 1 else given[0]))
    model.save(folder, save_format="tf", signatures=run.get_concrete_function(*shapes))
