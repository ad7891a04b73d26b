"""Statistics of batch norms as the quantized net itself makes them, exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ._compat import keras, tf
from .model_data import batches, for_any_batch_size
from .tensors import require_quantized


def reestimate_batch_norm(model: Any, data: Any, batch_size: int = 256) -> Any:
    """Sets every batch norm's mean and variance to those of its input over the data, exactly.

    While training, each batch is normed by its own statistics, and what is kept for inference is
    their moving average: over weights that moved on, each batch normed otherwise than inference
    will norm it. Below 4 bits that alone costs up to tens of points. Here

        mean = 1/n sum x,   variance = 1/n sum (x - mean)^2

    over all n values of a channel, in inference, one batch norm after the other in the order of
    computation, so that each sees what the ones in front of it will give. Weights do not change.
    Call it after training, before evaluation and export. It costs one pass of the data through the
    layers in front of each batch norm.

    Args:
        model: a quantized model, calibrated or trained.
        data: inputs: the training set, or some thousand of it. Arrays, or an iterable of batches of
            inputs or (inputs, labels); what can be read only once is kept in memory.
        batch_size: how many samples of arrays run at once; the result does not depend on it.

    Returns:
        The model; one without batch norm is left as it is.

    Raises:
        ValueError: for a model that is not quantized, or data that is empty, of the wrong shape, or
            holds NaN or infinity.
        TypeError: for data that is not numeric.

    Example:
        >>> from qat_round.model import quantize_model
        >>> net = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2),
        ...                         keras.layers.BatchNormalization()])
        >>> q = quantize_model(net)
        >>> q = reestimate_batch_norm(q, np.ones((8, 3), np.float32))
        >>> bool(np.allclose(q(np.ones((8, 3), np.float32)), 0.0, atol=1e-3))
        True

    Source: Sun et al. 2019, arXiv:1912.09018 ("progressive"); exact over the data: ours.
    """
    require_quantized(model, "reestimate_batch_norm")
    given = _again_and_again(model, data, batch_size)
    for wrapper in _norms(model):
        norm = getattr(wrapper, "layer", wrapper)
        mean, variance = _moments(keras.Model(model.inputs, wrapper.input), given, norm.axis)
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(variance)
    return model


def _again_and_again(model: Any, data: Any, batch_size: int) -> list[Any]:
    return list(batches(model, data, batch_size, "reestimate_batch_norm"))


def _norms(model: Any) -> Iterator[Any]:
    """The layers with a batch norm, in the order of computation; each called once."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            inner = getattr(node.layer, "layer", node.layer)
            if isinstance(inner, keras.layers.BatchNormalization):
                yield node.layer


def _moments(prefix: Any, data: list[Any], axis: Any) -> tuple[Any, Any]:
    """Mean and variance of every channel of what a model gives, in float64."""
    kept = {a % prefix.output.shape.rank for a in ([axis] if isinstance(axis, int) else axis)}
    over = [a for a in range(prefix.output.shape.rank) if a not in kept]

    @for_any_batch_size(prefix)
    def moments(batch: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        x = tf.cast(prefix(batch[0] if len(batch) == 1 else batch, training=False), tf.float64)
        mean, variance = tf.nn.moments(x, over)
        return mean, variance, tf.cast(tf.size(x) / tf.size(mean), tf.float64)

    mean = variance = count = np.float64(0.0)
    for batch in data:  # pooled, batch by batch: stable for any mean (Chan et al. 1979)
        m, v, n = (value.numpy() for value in moments(batch))
        total = count + n
        variance = (count * variance + n * v + (m - mean) ** 2 * count * n / total) / total
        mean = mean + (m - mean) * n / total
        count = total
    return mean, variance
