"""Statistics of batch norms as the quantized net itself makes them, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

from qat_round._compat import keras, tf
from qat_round.models.inputs import batches, for_any_batch_size
from qat_round.quantizers.quantized_tensors import require_quantized


def reestimate_batch_norm(model: Any, data: Any, batch_size: int = 256) -> Any:
    """Sets every batch norm's mean and variance to those of its input over the data, exactly.

    While training, each batch is normed by its own statistics, and what is kept for inference is
    their moving average: over weights that moved on, each batch normed otherwise than inference
    will norm it. Below 4 bits that alone costs up to tens of points. Here

        mean = 1/n sum x,   variance = 1/n sum (x - mean)^2

    over all n values of a channel, in inference, one batch norm after the other in the order of
    computation, so that each sees what the ones in front of it will give. Weights do not change.
    Call it after training, before evaluation and export. It costs one pass of the data through the
    layers in front of each batch norm. A batch norm that is called several times gets the
    statistics of all its inputs together, in two passes, because its calls may follow each other.

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
        >>> from qat_round.models.quantize import quantize_model
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
    norms = _inputs_by_norm(model)
    rounds = 2 if any(len(inputs) > 1 for inputs in norms.values()) else 1
    for wrapper, inputs in list(norms.items()) * rounds:
        norm = getattr(wrapper, "layer", wrapper)
        mean, variance = _moments(keras.Model(model.inputs, inputs), given, norm.axis)
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(variance)
    return model


def _again_and_again(model: Any, data: Any, batch_size: int) -> list[Any]:
    return list(batches(model, data, batch_size, "reestimate_batch_norm"))


def _inputs_by_norm(model: Any) -> dict[Any, list[Any]]:
    """The layers with a batch norm, in the order of computation, and what each is called on."""
    found: dict[Any, list[Any]] = {}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            inner = getattr(node.layer, "layer", node.layer)
            if isinstance(inner, keras.layers.BatchNormalization):
                found.setdefault(node.layer, []).append(node.keras_inputs[0])
    return found


def _moments(prefix: Any, data: list[Any], axis: Any) -> tuple[Any, Any]:
    """Mean and variance of every channel of all that a model gives, in float64."""

    @for_any_batch_size(prefix)
    def moments(batch: Any) -> list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
        outputs = prefix(batch[0] if len(batch) == 1 else batch, training=False)
        return [_moments_of(tf.cast(x, tf.float64), axis) for x in tf.nest.flatten(outputs)]

    mean = variance = count = np.float64(0.0)
    for m, v, n in (found for batch in data for found in moments(batch)):
        m, v, n = m.numpy(), v.numpy(), n.numpy()
        total = count + n  # pooled, part by part: stable for any mean (Chan et al. 1979)
        variance = (count * variance + n * v + (m - mean) ** 2 * count * n / total) / total
        mean = mean + (m - mean) * n / total
        count = total
    return mean, variance


def _moments_of(x: tf.Tensor, axis: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Mean and variance over all axes but the channels', and of how many values each is."""
    kept = {a % x.shape.rank for a in np.atleast_1d(axis)}
    mean, variance = tf.nn.moments(x, [a for a in range(x.shape.rank) if a not in kept])
    return mean, variance, tf.cast(tf.size(x) / tf.size(mean), tf.float64)
