"""A Keras callback that tells what quantization does while a model trains."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from qat_round._compat import keras, tf
from qat_round.models.inputs import model_inputs
from qat_round.quantizers.observers import observing
from qat_round.quantizers.quantized_tensors import QuantizedTensor, quantized_tensors


class QuantizationLog(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
    """Logs ranges, scales, rounding errors, clipped and moved weights after every epoch.

    To TensorBoard, one curve for each tensor:
        range/low, range/high, scale  of every tensor with one grid (of channels: the widest)
        rounding_error                mean |w - q(w)| of weights, in steps, 0 to 0.25 or so
        moved                         share of weights on another level than an epoch ago
        turned                        share of weights that moved the other way than when they last
                                      moved: what oscillates (step by step: `OscillationMonitor`)
        clipped                       share of `inputs`' activations outside of their range
        skipped                       batches that moved no range, because they held or gave NaN or
                                      infinity (or no sample); of tensors whose range follows data
    and to Keras's own logs (History, CSVLogger) the means over all tensors, as `q_rounding_error`,
    `q_moved`, `q_turned` and `q_clipped`, and of `skipped` the most, as `q_skipped`. Put it in
    front of a CSVLogger, which writes what came before it.

    Args:
        log_dir: where TensorBoard looks; None for Keras's logs alone.
        inputs: a few real-valued inputs, for `clipped`; None leaves it out.

    Example:
        >>> QuantizationLog().on_train_begin is not None
        True
    """

    def __init__(self, log_dir: str | os.PathLike[str] | None = None, inputs: Any = None):
        super().__init__()
        self._writer = None if log_dir is None else tf.summary.create_file_writer(str(log_dir))
        self._inputs = inputs
        self._levels: dict[str, np.ndarray] = {}
        self._direction: dict[str, np.ndarray] = {}
        self._batches = 0
        self._seen: dict[str, float] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        self._levels = {t.path: _levels(t)[0] for t in self._weights()}
        self._direction = {path: np.zeros_like(levels) for path, levels in self._levels.items()}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._batches, self._seen = 0, _seen(self._quantized)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._batches += 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        found = {t.path: _range(t) for t in quantized_tensors(self._quantized) if t.is_ours}
        for tensor in self._weights():
            levels, error = _levels(tensor)
            found[tensor.path] |= {"rounding_error": error, **self._moves(tensor.path, levels)}
        if self._inputs is not None:
            for path, share in clipped_shares(self._quantized, self._inputs).items():
                found[path]["clipped"] = share
        for path, seen in _seen(self._quantized).items():
            found[path]["skipped"] = max(0.0, self._batches - (seen - self._seen[path]))
        self._write(epoch, found)
        if logs is not None:
            logs.update(_means(found))

    def on_train_end(self, logs: Any = None) -> None:
        if self._writer is not None:
            self._writer.flush()

    @property
    def _quantized(self) -> Any:
        return getattr(self.model, "student", self.model)  # of a qr.Distiller

    def _moves(self, path: str, levels: np.ndarray) -> dict[str, float]:
        """Shares of weights that moved and that turned since the last epoch."""
        change = np.sign(levels - self._levels[path])
        turned = change * self._direction[path] < 0.0
        self._direction[path] = np.where(change != 0.0, change, self._direction[path])
        self._levels[path] = levels
        return {"moved": float(np.mean(change != 0.0)), "turned": float(np.mean(turned))}

    def _weights(self) -> list[QuantizedTensor]:
        tensors = quantized_tensors(self._quantized)
        return [t for t in tensors if t.variable is not None and t.is_ours]

    def _write(self, epoch: int, found: dict[str, dict[str, float]]) -> None:
        if self._writer is None:
            return
        with self._writer.as_default(step=epoch):
            for path, figures in found.items():
                for name, value in figures.items():
                    tf.summary.write(f"{name}/{path}", tf.constant(value), metadata=_scalar())


def _scalar() -> Any:
    """What marks a value as a curve; `tf.summary.scalar` does so only with TensorBoard at hand."""
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = "scalars"
    return metadata


def clipped_shares(model: Any, inputs: Any) -> dict[str, float]:
    """{path: share of an activation's values outside of its range}, of the unquantized model.

    Args:
        model: a quantized model.
        inputs: real-valued inputs, run at once.
    """
    shares: dict[Any, float] = {}

    def observer(quantizer: Any, x: Any, weights: Any) -> Any:
        y = quantizer.bypassed(x)
        values = np.asarray(y)
        lo, hi = (np.asarray(weights[end]) for end in ("min_var", "max_var"))
        slack = 1e-6 * (hi - lo)
        shares[weights["min_var"].ref()] = float(
            np.mean((values < lo - slack) | (values > hi + slack))
        )
        return y

    arrays = model_inputs(model, inputs, "clipped_shares")
    with observing(observer, bypass=True):
        model(arrays if len(arrays) > 1 else arrays[0], training=False)
    return {
        t.path: shares[t.weights["min_var"].ref()]
        for t in quantized_tensors(model)
        if t.variable is None and t.weights["min_var"].ref() in shares
    }


def _range(tensor: QuantizedTensor) -> dict[str, float]:
    scale, _ = tensor.scale_and_zero_point()
    return {
        "range/low": float(np.min(tensor.weights["min_var"])),
        "range/high": float(np.max(tensor.weights["max_var"])),
        "scale": float(np.max(scale)),
    }


def in_steps(tensor: QuantizedTensor, on_grid: bool = False) -> Any:
    """A quantized weight in units of its (channel's) step; as trained, or on its grid."""
    quantizer, value = tensor.quantizer, tf.convert_to_tensor(tensor.variable)
    step = _spread(quantizer, quantizer.grid(tensor.weights).step, value)
    value = quantizer.infer(value, tensor.weights) if on_grid else value
    return tf.math.divide_no_nan(value, step)


def _levels(tensor: QuantizedTensor) -> tuple[np.ndarray, float]:
    """The weights' levels, and their mean distance from them, in steps."""
    levels = tf.round(in_steps(tensor, on_grid=True))
    error = tf.reduce_mean(tf.abs(in_steps(tensor) - levels))
    return levels.numpy(), float(error)


def _spread(quantizer: Any, step: Any, value: Any) -> Any:
    """One step for each channel, in a shape that goes with the weights."""
    if not step.shape.rank:
        return step
    axes = quantizer.axis if isinstance(quantizer.axis, tuple) else (quantizer.axis,)
    wide = [1] * value.shape.rank
    for axis in axes:
        wide[axis] = value.shape[axis]
    return tf.reshape(step, wide)


def _seen(model: Any) -> dict[str, float]:
    """How many batches moved the range of each activation that follows the data."""
    return {
        t.path: float(t.weights["seen"].numpy())
        for t in quantized_tensors(model)
        if t.is_ours and t.variable is None and t.quantizer.range.follows_data
    }


def _means(found: dict[str, dict[str, float]]) -> dict[str, float]:
    names = ("rounding_error", "moved", "turned", "clipped")
    values = {n: [f[n] for f in found.values() if n in f] for n in names}
    means = {f"q_{n}": float(np.mean(given)) for n, given in values.items() if given}
    skipped = [f["skipped"] for f in found.values() if "skipped" in f]
    return means | ({"q_skipped": max(skipped)} if skipped else {})
