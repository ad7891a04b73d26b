"""The layers that move time steps about: for recurrent layers and others that run step by step.

All of them only move values. Where several tensors come out, they come as a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qat_round._compat import keras, tf

_register = keras.utils.register_keras_serializable(package="qat_round")


@_register
class Unstack(keras.layers.Layer):
    """The steps of axis 1, each without that axis: [b, t, ...] -> t times [b, ...].

    Example:
        >>> [y.numpy().tolist() for y in Unstack()(tf.constant([[[1.0], [2.0]]]))]
        [[[1.0]], [[2.0]]]
    """

    def call(self, inputs: Any) -> Any:
        return tf.unstack(inputs, axis=1)


@_register
class Stack(keras.layers.Layer):
    """Tensors as the steps of a new axis 1: t times [b, ...] -> [b, t, ...].

    Example:
        >>> Stack()([tf.constant([[1.0]]), tf.constant([[2.0]])]).numpy().tolist()
        [[[1.0], [2.0]]]
    """

    def call(self, inputs: Any) -> Any:
        return tf.stack(tf.nest.flatten(inputs), axis=1)


@_register
class Split(keras.layers.Layer):
    """Cuts the last axis into pieces.

    Args:
        sizes: of the pieces, in order.
        **kwargs: as for any Keras layer.

    Example:
        >>> [y.numpy().tolist() for y in Split([1, 2])(tf.constant([[1.0, 2.0, 3.0]]))]
        [[[1.0]], [[2.0, 3.0]]]
    """

    def __init__(self, sizes: Sequence[int], **kwargs: Any):
        super().__init__(**kwargs)
        self.sizes = [int(size) for size in sizes]

    def call(self, inputs: Any) -> Any:
        return tf.split(inputs, self.sizes, axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sizes": self.sizes}


@_register
class MergeTime(keras.layers.Layer):
    """Makes every time step an example: [b, t, ...] -> [b t, ...].

    Example:
        >>> MergeTime()(tf.ones([2, 3, 4])).shape.as_list()
        [6, 4]
    """

    def call(self, inputs: Any) -> Any:
        return tf.reshape(inputs, [-1, *inputs.shape[2:]])


@_register
class SplitTime(keras.layers.Layer):
    """The way back from `MergeTime`: [b t, ...] -> [b, t, ...].

    Args:
        steps: t.
        **kwargs: as for any Keras layer.

    Example:
        >>> SplitTime(3)(tf.ones([6, 4])).shape.as_list()
        [2, 3, 4]
    """

    def __init__(self, steps: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.steps = int(steps)

    def call(self, inputs: Any) -> Any:
        return tf.reshape(inputs, [-1, self.steps, *inputs.shape[1:]])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "steps": self.steps}
