"""Data as users have it, in batches as a model takes them, each one checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from qat_round._compat import tf


def batches(
    model: Any, data: Any, batch_size: int, verb: str, skipped: list[int] | None = None
) -> Iterator[Any]:
    """Batches of inputs as the model takes them, each one checked.

    Args:
        model: the model whose inputs they have to fit.
        data: arrays, or an iterable of batches.
        batch_size: for arrays.
        verb: who asks, for the messages.
        skipped: gets the numbers of the batches that are not finite, which are left out; None to
            raise a ValueError for the first one.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"{verb}: batch_size={batch_size!r} has to be a whole number >= 1.")
    found = False
    for number, batch in enumerate(_split(model, data, batch_size, verb)):
        if skipped is not None and not all(_is_finite(array) for array in batch):
            skipped.append(number)
            continue
        check_inputs(model, batch, verb)
        found = found or bool(len(batch[0]))
        if len(batch[0]):
            yield batch
    if skipped and not found:
        raise ValueError(f"{verb}: every batch holds NaN or infinity.")
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
    if not _is_finite(array):
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(
            f"{verb}: the data holds NaN or infinity (first at {bad} of a batch). Clean it: "
            "nothing that comes of it would mean anything."
        )


def _is_finite(array: np.ndarray) -> bool:
    """Whether it holds neither NaN nor infinity; float8 to float64, bfloat16."""
    return array.dtype.kind in "iub" or bool(np.isfinite(array).all())


def _split(model: Any, data: Any, batch_size: int, verb: str) -> Iterator[Any]:
    if is_arrays(data):
        arrays = model_inputs(model, data, verb)
        sizes = {len(array) for array in arrays if array.ndim}
        if len(sizes) > 1:
            raise ValueError(f"{verb}: the inputs have different numbers of samples, {sizes}.")
        for start in range(0, max(sizes, default=0), batch_size):
            yield [array[start : start + batch_size] for array in arrays]
        return
    for batch in iterated(data, verb):
        yield model_inputs(model, batch, verb)


def iterated(data: Any, verb: str) -> Iterator[Any]:
    """Batches of inputs, without the labels that may come with them.

    Args:
        data: an iterable of batches.
        verb: who asks, for the message.
    """
    if not isinstance(data, Iterable):
        raise TypeError(
            f"{verb}: data is a {type(data).__name__}; give an array, a list or dict of arrays, a "
            "tf.data.Dataset or a generator of batches."
        )
    for batch in data:
        yield batch[0] if isinstance(batch, tuple) else batch


def is_arrays(data: Any) -> bool:
    """Whether the data are arrays, rather than batches of them."""
    leaves = tf.nest.flatten(data) if isinstance(data, (list, tuple, dict)) else [data]
    return bool(leaves) and all(isinstance(a, np.ndarray) or tf.is_tensor(a) for a in leaves)


def check_inputs(model: Any, arrays: list[np.ndarray], verb: str) -> None:
    """Raises a ValueError if arrays, one for each input, do not fit a model, or hold NaN."""
    inputs = model.inputs
    if len(arrays) != len(inputs):
        raise ValueError(f"{verb}: the model has {len(inputs)} inputs, the data {len(arrays)}.")
    for array, name, given in zip(arrays, model.input_names, inputs, strict=True):
        check_fit(array, name, given.shape, verb)


def for_any_batch_size(model: Any) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """A `tf.function` of one batch that is traced once, though the last batch mostly is smaller.

    Args:
        model: that the function calls; with a batch size of its own nothing is to vary.
    """
    inputs = model.inputs or ()
    varies = bool(inputs) and all(t.shape.rank and t.shape[0] is None for t in inputs)

    def decorate(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        traced = tf.function(function, reduce_retracing=True, autograph=False)
        begun: list[bool] = []

        def run(batch: Any) -> Any:
            if varies and not begun:
                begun.append(True)
                traced.get_concrete_function(tf.nest.map_structure(_any_size, batch))
            return traced(batch)

        return run

    return decorate


def _any_size(array: Any) -> tf.TensorSpec:
    array = tf.convert_to_tensor(array)
    return tf.TensorSpec([None, *array.shape[1:]], array.dtype)
