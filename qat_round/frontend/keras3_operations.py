"""Keras 3 operations (`keras.ops`) as TensorFlow operators.

One row per operation: a function of its config and its inputs. Called on symbolic tensors it
records `TFOpLambda` layers, which `operators` then turns into layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qat_round._compat import keras, tf
from qat_round.layers import activation_functions, ops

Operation = Callable[..., Any]


def operation(name: str) -> Operation | None:
    """The function of an operation's class name, None where there is none.

    Example:
        >>> operation("Add")({}, 1, 2).numpy().item()
        3
    """
    return _TABLE.get(name)


def names() -> list[str]:
    """The operations that are known."""
    return sorted(_TABLE)


def _plain(fn: Callable) -> Operation:
    return lambda config, *args, **kwargs: fn(*args)


def _reduction(fn: Callable) -> Operation:
    return lambda c, x, **kwargs: fn(x, axis=c.get("axis"), keepdims=bool(c.get("keepdims")))


def _pair(fn: Callable) -> Operation:
    return lambda config, x1, x2, **kwargs: fn(*_one_dtype(x1, x2))


def _one_dtype(x1: Any, x2: Any) -> tuple[Any, Any]:
    """Both as tensors of one dtype: the float one, where only one is float."""
    known = [tf.as_dtype(x.dtype) for x in (x1, x2) if hasattr(x, "_keras_history")]
    floats = [dtype for dtype in known if dtype.is_floating]
    wanted = (floats or ([tf.float32] if _has_float((x1, x2)) else known) or [None])[0]
    return _as_dtype(x1, wanted), _as_dtype(x2, wanted)


def _has_float(values: Any) -> bool:
    return any(not hasattr(x, "_keras_history") and np.asarray(x).dtype.kind == "f" for x in values)


def _as_dtype(x: Any, dtype: Any) -> Any:
    if not hasattr(x, "_keras_history"):
        return tf.cast(tf.convert_to_tensor(x), dtype) if dtype else tf.convert_to_tensor(x)
    return x if tf.as_dtype(x.dtype) == dtype else tf.cast(x, dtype)


def _reshape(c: Mapping, x: Any) -> Any:
    shape = list(c["newshape"])
    known = [n for n in shape if n is not None]
    if len(known) < len(shape):
        shape = [-1 if n is None else n for n in shape]
    return tf.reshape(x, shape)


def _transpose(c: Mapping, x: Any) -> Any:
    return tf.transpose(x, c.get("axes"))


def _squeeze(c: Mapping, x: Any) -> Any:
    axis = c.get("axis")
    return tf.squeeze(x, axis if axis is None or isinstance(axis, (list, tuple)) else [axis])


def _expand_dims(c: Mapping, x: Any) -> Any:
    axis = c["axis"]
    for one in axis if isinstance(axis, (list, tuple)) else [axis]:
        x = tf.expand_dims(x, one)
    return x


def _pad(c: Mapping, x: Any, constant_values: Any = None) -> Any:
    mode = c.get("mode", "constant").upper()
    width = c["pad_width"]
    if isinstance(width, int):
        width = [[width, width]] * len(x.shape)
    return tf.pad(x, [list(w) for w in width], mode, constant_values or 0)


def _split(c: Mapping, x: Any) -> Any:
    axis, parts = c.get("axis", 0), c["indices_or_sections"]
    if isinstance(parts, int):
        return tf.split(x, parts, axis)
    edges = [0, *parts, x.shape[axis]]
    return tf.split(x, [b - a for a, b in zip(edges, edges[1:], strict=False)], axis)


def _getitem(config: Mapping, x: Any, key: Any) -> Any:
    return x[tuple(key) if isinstance(key, list) else key]


def _leaky(c: Mapping, x: Any) -> Any:
    return tf.nn.leaky_relu(x, c.get("negative_slope", 0.2))


def _elu(c: Mapping, x: Any) -> Any:
    return keras.layers.ELU(alpha=float(c.get("alpha", 1.0)))(x)


def _softmax(c: Mapping, x: Any) -> Any:
    axis = c.get("axis", -1)
    return keras.layers.Softmax(axis=axis)(x)


def _resize(c: Mapping, x: Any) -> Any:
    odd = ("antialias", "crop_to_aspect_ratio", "pad_to_aspect_ratio")
    if any(c.get(name) for name in odd) or c.get("data_format") == "channels_first":
        raise ValueError(f"ops.image.resize with one of {odd} has no equal in tf_keras.")
    return tf.image.resize(x, c["size"], c.get("interpolation", "bilinear"))


def _pool(fn: Callable) -> Operation:
    def pool(c: Mapping, x: Any) -> Any:
        size, strides = c["pool_size"], c.get("strides")
        return fn(x, size, strides or size, c.get("padding", "valid").upper())

    return pool


def _swapaxes(c: Mapping, x: Any) -> Any:
    order = list(range(len(x.shape)))
    a, b = c["axis1"], c["axis2"]
    order[a], order[b] = order[b], order[a]
    return tf.transpose(x, order)


def _var(c: Mapping, x: Any) -> Any:
    return tf.math.reduce_variance(x, axis=c.get("axis"), keepdims=bool(c.get("keepdims")))


def _normalize(c: Mapping, x: Any) -> Any:
    if c.get("order", 2) != 2:
        raise ValueError(f"ops.normalize of order {c['order']} is not known; order 2 is.")
    epsilon = c.get("epsilon", 1e-12)
    return tf.nn.l2_normalize(x, axis=c.get("axis", -1), epsilon=epsilon**2)


def _layer(cls: type) -> Operation:
    return lambda config, x: cls()(x)


def _activated(fn: Any) -> Operation:
    return lambda config, x: keras.layers.Activation(fn)(x)


def _space_block(cls: Any) -> Operation:
    return lambda c, x: cls(c.get("block_size"))(x)


_TABLE: dict[str, Operation] = {
    "Add": _pair(tf.math.add),
    "Subtract": _pair(tf.math.subtract),
    "Multiply": _pair(tf.math.multiply),
    "Divide": _pair(tf.math.truediv),
    "TrueDivide": _pair(tf.math.truediv),
    "Power": _pair(tf.math.pow),
    "Maximum": _pair(tf.math.maximum),
    "Minimum": _pair(tf.math.minimum),
    "Matmul": _pair(tf.linalg.matmul),
    "Equal": _pair(tf.math.equal),
    "NotEqual": _pair(tf.math.not_equal),
    "Greater": _pair(tf.math.greater),
    "GreaterEqual": _pair(tf.math.greater_equal),
    "Less": _pair(tf.math.less),
    "LessEqual": _pair(tf.math.less_equal),
    "LogicalNot": _plain(tf.math.logical_not),
    "LogicalAnd": _plain(tf.math.logical_and),
    "LogicalOr": _plain(tf.math.logical_or),
    "Any": _reduction(tf.math.reduce_any),
    "All": _reduction(tf.math.reduce_all),
    "Where": lambda c, condition, x1, x2: tf.where(condition, x1, x2),
    "Negative": _plain(tf.math.negative),
    "Square": _plain(tf.math.square),
    "Sqrt": _plain(tf.math.sqrt),
    "Rsqrt": _plain(tf.math.rsqrt),
    "Absolute": _plain(tf.math.abs),
    "Exp": _plain(tf.math.exp),
    "Log": _plain(tf.math.log),
    "Sin": _plain(tf.math.sin),
    "Cos": _plain(tf.math.cos),
    "Tanh": _plain(tf.math.tanh),
    "Sigmoid": _plain(tf.math.sigmoid),
    "Relu": _plain(tf.nn.relu),
    "Relu6": _plain(tf.nn.relu6),
    "Silu": _plain(tf.nn.silu),
    "Selu": _plain(tf.nn.selu),
    "Softplus": _plain(tf.math.softplus),
    "Softsign": _plain(tf.nn.softsign),
    "LeakyRelu": _leaky,
    "Elu": _elu,
    "Gelu": lambda c, x: tf.nn.gelu(x, bool(c.get("approximate", True))),
    "HardSigmoid": _layer(ops.HardSigmoid),
    "HardSilu": _layer(ops.HardSwish),
    "HardTanh": _activated(activation_functions.hard_tanh),
    "LogSigmoid": _activated(activation_functions.log_sigmoid),
    "TanhShrink": _activated(activation_functions.tanh_shrink),
    "Softmax": _softmax,
    "LogSoftmax": lambda c, x: tf.nn.log_softmax(x, axis=c.get("axis", -1)),
    "Clip": lambda c, x: tf.clip_by_value(x, c["x_min"], c["x_max"]),
    "Mean": _reduction(tf.math.reduce_mean),
    "Sum": _reduction(tf.math.reduce_sum),
    "Max": _reduction(tf.math.reduce_max),
    "Min": _reduction(tf.math.reduce_min),
    "Amax": _reduction(tf.math.reduce_max),
    "Amin": _reduction(tf.math.reduce_min),
    "Var": _var,
    "Std": lambda c, x: tf.math.sqrt(_var(c, x)),
    "Reshape": _reshape,
    "Ravel": lambda c, x: tf.reshape(x, [-1]),
    "Transpose": _transpose,
    "Swapaxes": _swapaxes,
    "Squeeze": _squeeze,
    "ExpandDims": _expand_dims,
    "Concatenate": lambda c, xs: tf.concat(xs, c.get("axis", 0)),
    "Stack": lambda c, xs: tf.stack(xs, c.get("axis", 0)),
    "Split": _split,
    "Unstack": lambda c, x: tf.unstack(x, c.get("num"), c.get("axis", 0)),
    "GetItem": _getitem,
    "Pad": _pad,
    "Tile": lambda c, x: tf.tile(x, c["repeats"]),
    "Repeat": lambda c, x: tf.repeat(x, c["repeats"], c.get("axis")),
    "Flip": lambda c, x: tf.reverse(x, [c["axis"]]),
    "Cast": lambda c, x: tf.cast(x, c["dtype"]),
    "Resize": _resize,
    "MaxPool": _pool(tf.nn.max_pool2d),
    "AveragePool": _pool(tf.nn.avg_pool2d),
    "Normalize": _normalize,
    "DepthToSpace": _space_block(ops.DepthToSpace),
    "Einsum": lambda c, *xs: tf.einsum(c["subscripts"], *xs),
    "OneHot": lambda c, x: tf.one_hot(x, c["num_classes"], axis=c.get("axis", -1)),
    "StopGradient": lambda c, x: tf.stop_gradient(x),
}
