"""Arithmetic of one operator each, for layers that are taken apart; saved by config."""

from __future__ import annotations

from typing import Any

from qat_round._compat import keras, tf

_register = keras.utils.register_keras_serializable(package="qat_round")


@_register
class Elementwise(keras.layers.Layer):
    """A function of each number.

    Args:
        kind: "abs", "exp", "log", "rsqrt" or "sqrt".
        **kwargs: as for any Keras layer.

    Raises:
        ValueError: if kind is another word.

    Example:
        >>> Elementwise("rsqrt")(tf.constant([4.0])).numpy().tolist()
        [0.5]
    """

    _KINDS = {
        "abs": tf.abs,
        "exp": tf.exp,
        "log": tf.math.log,
        "rsqrt": tf.math.rsqrt,
        "sqrt": tf.sqrt,
    }

    def __init__(self, kind: str, **kwargs: Any):
        super().__init__(**kwargs)
        if kind not in self._KINDS:
            raise ValueError(
                f"Elementwise: {kind!r} is unknown; allowed are {sorted(self._KINDS)}."
            )
        self.kind = kind
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        return self._KINDS[self.kind](inputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kind": self.kind}


@_register
class Divide(keras.layers.Layer):
    """The first tensor over the second, broadcast.

    Example:
        >>> Divide()([tf.constant([6.0]), tf.constant([4.0])]).numpy().tolist()
        [1.5]
    """

    def call(self, inputs: Any) -> Any:
        a, b = inputs
        return a / b


@_register
class L2Normalize(keras.layers.Layer):
    """x over its Euclidean length along the last axis.

    Args:
        epsilon: least square of the length.
        **kwargs: as for any Keras layer.

    Example:
        >>> L2Normalize()(tf.constant([[3.0, 4.0]])).numpy().tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """

    def __init__(self, epsilon: float = 1e-12, **kwargs: Any):
        super().__init__(**kwargs)
        self.epsilon = float(epsilon)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        return tf.math.l2_normalize(inputs, axis=-1, epsilon=self.epsilon)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}
