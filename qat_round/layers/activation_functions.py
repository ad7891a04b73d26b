"""Activation functions that `tf_keras` lacks, or has with other numbers than Keras 3.

Each is registered, so that a saved model loads with nothing but `import qat_round`.
"""

from __future__ import annotations

from typing import Any

from qat_round._compat import keras, tf

_register = keras.utils.register_keras_serializable(package="qat_round")


@_register
def hard_sigmoid(x: Any) -> Any:
    """relu6(x + 3) / 6, as Keras 3 has it (`tf_keras` has clip(0.2 x + 0.5, 0, 1)).

    Example:
        >>> hard_sigmoid(tf.constant([-3.0, 0.0, 3.0])).numpy().round(3).tolist()
        [0.0, 0.5, 1.0]
    """
    return tf.nn.relu6(x + 3.0) * (1.0 / 6.0)


@_register
def hard_swish(x: Any) -> Any:
    """x relu6(x + 3) / 6, in the form that TFLite's converter makes one operator of.

    Example:
        >>> hard_swish(tf.constant([-3.0, 3.0])).numpy().round(3).tolist()
        [-0.0, 3.0]
    """
    return x * tf.nn.relu6(x + 3.0) * (1.0 / 6.0)


@_register
def gelu_tanh(x: Any) -> Any:
    """The tanh approximation of gelu."""
    return tf.nn.gelu(x, approximate=True)


@_register
def celu(x: Any) -> Any:
    """max(0, x) + min(0, exp(x) - 1)."""
    return tf.nn.elu(x)


@_register
def hard_tanh(x: Any) -> Any:
    """clip(x, -1, 1)."""
    return tf.clip_by_value(x, -1.0, 1.0)


@_register
def log_sigmoid(x: Any) -> Any:
    """log(sigmoid(x))."""
    return tf.math.log_sigmoid(x)


@_register
def log_softmax(x: Any) -> Any:
    """log(softmax(x)) over the last axis."""
    return tf.nn.log_softmax(x)


@_register
def squareplus(x: Any) -> Any:
    """(x + sqrt(x^2 + 4)) / 2."""
    return (x + tf.sqrt(tf.square(x) + 4.0)) / 2.0


@_register
def tanh_shrink(x: Any) -> Any:
    """x - tanh(x)."""
    return x - tf.tanh(x)


@_register
def soft_shrink(x: Any) -> Any:
    """sign(x) max(|x| - 1/2, 0)."""
    return tf.sign(x) * tf.nn.relu(tf.abs(x) - 0.5)


@_register
def hard_shrink(x: Any) -> Any:
    """x where |x| > 1/2, else 0."""
    return tf.where(tf.abs(x) > 0.5, x, tf.zeros_like(x))


@_register
def leaky_relu(x: Any) -> Any:
    """x where positive, else 0.2 x."""
    return tf.nn.leaky_relu(x, 0.2)


@_register
def relu6(x: Any) -> Any:
    """clip(x, 0, 6)."""
    return tf.nn.relu6(x)


FUNCTIONS = {
    fn.__name__: fn
    for fn in (
        hard_sigmoid,
        hard_swish,
        gelu_tanh,
        celu,
        hard_tanh,
        log_sigmoid,
        log_softmax,
        squareplus,
        tanh_shrink,
        soft_shrink,
        hard_shrink,
        leaky_relu,
        relu6,
    )
}
