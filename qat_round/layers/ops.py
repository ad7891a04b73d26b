"""The layers that rewriting needs and `tf_keras` lacks: small, without surprises, saved by config.

They stand where Keras records a bare TensorFlow operator, so that a quantizer has a layer to wrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qat_round._compat import keras, tf
from qat_round.layers import activation_functions

_register = keras.utils.register_keras_serializable(package="qat_round")


@_register
class Affine(keras.layers.Layer):
    """scale * x + offset, with constants that broadcast against one example.

    Both constants are weights, so that a quantizer can find them; they are trained only if
    `trainable` is true. A constant that is None is not there: no operator is made for it. Numbers
    that are not floats are cast to the layer's dtype first.

    Args:
        scale: number or nested list, of a shape that broadcasts against x without its batch.
        offset: as `scale`.
        **kwargs: as for any Keras layer; `trainable` is False where not given.

    Raises:
        ValueError: if both constants are None, or one holds anything but finite numbers.

    Example:
        >>> Affine(scale=2.0, offset=[0.0, 1.0])(tf.constant([[1.0, 2.0]])).numpy().tolist()
        [[2.0, 5.0]]
    """

    def __init__(self, scale: Any = None, offset: Any = None, **kwargs: Any):
        kwargs.setdefault("trainable", False)
        super().__init__(**kwargs)
        if scale is None and offset is None:
            raise ValueError("Affine needs a scale, an offset, or both; both are None.")
        self._constants = {"scale": _numbers("scale", scale), "offset": _numbers("offset", offset)}
        self.scale = None
        self.offset = None
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        for name, value in self._constants.items():
            if value is not None:
                start = keras.initializers.Constant(value)
                setattr(self, name, self.add_weight(name, value.shape, initializer=start))
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        x = tf.cast(inputs, self.compute_dtype)
        if self.scale is not None:
            x = x * self.scale
        return x if self.offset is None else x + self.offset

    def get_config(self) -> dict[str, Any]:
        values = {k: None if v is None else v.tolist() for k, v in self._constants.items()}
        return {**super().get_config(), **values}


def _numbers(name: str, value: Any) -> np.ndarray | None:
    if value is None:
        return None
    array = np.asarray(value, np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"Affine's {name} must be finite; {np.sum(~np.isfinite(array))} are not.")
    return array


@_register
class HardSigmoid(keras.layers.Layer):
    """relu6(x + 3) / 6.

    Example:
        >>> HardSigmoid()(tf.constant([-3.0, 0.0, 3.0])).numpy().round(3).tolist()
        [0.0, 0.5, 1.0]
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        return activation_functions.hard_sigmoid(inputs)


@_register
class HardSwish(keras.layers.Layer):
    """x relu6(x + 3) / 6.

    Example:
        >>> HardSwish()(tf.constant([0.0, 3.0])).numpy().round(3).tolist()
        [0.0, 3.0]
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        return activation_functions.hard_swish(inputs)


@_register
class Clip(keras.layers.Layer):
    """x held between two numbers; None leaves that side open.

    Args:
        low: smallest value, or None.
        high: largest value, or None.
        **kwargs: as for any Keras layer.

    Raises:
        ValueError: if low is above high.

    Example:
        >>> Clip(-1.0, 1.0)(tf.constant([-3.0, 0.5])).numpy().tolist()
        [-1.0, 0.5]
    """

    def __init__(self, low: float | None = None, high: float | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if low is not None and high is not None and low > high:
            raise ValueError(f"Clip's low must not be above its high; given {low} and {high}.")
        self.low, self.high = low, high
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        x = inputs if self.low is None else tf.maximum(inputs, tf.cast(self.low, inputs.dtype))
        return x if self.high is None else tf.minimum(x, tf.cast(self.high, inputs.dtype))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "low": self.low, "high": self.high}


@_register
class Reduce(keras.layers.Layer):
    """Mean, sum, max or min over axes; the batch is axis 0 and is not reduced.

    Args:
        kind: "mean", "sum", "max" or "min".
        axes: axes, counted with the batch.
        keepdims: whether they stay, with length 1.
        **kwargs: as for any Keras layer.

    Raises:
        ValueError: if kind is another word, or the batch is among the axes.

    Example:
        >>> Reduce("mean", [1])(tf.constant([[1.0, 3.0]])).numpy().tolist()
        [2.0]
    """

    _KINDS = {
        "mean": tf.reduce_mean,
        "sum": tf.reduce_sum,
        "max": tf.reduce_max,
        "min": tf.reduce_min,
    }

    def __init__(self, kind: str, axes: Sequence[int], keepdims: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        if kind not in self._KINDS:
            raise ValueError(f"Reduce's kind must be one of {sorted(self._KINDS)}; given {kind!r}.")
        if 0 in axes:
            raise ValueError(f"Reduce does not reduce the batch (axis 0); given axes {axes}.")
        self.kind, self.axes, self.keepdims = kind, [int(a) for a in axes], bool(keepdims)

    def call(self, inputs: Any) -> Any:
        return self._KINDS[self.kind](inputs, axis=self.axes, keepdims=self.keepdims)

    def get_config(self) -> dict[str, Any]:
        own = {"kind": self.kind, "axes": self.axes, "keepdims": self.keepdims}
        return {**super().get_config(), **own}


@_register
class Slice(keras.layers.Layer):
    """A strided slice of each example.

    Args:
        slices: for each axis after the batch, [start, stop, step] (None as in Python) or an
            integer, which takes one and drops the axis; axes not named are whole.
        **kwargs: as for any Keras layer.

    Example:
        >>> Slice([[1, None, None]])(tf.constant([[1.0, 2.0, 3.0]])).numpy().tolist()
        [[2.0, 3.0]]
    """

    def __init__(self, slices: Sequence[Any], **kwargs: Any):
        super().__init__(**kwargs)
        self.slices = [s if isinstance(s, int) else list(s) for s in slices]

    def call(self, inputs: Any) -> Any:
        index = [s if isinstance(s, int) else slice(*s) for s in self.slices]
        return inputs[(slice(None), *index)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "slices": self.slices}


@_register
class Pad(keras.layers.Layer):
    """Pads each example.

    Args:
        paddings: for each axis after the batch, [before, after].
        mode: "CONSTANT", "REFLECT" or "SYMMETRIC".
        value: what to pad with in mode "CONSTANT".
        **kwargs: as for any Keras layer.

    Example:
        >>> Pad([[0, 1]], value=7.0)(tf.constant([[1.0]])).numpy().tolist()
        [[1.0, 7.0]]
    """

    def __init__(self, paddings: Any, mode: str = "CONSTANT", value: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.paddings = [[int(a), int(b)] for a, b in paddings]
        self.mode, self.value = mode.upper(), value

    def call(self, inputs: Any) -> Any:
        return tf.pad(inputs, [[0, 0], *self.paddings], self.mode, self.value)

    def get_config(self) -> dict[str, Any]:
        own = {"paddings": self.paddings, "mode": self.mode, "value": self.value}
        return {**super().get_config(), **own}


@_register
class MatMul(keras.layers.Layer):
    """The product of two batches of matrices.

    Args:
        transpose_a: whether the first is transposed.
        transpose_b: whether the second is.
        **kwargs: as for any Keras layer.

    Example:
        >>> MatMul()([tf.ones([1, 2, 3]), tf.ones([1, 3, 1])]).numpy().tolist()
        [[[3.0], [3.0]]]
    """

    def __init__(self, transpose_a: bool = False, transpose_b: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.transpose_a, self.transpose_b = bool(transpose_a), bool(transpose_b)

    def call(self, inputs: Any) -> Any:
        a, b = inputs
        return tf.matmul(a, b, transpose_a=self.transpose_a, transpose_b=self.transpose_b)

    def get_config(self) -> dict[str, Any]:
        own = {"transpose_a": self.transpose_a, "transpose_b": self.transpose_b}
        return {**super().get_config(), **own}


@_register
class DepthToSpace(keras.layers.Layer):
    """Moves blocks of channels to space: [n, h, w, c b b] -> [n, h b, w b, c].

    Args:
        block: b, at least 2.
        **kwargs: as for any Keras layer.

    Example:
        >>> DepthToSpace(2)(tf.ones([1, 1, 1, 4])).shape.as_list()
        [1, 2, 2, 1]
    """

    def __init__(self, block: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.block = int(block)

    def call(self, inputs: Any) -> Any:
        return tf.nn.depth_to_space(inputs, self.block)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "block": self.block}


@_register
class Unmask(keras.layers.Layer):
    """Its input without the mask: bare operators drop masks, the layers in their place do not.

    Example:
        >>> Unmask()(tf.ones([1, 2])).numpy().tolist()
        [[1.0, 1.0]]
    """

    def call(self, inputs: Any) -> Any:
        return tf.identity(inputs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        return None
