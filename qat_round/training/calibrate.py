"""Calibration: ranges from data, before training (or instead of it)."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qat_round._compat import keras, tf
from qat_round.models.inputs import batches, for_any_batch_size, is_arrays
from qat_round.quantizers.observers import observing
from qat_round.quantizers.quantized_tensors import (
    QuantizedTensor,
    quantized_tensors,
    require_quantized,
)
from qat_round.quantizers.quantizer import LEARNING, RoundingQuantizer
from qat_round.training.mean_ranges import widen_noise
from qat_round.training.range_search import (
    Histogram,
    Levels,
    best_ends,
    divergence,
    percentile_ends,
    squared_error,
)

METHODS = ("minmax", "percentile", "mse", "entropy")


def calibrate(
    model: Any,
    data: Any,
    method: str | None = None,
    batch_size: int = 32,
    percentile: float = 99.99,
    verbose: str | int = "auto",
    nonfinite: str = "error",
) -> Any:
    """Sets every range from data: one pass of the float model, nothing trained.

    The model runs as in inference with all quantizers taken out, so that no range depends on
    another's first guess; then each tensor's range becomes, by `method`,

        "minmax"      the least and greatest value seen
        "percentile"  what holds `percentile` % of the values other than 0
        "mse"         that of the least squared error on its grid, found by search
        "entropy"     that of the least Kullback-Leibler divergence (activations)

    Ranges of weights are found from the weights themselves, for each channel where they have one:
    by squared error under "mse", else from their ends. Below 8 bits only "mse" leaves the model a
    start from which it can be trained, so it is the default where any tensor has so few. (Training
    finds a weight's `last_value` range anew from its ends; a `learned` one goes on from here.)

    Args:
        model: a quantized model; only its ranges change, and only after all data was read.
        data: inputs as an array, a list or dict of arrays, or an iterable of batches (`tf.data`,
            a generator) of inputs or (inputs, labels). Read once.
        method: one of the four; None for "mse" where a tensor has fewer than 8 bits, else "minmax".
        batch_size: how many samples of arrays run at once.
        percentile: for that method; above 50, at most 100.
        verbose: 1 shows a progress bar, 0 none; "auto" where standard output is a terminal.
        nonfinite: what to do with a batch that holds NaN or infinity, or gives them inside of the
            model: "error", or "skip" it and warn with their number.

    Returns:
        The model.

    Raises:
        ValueError: for a model that is not quantized, an unknown method, a percentile out of its
            interval, or data that is empty, of the wrong shape, or not finite.
        TypeError: for data that is not numeric.

    Warns:
        UserWarning: how many batches were skipped.
        UserWarning: naming the tensors with a learned range that saw nothing but 0: they wait for
            the first batch that has another value.

    Example:
        >>> from qat_round.models.quantize import quantize_model
        >>> net = keras.Sequential([keras.layers.Dense(1, input_shape=(1,))])
        >>> q = quantize_model(net, activation_bits=4)
        >>> q = calibrate(q, np.linspace(-1.0, 1.0, 64)[:, None], method="mse")
    """
    require_quantized(model, "calibrate")
    tensors = [tensor for tensor in quantized_tensors(model) if tensor.is_ours]
    if method is None:
        method = "mse" if any(tensor.bits < 8 for tensor in tensors) else "minmax"
    if method not in METHODS:
        raise ValueError(f"calibrate: unknown method {method!r}; allowed are {METHODS}.")
    if not 50.0 < percentile <= 100.0:
        raise ValueError(
            f"calibrate: percentile={percentile} has to be above 50 and at most 100, in percent."
        )
    if nonfinite not in ("error", "skip"):
        raise ValueError(
            f'calibrate: nonfinite={nonfinite!r} is unknown; allowed are "error" and "skip".'
        )
    skipped: list[int] | None = [] if nonfinite == "skip" else None
    given = batches(model, data, batch_size, "calibrate", skipped)
    inputs = _FiniteBatches(_with_progress(given, data, batch_size, verbose), skipped)
    if method == "minmax":
        ends: Any = _least_and_greatest(model, inputs)
    else:
        seen = _histograms(model, inputs)
        find = {"mse": _by_error, "entropy": _by_entropy, "percentile": _by_percentile(percentile)}
        ends = _searched(tensors, seen, find[method], method == "mse")
    for tensor in tensors:
        found = ends.get(tensor.weights["min_var"].ref())
        if found is not None:
            tensor.quantizer.set_range(tensor.weights, found)
    widen_noise(model)
    _warn_of_zeros(tensors)
    if skipped:
        warnings.warn(
            f"calibrate: {len(skipped)} of the batches hold or give NaN or infinity and were "
            f"skipped (the first is number {min(skipped)}, counted from 0).",
            stacklevel=2,
        )
    return model


class _FiniteBatches:
    """Batches, and what to do with those that turn out to give NaN or infinity in the model."""

    def __init__(self, inputs: Iterator[Any], skipped: list[int] | None):
        self.inputs, self.skipped, self.used = inputs, skipped, 0

    def __iter__(self) -> Iterator[Any]:
        return self.inputs

    def takes(self, seen: list[np.ndarray], paths: list[str]) -> bool:
        """Whether what a batch gave may be used; raises unless such batches are to be skipped."""
        number = self.used + len(self.skipped or ())
        bad = [p for p, values in zip(paths, seen, strict=True) if not np.isfinite(values).all()]
        if not bad:
            self.used += 1
        elif self.skipped is None:
            raise ValueError(
                f"calibrate: batch {number} gives NaN or infinity at {', '.join(bad[:3])}, in the "
                "float model. Look at the weights and at the data's scale."
            )
        else:
            self.skipped.append(number)
        return not bad

    def close(self) -> None:
        """Raises if no batch could be used."""
        if not self.used:
            raise ValueError("calibrate: every batch holds or gives NaN or infinity.")


def _searched(
    tensors: list[QuantizedTensor],
    seen: dict[Any, Histogram],
    find: Callable[[Histogram, RoundingQuantizer], np.ndarray],
    weights_too: bool,
) -> dict[Any, np.ndarray]:
    """Ends by `min_var`: of activations from what was seen, of weights from themselves."""
    ends = {}
    for tensor in tensors:
        key = tensor.weights["min_var"].ref()
        if tensor.variable is None and key in seen:
            found = find(seen[key], tensor.quantizer)
            ends[key] = tensor.quantizer.measure(tf.constant(found, tf.float32)).numpy()
        elif tensor.variable is not None and weights_too:
            ends[key] = weight_ends(tensor.quantizer, tensor.variable)
    return ends


def weight_ends(quantizer: RoundingQuantizer, variable: Any) -> np.ndarray:
    """[lo, hi] of the least squared error for weights, for each channel that the grid has."""
    joined = quantizer.joined(tf.convert_to_tensor(variable)).numpy()
    values = np.atleast_1d(joined.astype(np.float64))
    axis = quantizer.grid_axis
    channels = 1 if axis is None else values.shape[axis]
    values = np.moveaxis(values, -1 if axis is None else axis, -1).reshape(-1, channels)
    ends = quantizer.measure(variable).numpy()
    found = best_ends(values, 1.0, ends.reshape(2, -1), levels_of(quantizer), squared_error)
    return found.reshape(ends.shape).astype(np.float32)


def levels_of(quantizer: RoundingQuantizer) -> Levels:
    """The levels that a quantizer's range has."""
    return Levels(quantizer.bits, quantizer.narrow_range, quantizer.symmetric)


def _by_error(seen: Histogram, quantizer: RoundingQuantizer) -> np.ndarray:
    return _by_badness(seen, quantizer, squared_error)


def _by_entropy(seen: Histogram, quantizer: RoundingQuantizer) -> np.ndarray:
    return _by_badness(seen, quantizer, divergence)


def _by_badness(seen: Histogram, quantizer: RoundingQuantizer, badness: Any) -> np.ndarray:
    ends = quantizer.measure(tf.constant([seen.lo, seen.hi], tf.float32)).numpy()
    return best_ends(*seen.values(), ends, levels_of(quantizer), badness)


def _by_percentile(percentile: float) -> Callable[[Histogram, RoundingQuantizer], np.ndarray]:
    return lambda seen, quantizer: percentile_ends(seen, percentile)


def _histograms(model: Any, data: _FiniteBatches) -> dict[Any, Histogram]:
    """What every activation's values were over all batches, by its `min_var`."""
    total: dict[Any, Histogram] = {}
    for key, values in _observed(model, data, lambda quantizer, x: tf.cast(x, tf.float32), False):
        total.setdefault(key, Histogram()).add(values)
    return total


def _least_and_greatest(model: Any, data: _FiniteBatches) -> dict[Any, np.ndarray]:
    """[lo, hi] of every observed tensor over all batches, by its `min_var`."""
    total: dict[Any, np.ndarray] = {}
    for key, ends in _observed(model, data, lambda quantizer, x: quantizer.measure(x), True):
        total[key] = _wider(total.get(key), ends)
    return total


def _observed(
    model: Any, data: _FiniteBatches, look: Callable[..., Any], weights_too: bool
) -> Iterator[tuple[Any, np.ndarray]]:
    """What `look(quantizer, x)` gives for each quantized tensor and batch, with its `min_var`."""
    keys: list[Any] = []
    own = {t.weights["min_var"].ref() for t in quantized_tensors(model) if t.variable is not None}
    paths = {t.weights["min_var"].ref(): t.path for t in quantized_tensors(model)}

    @for_any_batch_size(model)
    def looked(batch: Any) -> list[tf.Tensor]:
        found: list[tuple[Any, tf.Tensor]] = []

        def observer(quantizer: RoundingQuantizer, x: tf.Tensor, weights: Any) -> tf.Tensor:
            key = weights["min_var"].ref()
            if weights_too or key not in own:
                found.append((key, look(quantizer, x)))
            return quantizer.bypassed(x)

        with observing(observer, bypass=True):
            model(batch[0] if len(batch) == 1 else batch, training=False)
        keys[:] = [key for key, _ in found]
        return [seen for _, seen in found]

    for batch in data:
        results = [seen.numpy() for seen in looked(batch)]
        if data.takes(results, [paths.get(key, "") for key in keys]):
            yield from zip(keys, results, strict=True)
    data.close()


def _with_progress(
    inputs: Iterator[Any], data: Any, batch_size: int, verbose: str | int
) -> Iterator[Any]:
    if verbose not in ("auto", 0, 1):
        raise ValueError(f'calibrate: verbose={verbose!r} is unknown; allowed are "auto", 0 and 1.')
    shown = sys.stdout.isatty() if verbose == "auto" else bool(verbose)
    return _counted(inputs, _number_of_batches(data, batch_size)) if shown else inputs


def _counted(inputs: Iterator[Any], total: int | None) -> Iterator[Any]:
    bar = keras.utils.Progbar(total, unit_name="batch")
    for number, batch in enumerate(inputs, start=1):
        yield batch
        bar.update(number, finalize=number == total)


def _number_of_batches(data: Any, batch_size: int) -> int | None:
    """How many there will be, if it can be told."""
    if is_arrays(data):
        return -(-len(tf.nest.flatten(data)[0]) // batch_size)
    return len(data) if hasattr(data, "__len__") else None


def _warn_of_zeros(tensors: list[QuantizedTensor]) -> None:
    waiting = [t.path for t in tensors if isinstance(t.quantizer.range, LEARNING) and _is_zero(t)]
    if waiting:
        warnings.warn(
            f"calibrate: {', '.join(waiting)} saw nothing but 0, so that a learned range has "
            "nothing to start from; it waits for the first batch that has another value.",
            stacklevel=3,
        )


def _is_zero(tensor: QuantizedTensor) -> bool:
    return not (tensor.weights["max_var"].numpy() > tensor.weights["min_var"].numpy()).any()


def _wider(old: np.ndarray | None, new: np.ndarray) -> np.ndarray:
    if old is None:
        return new
    return np.stack([np.minimum(old[0], new[0]), np.maximum(old[1], new[1])])
