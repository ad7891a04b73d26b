"""Which layers compute in whole numbers, and how; see `numerics.integer_tensors`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from qat_round._compat import keras, tf
from qat_round.layers.shared_grid import GridClip, norm_constants
from qat_round.numerics.accumulators import Clipped, Ints, Leaky, Mean, Moved, Pair, Sums
from qat_round.numerics.integer_tensors import (
    note_fused,
    note_pending,
    noted_fused,
    noted_ints,
    noted_pending,
)
from qat_round.numerics.kernel_sets import Roundings, roundings
from qat_round.numerics.tensor_info import noted_grid

_L = keras.layers
_EXACT_BITS = 8  # sums of products of wider integers are not exact in float32, but in float64
_HALF = 256.0  # 16-bit numbers are summed in two halves
_LINEAR = {  # class -> its weights, and its kind of operator in `Roundings`
    _L.Conv1D: ("kernel", "convolution"),
    _L.Conv2D: ("kernel", "convolution"),
    _L.Conv1DTranspose: ("kernel", "transposed"),
    _L.Conv2DTranspose: ("kernel", "transposed"),
    _L.DepthwiseConv1D: ("depthwise_kernel", "depthwise"),
    _L.DepthwiseConv2D: ("depthwise_kernel", "depthwise"),
    _L.Dense: ("kernel", "dense"),
}

AFFINES: set[type] = set()
"""Layers that have a `scale` or an `offset` of constants; the room that owns them adds them."""

PRODUCTS: set[type] = {_L.Dot}
"""Layers that multiply two tensors and add up; the room that owns others adds them."""

REDUCTIONS: set[type] = set()
"""Layers that reduce axes, by the word in their `kind`; the room that owns them adds them."""

COMPUTED: dict[type, Callable[[Any, Any], Any]] = {}
"""Other layers that compute in whole numbers, and how: functions of (wrapper, inputs); the room
that owns them adds them."""

_MEANS = (_L.GlobalAveragePooling1D, _L.GlobalAveragePooling2D)


@tf.autograph.experimental.do_not_convert  # it calls Keras's own layers alone
def compute(wrapper: Any, inputs: Any) -> Any:
    """The layer's outputs, computed in whole numbers and noted as such; None where it cannot be.

    Args:
        wrapper: a GridWrapper whose quantized weights are set, and whose `kernels` are those that
            it computes as.
        inputs: what it was called on.
    """
    layer = wrapper.layer
    if type(layer) in COMPUTED:
        return COMPUTED[type(layer)](wrapper, inputs)
    linear = next((_LINEAR[cls] for cls in type(layer).__mro__ if cls in _LINEAR), None)
    if linear is not None and type(layer).__module__.startswith(("tf_keras.", "qat_round.")):
        return _linear(wrapper, inputs, *linear)
    if isinstance(layer, _L.BatchNormalization):
        return _normed(layer, inputs)
    if isinstance(layer, (_L.ReLU, GridClip)) or _is_relu(layer):
        return _clipped(layer, inputs)
    if type(layer) in (_L.Add, _L.Multiply, _L.Subtract):
        return _joined(wrapper, inputs)
    if type(layer) is _L.LeakyReLU:
        return _leaky(wrapper, inputs)
    if type(layer) in PRODUCTS:
        return _multiplied(wrapper, inputs)
    if type(layer) in _MEANS or (type(layer) in REDUCTIONS and layer.kind == "mean"):
        return _averaged(wrapper, inputs)
    return _against_a_number(wrapper, inputs) if type(layer) in AFFINES else None


def _is_relu(layer: Any) -> bool:
    return type(layer) is _L.Activation and layer.activation is keras.activations.relu


def _clipped(layer: Any, inputs: Any) -> Any:
    """What a ReLU, or a clip to its grid's own ends, makes of sums."""
    if not tf.is_tensor(inputs):
        return None
    pending = noted_pending(inputs)
    if noted_grid(inputs) is not None and not isinstance(layer, GridClip):
        pending = noted_fused(inputs)
    bent = getattr(layer, "negative_slope", 0.0) or getattr(layer, "threshold", 0.0)
    if not isinstance(pending, Sums | Pair) or bent:
        return None
    if not isinstance(layer, GridClip):
        high = getattr(layer, "max_value", None)
        pending = Clipped(pending, None if high is None else float(high))
    return note_pending(layer.call(inputs), pending)


def with_sums(layer: Any, rounded: Any, exact: Any) -> Any:
    """A dense layer's rounded output, with a note of the sums behind it.

    A ReLU that reads a dense layer is made one operator with a copy of it, whoever else reads the
    layer; so what the ReLU gets is not rounded before.
    """
    sums = noted_pending(exact)
    is_open = noted_grid(rounded) is None
    if type(layer) is not _L.Dense or not isinstance(sums, Sums) or is_open:
        return rounded
    return note_fused(rounded, sums)


def moved(wrapper: Any, x: Any) -> Any:
    """A tensor on a grid, noted as going to the wrapper's; itself where it is on none."""
    ints = ints_of(x)
    if ints is None or ints.bits > _EXACT_BITS:
        return x
    return note_pending(tf.identity(x), Moved(ints, _roundings(wrapper, ints).moved))


def ints_of(x: Any) -> Ints | None:
    """A tensor as whole numbers; None if it is on no grid, or on one for each channel."""
    found, grid = noted_ints(x), noted_grid(x)
    if found is not None or grid is None or not hasattr(grid.quantizer, "grid"):
        return found
    if x.dtype != tf.float32:
        return None
    step = tf.convert_to_tensor(grid.quantizer.grid(grid.weights).step)
    return None if step.shape.rank else Ints(tf.round(x / step), step, grid.quantizer.bits)


def _roundings(wrapper: Any, x: Ints, weight_bits: int = 8) -> Roundings:
    return roundings(wrapper.kernels, x.bits, weight_bits)


def _linear(wrapper: Any, inputs: Any, name: str, kind: str) -> Any:
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
    bias, step = layer.bias if layer.use_bias else None, tf.convert_to_tensor(grid.step)
    is_dense = kind == "dense"
    kind = "unbiased" if is_dense and bias is None else kind
    ties = getattr(_roundings(wrapper, x, quantizer.bits), kind)
    precision = "product" if is_dense and not step.shape.rank else "double"
    sums = Sums(acc, x.step, step, bias, ties, precision)
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


def _joined(wrapper: Any, inputs: Any) -> Any:
    layer, sides = wrapper.layer, [side for side in map(ints_of, inputs) if side is not None]
    if len(inputs) != 2 or len(sides) != 2 or sides[0].bits != sides[1].bits:
        return None
    a, b = sides
    if type(layer) is _L.Multiply:
        return _product(wrapper, a, b)
    how = _roundings(wrapper, a)
    if type(layer) is _L.Subtract:
        pair = Pair(a, b._replace(values=-b.values), how.sum, how.subtracted)
    else:
        pair = Pair(a, b, how.sum, how.summands)
    return note_pending(layer.call(inputs), pair)


def _product(wrapper: Any, a: Ints, b: Ints) -> Any:
    how = _roundings(wrapper, a)
    sums = Sums(_wide(a) * _wide(b), a.step, b.step, None, how.product, how.precision)
    return note_pending(sums.real(), sums)


def _wide(x: Ints) -> tf.Tensor:
    """The whole numbers, in a type that holds products of them."""
    return x.values if x.bits <= _EXACT_BITS else tf.cast(x.values, tf.float64)


def _leaky(wrapper: Any, inputs: Any) -> Any:
    layer, x = wrapper.layer, ints_of(inputs)
    if x is None:
        return None
    how = _roundings(wrapper, x)
    leaky = Leaky(x, float(layer.alpha), how.leaky, how.precision)
    return note_pending(layer.call(inputs), leaky)


def _multiplied(wrapper: Any, inputs: Any) -> Any:
    """Products of two tensors, added up."""
    layer, sides = wrapper.layer, [side for side in map(ints_of, inputs) if side is not None]
    if len(sides) != 2 or getattr(layer, "normalize", False) or sides[0].bits != sides[1].bits:
        return None
    a, b = sides
    acc, ties = layer.call([_wide(a), _wide(b)]), _roundings(wrapper, a).matrices
    sums = Sums(acc, a.step, b.step, None, ties, "product")
    return note_pending(sums.real(), sums)


def _averaged(wrapper: Any, inputs: Any) -> Any:
    layer, x, note = wrapper.layer, ints_of(inputs), noted_grid(inputs)
    if x is None or note is None or x.bits < _EXACT_BITS:
        return None
    values = _wide(x)
    means = layer.call(values)
    count = tf.cast(tf.size(values) / tf.size(means), means.dtype)
    zero = note.quantizer.grid(note.weights).zero_point - 2.0 ** (x.bits - 1)
    how = _roundings(wrapper, x)
    ties = how.kept_mean if _keeps_axes(values, means) else how.mean
    is_raw = ties == "sixteens"
    mean = Mean(tf.round(means * count), count, x.step, zero, ties, is_raw)
    return note_pending(layer.call(inputs), mean)


def _keeps_axes(values: tf.Tensor, means: tf.Tensor) -> bool:
    """Whether these are means over height and width that keep the axes."""
    shape = means.shape
    return shape.rank == 4 and shape[1:3] == (1, 1) and shape[3] == values.shape[3]


def _against_a_number(wrapper: Any, inputs: Any) -> Any:
    """A product or a sum with constants on one grid."""
    layer, x = wrapper.layer, ints_of(inputs)
    if x is None or len(wrapper._weight_vars) != 1 or x.bits > _EXACT_BITS:
        return None
    _, quantizer, state = wrapper._weight_vars[0]
    step = tf.convert_to_tensor(quantizer.grid(state).step)
    if step.shape.rank:
        return None
    is_product = layer.scale is not None
    constant = tf.round((layer.scale if is_product else layer.offset) / step)
    if not is_product:
        how = _roundings(wrapper, x)
        pair = Pair(x, Ints(constant, step), how.sum, how.summands)
        return note_pending(layer.call(inputs), pair)
    return _product(wrapper, x, Ints(constant, step))
