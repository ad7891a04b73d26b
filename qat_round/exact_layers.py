"""Which layers compute in whole numbers, and how; see `exact`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ._compat import keras, tf
from .exact import Clipped, Ints, Moved, Pair, Sums, note_pending, noted_ints, noted_pending
from .grids import GridClip, norm_constants
from .notes import noted_grid

_L = keras.layers
_EXACT_BITS = 8  # sums of products of wider integers are not exact in float32
_HALF = 256.0  # 16-bit numbers are summed in two halves
_KERNELS = {
    _L.Conv1D: "kernel",
    _L.Conv2D: "kernel",
    _L.Conv1DTranspose: "kernel",
    _L.Conv2DTranspose: "kernel",
    _L.DepthwiseConv1D: "depthwise_kernel",
    _L.DepthwiseConv2D: "depthwise_kernel",
    _L.Dense: "kernel",
}


def compute(wrapper: Any, inputs: Any) -> Any:
    """The layer's outputs, computed in whole numbers and noted as such; None where it cannot be.

    Args:
        wrapper: a GridWrapper whose quantized weights are set.
        inputs: what it was called on.
    """
    layer = wrapper.layer
    name = next((_KERNELS[cls] for cls in type(layer).__mro__ if cls in _KERNELS), None)
    if name is not None and type(layer).__module__.startswith(("tf_keras.", "qat_round.")):
        return _linear(wrapper, inputs, name)
    if isinstance(layer, _L.BatchNormalization):
        return _normed(layer, inputs)
    if isinstance(layer, (_L.ReLU, GridClip)) or _is_relu(layer):
        return _clipped(layer, inputs)
    if type(layer) in (_L.Add, _L.Multiply):
        return _joined(layer, inputs)
    return None


def _is_relu(layer: Any) -> bool:
    return type(layer) is _L.Activation and layer.activation is keras.activations.relu


def _clipped(layer: Any, inputs: Any) -> Any:
    """What a ReLU, or a clip to its grid's own ends, makes of sums."""
    pending = noted_pending(inputs) if tf.is_tensor(inputs) else None
    bent = getattr(layer, "negative_slope", 0.0) or getattr(layer, "threshold", 0.0)
    if not isinstance(pending, Sums | Pair) or bent:
        return None
    if not isinstance(layer, GridClip):
        high = getattr(layer, "max_value", None)
        pending = Clipped(pending, None if high is None else float(high))
    return note_pending(layer.call(inputs), pending)


def moved(x: Any) -> Any:
    """A tensor on a grid, noted as going to another one; itself where it is on none."""
    ints = ints_of(x)
    if ints is None or ints.bits > _EXACT_BITS:
        return x
    return note_pending(tf.identity(x), Moved(ints))


def ints_of(x: Any) -> Ints | None:
    """A tensor as whole numbers; None if it is on no grid, or on one for each channel."""
    found, grid = noted_ints(x), noted_grid(x)
    if found is not None or grid is None or not hasattr(grid.quantizer, "grid"):
        return found
    if x.dtype != tf.float32:
        return None
    step = tf.convert_to_tensor(grid.quantizer.grid(grid.weights).step)
    return None if step.shape.rank else Ints(tf.round(x / step), step, grid.quantizer.bits)


def _linear(wrapper: Any, inputs: Any, name: str) -> Any:
    x = ints_of(inputs) if tf.is_tensor(inputs) else None
    if x is None or len(wrapper._weight_vars) != 1:
        return None
    layer, (variable, quantizer, state) = wrapper.layer, wrapper._weight_vars[0]
    if not quantizer.symmetric or not _is_plain(layer):
        return None
    grid = quantizer.grid(state)
    kernel = tf.round(getattr(layer, name) / _against(quantizer, grid.step, variable.shape))
    with _as_sums(layer, name, kernel):
        acc = _summed(layer, x)
    bias = layer.bias if layer.use_bias else None
    sums = Sums(acc, x.step, tf.convert_to_tensor(grid.step), bias, isinstance(layer, _L.Dense))
    is_relu = getattr(layer, "activation", None) is keras.activations.relu
    return note_pending(layer.activation(sums.real()), Clipped(sums) if is_relu else sums)


def _summed(layer: Any, x: Ints) -> tf.Tensor:
    """Sums of products, exact: of 16-bit numbers by halves, put together in float64."""
    if x.bits <= _EXACT_BITS:
        return layer.call(x.values)
    high = tf.round(x.values / _HALF)
    parts = [tf.cast(layer.call(h), tf.float64) for h in (high, x.values - high * _HALF)]
    return parts[0] * _HALF + parts[1]


def _is_plain(layer: Any) -> bool:
    activation = getattr(layer, "activation", None)
    return activation in (keras.activations.linear, keras.activations.relu)


def _against(quantizer: Any, step: Any, shape: Any) -> tf.Tensor:
    """One step for each channel in a shape that goes with the weights."""
    step = tf.convert_to_tensor(step)
    if not step.shape.rank:
        return step
    if isinstance(quantizer.axis, tuple):
        return tf.reshape(step, [shape[axis] for axis in quantizer.axis])
    wide = [1] * shape.rank
    wide[quantizer.axis] = shape[quantizer.axis]
    return tf.reshape(step, wide)


@contextlib.contextmanager
def _as_sums(layer: Any, name: str, kernel: tf.Tensor) -> Iterator[None]:
    """While open, the layer gives products of whole numbers, without bias and activation."""
    kept = {key: getattr(layer, key) for key in (name, "use_bias", "activation")}
    plain = {name: kernel, "use_bias": False, "activation": keras.activations.linear}
    for key, value in plain.items():
        object.__setattr__(layer, key, value)
    try:
        yield
    finally:
        for key, value in kept.items():
            object.__setattr__(layer, key, value)


def _normed(layer: Any, inputs: Any) -> Any:
    sums = noted_pending(inputs) if tf.is_tensor(inputs) else None
    if not isinstance(sums, Sums) or sums.acc.shape[-1] != layer.moving_mean.shape[0]:
        return None
    normed = sums.normed(*norm_constants(layer))
    return note_pending(normed.real(), normed)


def _joined(layer: Any, inputs: Any) -> Any:
    sides = [side for side in map(ints_of, inputs) if side is not None]
    if len(inputs) != 2 or len(sides) != 2:
        return None
    a, b = sides
    if type(layer) is _L.Multiply and a.bits + b.bits > 2 * _EXACT_BITS:
        return None
    if type(layer) is _L.Add:
        return note_pending(layer.call(inputs), Pair(a, b))
    sums = Sums(a.values * b.values, a.step, b.step, None)
    return note_pending(sums.real(), sums)
