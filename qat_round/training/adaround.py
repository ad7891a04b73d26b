"""Learned rounding without labels: each weight goes up or down as its layer's output asks."""

from __future__ import annotations

from typing import Any

import numpy as np

from qat_round._compat import QuantizeWrapper, keras, tf
from qat_round._validate import whole
from qat_round.models.inputs import batches
from qat_round.quantizers.observers import observing
from qat_round.quantizers.quantized_tensors import (
    QuantizedTensor,
    levels_of_weight,
    quantized_tensors,
    require_quantized,
    tensors_of_layer,
)

_L = keras.layers
_LINEAR = (
    *(_L.Conv1D, _L.Conv2D, _L.DepthwiseConv1D, _L.DepthwiseConv2D, _L.Dense),
    *(_L.Conv1DTranspose, _L.Conv2DTranspose),
)
_STRETCH = (1.2, 0.1)  # zeta - gamma and -gamma of the rectified sigmoid
_WARM = 0.2  # share of the steps without a regularizer
_BETAS = (20.0, 2.0)


def adaround(
    model: Any,
    data: Any,
    steps: int = 1000,
    batch_size: int = 32,
    learning_rate: float = 0.01,
    regularizer: float = 0.01,
    seed: int = 0,
) -> Any:
    """Decides for each weight whether to round it up or down, layer by layer, without labels.

    With s the weight's step, V trained, h = clip(1.2 sigmoid(V) - 0.1, 0, 1):
        w = s clip(floor(W/s) + h, lowest level, highest level)
        loss = mean (layer(w, x) - layer(W, x'))^2 + c sum (1 - |2h - 1|^b)
    x is what the layer sees in the quantized model, its earlier layers rounded already; x' what it
    sees in the float model, at every call of a layer that is called several times. b falls from 20
    to 2, so that every h ends at 0 or 1. Then the weights are put on the levels found, where
    nearest rounding leaves them. Convolutions, transposed ones too, and dense layers are decided;
    other weights (embeddings, constants) are rounded to the nearest. Ranges do not move: calibrate
    first; call `qr.reestimate_batch_norm` afterwards if the model
    has batch norm. Do not train on; straight-through would round anew.

    Args:
        model: a quantized, calibrated model; changed in place.
        data: some hundred inputs, as `qr.calibrate` takes them; kept in memory.
        steps: of Adam, for each layer.
        batch_size: inputs for each step.
        learning_rate: Adam's.
        regularizer: c, relative to the layer's mean squared output.
        seed: of the batches' order.

    Returns:
        The model.

    Raises:
        ValueError: for a model that is not quantized, or not calibrated; steps or batch_size below
            1; data that does not fit.

    Example:
        >>> from qat_round.training.calibrate import calibrate
        >>> from qat_round.models.quantize import quantize_model
        >>> net = keras.Sequential([keras.layers.Dense(2, input_shape=(3,))])
        >>> x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
        >>> q = adaround(calibrate(quantize_model(net, weight_bits=3), x), x, steps=10)

    Source: Nagel et al. 2020, arXiv:2004.10568.
    """
    require_quantized(model, "adaround")
    steps, batch_size = (
        whole(value, adaround, name, least=1)
        for value, name in ((steps, "steps"), (batch_size, "batch_size"))
    )
    guessed = [t.path for t in quantized_tensors(model) if t.is_first_guess]
    if guessed:
        raise ValueError(
            f"adaround: the ranges of {', '.join(guessed[:3])} were never set; run "
            "qr.calibrate(model, data) first."
        )
    given = list(batches(model, data, batch_size, "adaround"))
    rng = np.random.default_rng(seed)
    decided: list[tuple[Any, tf.Tensor]] = []  # weights, and what they were
    for wrapper in _linear_layers(model):
        (tensor,) = [t for t in tensors_of_layer(wrapper) if t.variable is not None]
        inputs, wanted = _inputs_and_targets(model, wrapper, given, decided)
        decided.append((tensor.variable, tf.identity(tensor.variable)))
        layer = _LayerRounding(wrapper, tensor, regularizer * float(np.mean(wanted**2)))
        _fit(layer, inputs, wanted, steps, batch_size, learning_rate, rng)
        tensor.variable.assign(layer.decided())
    return model


def _linear_layers(model: Any) -> list[Any]:
    """Wrappers of layers with one quantized weight, in the order of computation."""
    found = []
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            layer = node.layer
            if isinstance(layer, QuantizeWrapper) and isinstance(layer.layer, _LINEAR):
                own = [t for t in tensors_of_layer(layer) if t.variable is not None and t.is_ours]
                if len(own) == 1 and layer not in found:
                    found.append(layer)
    return found


def _inputs_and_targets(
    model: Any, wrapper: Any, given: list[Any], decided: list[tuple[Any, tf.Tensor]]
) -> tuple[np.ndarray, np.ndarray]:
    """What the layer sees in the quantized model, and what it gives in the float one.

    Layers that were decided have their weights of before in the float model: what their rounding
    cost is among what this layer is to make good.
    """
    count = len(wrapper.inbound_nodes)
    prefix = keras.Model(model.inputs, [wrapper.get_input_at(i) for i in range(count)])
    inputs = [batch[0] if len(batch) == 1 else batch for batch in given]
    seen = [part for x in inputs for part in _listed(prefix(x, training=False))]
    rounded = [tf.identity(variable) for variable, _ in decided]
    _assign(decided)
    with observing(lambda quantizer, value, weights: quantizer.bypassed(value), bypass=True):
        before = [part for x in inputs for part in _listed(prefix(x, training=False))]
    wanted = [_output(wrapper, x, wrapper._weight_vars[0][0]).numpy() for x in before]
    _assign([(variable, now) for (variable, _), now in zip(decided, rounded, strict=True)])
    return np.concatenate([x.numpy() for x in seen]), np.concatenate(wanted)


def _listed(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _assign(pairs: list[tuple[Any, tf.Tensor]]) -> None:
    for variable, value in pairs:
        variable.assign(value)


def _output(wrapper: Any, x: Any, weight: Any) -> tf.Tensor:
    wrapper.quantize_config.set_quantize_weights(wrapper.layer, [weight])
    return wrapper.layer.call(x)


class _LayerRounding:
    """One layer's weights, of which each is on its way up or down."""

    def __init__(self, wrapper: Any, tensor: QuantizedTensor, regularizer: float):
        self.wrapper, self.tensor = wrapper, tensor
        _, self.step = levels_of_weight(tensor)
        steps = tensor.variable / self.step
        grid = tensor.quantizer.grid(tensor.weights)
        self.low = float(tf.reduce_min(grid.qmin - grid.zero_point))
        self.high = self.low + (grid.qmax - grid.qmin)
        self.below = tf.floor(steps)
        rest = tf.clip_by_value((steps - self.below + _STRETCH[1]) / _STRETCH[0], 0.01, 0.99)
        self.v = tf.Variable(tf.math.log(rest / (1.0 - rest)))  # h is the rest at first
        self.regularizer = regularizer / max(float(tf.size(self.v)), 1.0)

    def up(self) -> tf.Tensor:
        """h: how far each weight is on its way up."""
        return tf.clip_by_value(_STRETCH[0] * tf.sigmoid(self.v) - _STRETCH[1], 0.0, 1.0)

    def loss(self, x: tf.Tensor, wanted: tf.Tensor, beta: tf.Tensor, on: tf.Tensor) -> tf.Tensor:
        """How far the layer's output is from the wanted one, and h from 0 and 1."""
        h = self.up()
        levels = tf.clip_by_value(self.below + h, self.low, self.high)
        error = tf.square(_output(self.wrapper, x, levels * self.step) - wanted)
        open_ = tf.reduce_sum(1.0 - tf.pow(tf.abs(2.0 * h - 1.0), beta))
        return tf.reduce_mean(error) + on * self.regularizer * open_

    def decided(self) -> tf.Tensor:
        """The weights on their levels."""
        up = tf.cast(self.up() >= 0.5, tf.float32)
        return tf.clip_by_value(self.below + up, self.low, self.high) * self.step


def _fit(
    layer: _LayerRounding, x: Any, wanted: Any, steps: int, size: int, rate: float, rng: Any
) -> None:
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build([layer.v])

    @tf.function(reduce_retracing=True)
    def step(x: tf.Tensor, wanted: tf.Tensor, beta: tf.Tensor, on: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = layer.loss(x, wanted, beta, on)
        optimizer.apply_gradients([(tape.gradient(loss, layer.v), layer.v)])

    for number in range(steps):
        rows = rng.integers(0, len(x), min(size, len(x)))
        share = max(number / steps - _WARM, 0.0) / (1.0 - _WARM)
        beta = _BETAS[1] + (_BETAS[0] - _BETAS[1]) * 0.5 * (1.0 + np.cos(np.pi * share))
        on = float(share > 0.0)
        step(*(tf.constant(v, tf.float32) for v in (x[rows], wanted[rows], beta, on)))
