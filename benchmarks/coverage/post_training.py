"""TensorFlow's own post-training conversion of a float model to int8, as its guides have it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


def converted(model: Any, inputs: Sequence[np.ndarray]) -> bytes:
    """The file, from representative data, int8 operators only.

    The converter refuses recurrent layers with an open batch. LSTMs are then saved for one sample
    at a time, as in TensorFlow's guide, and become its own operator; the loops of GRU and SimpleRNN
    end the converter's process that way (segmentation fault, 2.21), as masked LSTMs do, so that
    they are unrolled.

    Args:
        model: a `tf_keras` model.
        inputs: an array for each of its inputs, all of them representative.
    """
    import tensorflow as tf

    kinds = _recurrent_kinds(model)
    if kinds != {"LSTM"} or any(layer.name.startswith("masking") for layer in model.layers):
        model = _unrolled(model) if kinds else model
        return _int8(tf.lite.TFLiteConverter.from_keras_model(model), inputs)
    with tempfile.TemporaryDirectory() as folder:
        _save_for_one(model, inputs, folder)
        return _int8(tf.lite.TFLiteConverter.from_saved_model(folder), inputs)


def _recurrent_kinds(model: Any) -> set[str]:
    layers = [getattr(layer, "layer", layer) for layer in model._flatten_layers()]
    return {type(x).__name__ for x in layers} & {"LSTM", "GRU", "SimpleRNN"}


def _unrolled(model: Any) -> Any:
    """A copy whose recurrent layers have an operator for each step."""
    import tf_keras

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        inner = config["layer"]["config"] if "layer" in config else config
        if "unroll" in inner:
            inner["unroll"] = True
        return type(layer).from_config(config)

    copy = tf_keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy


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
