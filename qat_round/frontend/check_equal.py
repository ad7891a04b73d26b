"""Equal outputs, measured: two models on the same random input."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qat_round._compat import keras, tf

_UNKNOWN_SIZES = (64, 32, 128, 256)
_SMALL_INTEGER = 8


def parity(model: Any, original: Callable, *, seed: int = 0) -> float:
    """The largest difference of the outputs on random input, over the output's spread.

    Floats are standard normal, integers small and within every `Embedding`'s range. Sizes that
    are not fixed are 64, or another size that both models take. tf_keras has a fused kernel for
    batch norm, (x - mean) k + beta, Keras 3 the formula x k + (beta - mean k): the same number but
    for float32's rounding, which fifty layers amplify. So where the outputs differ they are
    computed by the formula as well, and what is nearer counts.

    Args:
        model: a `tf_keras` Functional model.
        original: a callable that takes the same structure of arrays and gives the same structure.
        seed: seed of the random input.

    Returns:
        max |a - b| / (max b - min b), the worst over all outputs; 0 if there is nothing to compare.

    Raises:
        ValueError: if the model cannot be run on random input.

    Example:
        >>> x = keras.Input([2])
        >>> model = keras.Model(x, keras.layers.ReLU()(x))
        >>> parity(model, model)
        0.0
    """
    inputs, wanted = _runnable(model, original, seed)
    difference = _worst(model(inputs, training=False), wanted)
    if not difference:
        return difference
    with _unfused(model):
        return min(difference, _worst(model(inputs, training=False), wanted))


@contextlib.contextmanager
def _unfused(model: Any) -> Iterator[None]:
    """While open, batch norms are computed by the formula, without the fused kernel."""
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization) and x.fused]
    for norm in norms:
        norm.fused = False
    try:
        yield
    finally:
        for norm in norms:
            norm.fused = True


def _runnable(model: Any, original: Callable, seed: int) -> tuple[Any, Any]:
    """Random inputs that the original takes, and what it makes of them."""
    open_sizes = any(n is None for tensor in model.inputs for n in tensor.shape[1:])
    failure = ""
    for size in _UNKNOWN_SIZES if open_sizes else _UNKNOWN_SIZES[:1]:
        inputs = _random_inputs(model, size, seed)
        try:
            return inputs, original(inputs)
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            failure = str(error)
    raise ValueError(
        f"Model '{model.name}' does not run on random input, so that intake's copy cannot be "
        f"compared with it: {failure}. If it needs special input, pass check=False."
    )


def check_equal(model: Any, original: Callable, tolerance: float = 1e-5) -> None:
    """Raises if the outputs differ by more than the tolerance.

    Args:
        model: what intake made.
        original: what it was made from.
        tolerance: allowed difference, relative to the output's spread.

    Raises:
        ValueError: if they differ by more.
    """
    difference = parity(model, original)
    if not difference <= tolerance:
        raise ValueError(
            f"Intake's copy of '{model.name}' is not equal to the original: outputs differ by "
            f"{difference:.2g} of their spread, {tolerance:g} is allowed. A layer whose output is "
            "random, or depends on state outside its weights, does this; if that is meant, pass "
            "check=False."
        )


def _random_inputs(model: Any, size: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    high = _vocabulary(model)
    arrays = [_random(tensor, size, high, rng) for tensor in model.inputs]
    return tf.nest.pack_sequence_as(model._nested_inputs, arrays)


def _vocabulary(model: Any) -> int:
    sizes = [x.input_dim for x in model.layers if isinstance(x, keras.layers.Embedding)]
    return min([_SMALL_INTEGER, *sizes])


def _random(tensor: Any, size: int, high: int, rng: np.random.Generator) -> Any:
    batch = tensor.shape[0] or 2
    shape = [batch, *(size if n is None else n for n in tensor.shape[1:])]
    dtype = tf.as_dtype(tensor.dtype)
    if dtype.is_bool:
        return tf.constant(rng.integers(0, 2, shape).astype(bool))
    if dtype.is_integer:
        return tf.constant(rng.integers(0, high, shape).astype(dtype.as_numpy_dtype))
    if not dtype.is_floating:
        raise ValueError(
            f"Input '{tensor.name}' has dtype {dtype.name}; intake takes floats, integers and "
            "booleans. Leave the layers that read text out of the model."
        )
    return tf.cast(rng.standard_normal(shape), dtype)


def _worst(found: Any, wanted: Any) -> float:
    pairs = zip(tf.nest.flatten(found), tf.nest.flatten(wanted), strict=True)
    return max((_difference(np.asarray(a), np.asarray(b)) for a, b in pairs), default=0.0)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    if a.shape != b.shape:
        return float("inf")
    if not a.size or np.array_equal(a, b, equal_nan=True):
        return 0.0
    if not (np.isfinite(a) == np.isfinite(b)).all():
        return float("inf")
    finite = np.isfinite(b)
    spread = np.ptp(b[finite]) if finite.any() else 0.0
    return float(np.abs(a - b)[finite].max(initial=0.0) / (spread or np.abs(b).max() or 1.0))
