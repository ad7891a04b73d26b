"""Calibration: ranges from data, before training (or instead of it)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ._compat import tf
from .quantizers import RoundingQuantizer, observing
from .tensors import quantized_tensors, require_quantized

METHODS = ("minmax",)


def calibrate(model: Any, data: Any, method: str = "minmax", batch_size: int = 32) -> Any:
    """Sets every range from data: one pass of the float model, nothing trained.

    The model runs as in inference with all quantizers taken out, so that no range depends on
    another's first guess; then each tensor's range becomes the least and greatest value seen.

    Args:
        model: a quantized model; only its ranges change, and only after all data was read.
        data: inputs as an array, a list or dict of arrays, or an iterable of batches (`tf.data`,
            a generator) of inputs or (inputs, labels).
        method: "minmax".
        batch_size: how many samples of arrays run at once.

    Returns:
        The model.

    Raises:
        ValueError: for a model that is not quantized, an unknown method, or data that is empty,
            of the wrong shape, or holds NaN or infinity.
        TypeError: for data that is not numeric.
    """
    require_quantized(model, "calibrate")
    if method not in METHODS:
        raise ValueError(f"calibrate: unknown method {method!r}; allowed are {METHODS}.")
    tensors = [tensor for tensor in quantized_tensors(model) if tensor.is_ours]
    ends = _least_and_greatest(model, batches(model, data, batch_size, "calibrate"))
    for tensor in tensors:
        found = ends.get(tensor.weights["min_var"].ref())
        if found is not None:
            tensor.quantizer.set_range(tensor.weights, found)
    return model


def _least_and_greatest(model: Any, data: Iterable[Any]) -> dict[Any, np.ndarray]:
    """[lo, hi] of every observed tensor over all batches, by its `min_var`."""
    keys: list[Any] = []

    @tf.function(reduce_retracing=True)
    def measured(batch: Any) -> list[tf.Tensor]:
        found: list[tuple[Any, tf.Tensor]] = []

        def observer(quantizer: RoundingQuantizer, x: tf.Tensor, weights: Any) -> tf.Tensor:
            found.append((weights["min_var"].ref(), quantizer.measure(x)))
            return quantizer.bypassed(x)

        with observing(observer, bypass=True):
            model(batch[0] if len(batch) == 1 else batch, training=False)
        keys[:] = [key for key, _ in found]
        return [ends for _, ends in found]

    total: dict[Any, np.ndarray] = {}
    for batch in data:
        results = measured(batch)
        for key, ends in zip(keys, results, strict=True):
            total[key] = _wider(total.get(key), ends.numpy())
    return total


def _wider(old: np.ndarray | None, new: np.ndarray) -> np.ndarray:
    if old is None:
        return new
    return np.stack([np.minimum(old[0], new[0]), np.maximum(old[1], new[1])])


def batches(model: Any, data: Any, batch_size: int, verb: str) -> Iterator[Any]:
    """Batches of inputs as the model takes them, each one checked.

    Args:
        model: the model whose inputs they have to fit.
        data: arrays, or an iterable of batches.
        batch_size: for arrays.
        verb: who asks, for the messages.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"{verb}: batch_size={batch_size!r} has to be a whole number >= 1.")
    found = False
    for batch in _split(model, data, batch_size, verb):
        _check(model, batch, verb)
        found = True
        yield batch
    if not found:
        raise ValueError(f"{verb}: the data is empty; a few hundred typical inputs are needed.")


def model_inputs(model: Any, data: Any, verb: str) -> list[np.ndarray]:
    """Arrays in the order of the model's inputs, from an array, a list or a dict by input name."""
    if isinstance(data, Mapping):
        missing = [name for name in model.input_names if name not in data]
        if missing:
            raise ValueError(f"{verb}: the data lacks the inputs {missing}; it has {list(data)}.")
        data = [data[name] for name in model.input_names]
    arrays = list(data) if isinstance(data, (list, tuple)) else [data]
    return [numeric(array, verb) for array in arrays]


def numeric(values: Any, verb: str) -> np.ndarray:
    """The values as an array of numbers.

    Raises:
        TypeError: if they are none.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise TypeError(f"{verb}: data of dtype {array.dtype} is not numeric; give numbers.")
    return array


def check_fit(array: np.ndarray, name: str, shape: Any, verb: str) -> None:
    """Raises a ValueError if an array does not fit an input, or holds NaN or infinity.

    Args:
        array: the data.
        name: the input's name.
        shape: its shape, None where any size will do.
        verb: who asks, for the message.
    """
    shape = tuple(shape)
    if not tf.TensorShape(shape).is_compatible_with(array.shape):
        raise ValueError(
            f"{verb}: data of shape {array.shape} does not fit the input {name!r} of shape {shape} "
            "(None: any size)."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(
            f"{verb}: the data holds NaN or infinity (first at {bad} of a batch). Clean it: "
            "nothing that comes of it would mean anything."
        )


def _split(model: Any, data: Any, batch_size: int, verb: str) -> Iterator[Any]:
    if _is_arrays(data):
        arrays = model_inputs(model, data, verb)
        sizes = {len(array) for array in arrays if array.ndim}
        if len(sizes) > 1:
            raise ValueError(f"{verb}: the inputs have different numbers of samples, {sizes}.")
        for start in range(0, max(sizes, default=0), batch_size):
            yield [array[start : start + batch_size] for array in arrays]
    elif isinstance(data, Iterable):
        for batch in data:
            yield model_inputs(model, batch[0] if isinstance(batch, tuple) else batch, verb)
    else:
        raise TypeError(
            f"{verb}: data is a {type(data).__name__}; give an array, a list or dict of arrays, a "
            "tf.data.Dataset or a generator of batches."
        )


def _is_arrays(data: Any) -> bool:
    leaves = tf.nest.flatten(data) if isinstance(data, (list, tuple, dict)) else [data]
    return bool(leaves) and all(isinstance(a, np.ndarray) or tf.is_tensor(a) for a in leaves)


def _check(model: Any, arrays: list[np.ndarray], verb: str) -> None:
    inputs = model.inputs
    if len(arrays) != len(inputs):
        raise ValueError(f"{verb}: the model has {len(inputs)} inputs, the data {len(arrays)}.")
    for array, name, given in zip(arrays, model.input_names, inputs, strict=True):
        check_fit(array, name, given.shape, verb)
