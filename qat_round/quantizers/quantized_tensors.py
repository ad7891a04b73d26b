"""What is quantized in a model: every tensor with its quantizer and the weights of its state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from qat_round._compat import QuantizeLayer, Quantizer, QuantizeWrapper, tf
from qat_round._tables import as_text
from qat_round.numerics.grid import grid_from_range
from qat_round.quantizers.quantizer import RoundingQuantizer
from qat_round.quantizers.ranges import FIRST_GUESS, Fixed


class QuantizedTensor(NamedTuple):
    """One fake-quantized tensor of a model.

    Args:
        layer: the TFMOT wrapper or input layer that owns it.
        name: "kernel", "pre_activation", "post_activation", "output" or "input".
        quantizer: its quantizer, ours or any of TFMOT's.
        weights: the quantizer's layer weights, by role ("min_var", "max_var", ...).
        variable: the layer weight that is quantized; None for activations.
    """

    layer: Any
    name: str
    quantizer: Quantizer
    weights: dict[str, Any]
    variable: Any

    @property
    def path(self) -> str:
        """ "<layer>/<tensor>"."""
        return f"{self.layer.name}/{self.name}"

    @property
    def is_ours(self) -> bool:
        """Whether the quantizer is a RoundingQuantizer."""
        return isinstance(self.quantizer, RoundingQuantizer)

    @property
    def bits(self) -> int:
        """Bit width."""
        return getattr(self.quantizer, "bits", getattr(self.quantizer, "num_bits", 8))

    @property
    def is_first_guess(self) -> bool:
        """Whether its range was never set from data."""
        if self.is_ours:
            return is_first_guess(self.quantizer, self.weights)
        ends = [np.ravel(self.weights[end].numpy()) for end in ("min_var", "max_var")]
        return all(bool(np.all(e == g)) for e, g in zip(ends, FIRST_GUESS, strict=True))

    def scale_and_zero_point(self) -> tuple[np.ndarray, np.ndarray]:
        """The grid's steps (real units) and zero points (signed, as TFLite counts)."""
        if self.is_ours:
            grid = self.quantizer.grid(self.weights)
        else:
            narrow = getattr(self.quantizer, "narrow_range", False)
            lo, hi = self.weights["min_var"], self.weights["max_var"]
            grid = grid_from_range(lo, hi, self.bits, narrow)
        return np.asarray(grid.step), np.asarray(grid.zero_point) - 2 ** (self.bits - 1)


def quantized_tensors(model: Any) -> list[QuantizedTensor]:
    """Every quantized tensor of a model, in the order of its layers."""
    return [tensor for layer in model.layers for tensor in tensors_of_layer(layer)]


def is_quantized(model: Any) -> bool:
    """Whether any layer of the model is a TFMOT quantize wrapper."""
    return any(isinstance(layer, (QuantizeWrapper, QuantizeLayer)) for layer in model.layers)


def summary(model: Any) -> str:
    """A table of every quantized tensor: bits, rounder, range, scale; and what stays in float, why.

    Args:
        model: a quantized model.

    Returns:
        The table, to be printed.

    Raises:
        ValueError: if the model is not quantized.
    """
    require_quantized(model, "summary")
    columns = ("layer", "tensor", "bits", "rounder", "range", "lo .. hi", "scale")
    rows = [_row(tensor) for tensor in quantized_tensors(model)]
    table = as_text(f"{model.name}: quantized tensors", columns, rows)
    in_float = [f"  {name}: {why}" for name, why in float_layers(model).items()]
    note = "In float:\n" + "\n".join(in_float) if in_float else "Nothing stays in float."
    return f"{table}{note}"


def float_layers(model: Any) -> dict[str, str]:
    """Layers that compute in float, or quantize nothing of their own -> the reason."""
    reasons = {}
    for layer in model.layers:
        is_said = bool(getattr(getattr(layer, "quantize_config", None), "why", ""))
        if is_said or not any(True for _ in tensors_of_layer(layer)):
            reason = _why_float(layer)
            if reason:
                reasons[layer.name] = reason
    return reasons


def require_quantized(model: Any, verb: str) -> None:
    """Raises a ValueError in the user's words if the model has no quantized layer."""
    if not hasattr(model, "layers") or not is_quantized(model):
        raise ValueError(
            f"{verb}: the model is not quantized. Make one with qr.quantize_model(model) first."
        )


def tensors_of_layer(layer: Any) -> Iterator[QuantizedTensor]:
    """Every quantized tensor of one layer."""
    if isinstance(layer, QuantizeLayer):
        if layer.quantizer is not None and _has_range(layer.quantizer_vars):
            yield QuantizedTensor(layer, "input", layer.quantizer, layer.quantizer_vars, None)
    elif isinstance(layer, QuantizeWrapper) and layer.built:
        yield from _of_wrapper(layer)


def _of_wrapper(layer: Any) -> Iterator[QuantizedTensor]:
    for variable, quantizer, weights in layer._weight_vars:
        if _has_range(weights):
            name = variable.name.split(":")[0].split("/")[-1]
            yield QuantizedTensor(layer, name, quantizer, weights, variable)
    for activation in layer._quantize_activations:
        for name in ("pre_activation", "post_activation"):
            weights = getattr(activation, f"_{name}_vars", {})
            if _has_range(weights):
                yield QuantizedTensor(layer, name, activation.quantizer, weights, None)
    if layer._output_quantizers and _has_range(layer._output_quantizer_vars):
        quantizer = layer._output_quantizers[0]
        yield QuantizedTensor(layer, "output", quantizer, layer._output_quantizer_vars, None)


def _has_range(weights: Any) -> bool:
    return isinstance(weights, dict) and "min_var" in weights


def _why_float(layer: Any) -> str:
    if not isinstance(layer, QuantizeWrapper):
        return "" if type(layer).__name__ in ("InputLayer", "QuantizeLayer") else "not annotated"
    if getattr(layer.quantize_config, "why", ""):
        return layer.quantize_config.why
    spec = getattr(layer.quantize_config, "spec", None)
    if spec is not None and spec.weights is None and spec.activations is None:
        return "asked for (qr.FLOAT)"
    return "" if not layer.layer.weights or _is_folded(layer) else "its config quantizes nothing"


def _is_folded(layer: Any) -> bool:
    return "BatchNormalization" in type(layer.layer).__name__


def _row(tensor: QuantizedTensor) -> list[str]:
    rounder = tensor.quantizer.rounder.name if tensor.is_ours else "(TFMOT's)"
    range_ = tensor.quantizer.range.name if tensor.is_ours else type(tensor.quantizer).__name__
    lo, hi = (tensor.weights[end].numpy() for end in ("min_var", "max_var"))
    scale, _ = tensor.scale_and_zero_point()
    channels = f" ({scale.size} channels)" if scale.ndim else ""
    ends = "never set" if tensor.is_first_guess else f"{np.min(lo):.4g} .. {np.max(hi):.4g}"
    steps = "-" if tensor.is_first_guess else f"{np.mean(scale):.4g}{channels}"
    return [tensor.layer.name, tensor.name, str(tensor.bits), rounder, range_, ends, steps]


def levels_of_weight(tensor: QuantizedTensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A quantized weight in steps, on its grid; and the steps, both in the weight's own shape."""
    quantizer, variable = tensor.quantizer, tf.convert_to_tensor(tensor.variable)
    grid = quantizer.grid(tensor.weights)
    joined = quantizer.joined(variable)
    step = grid.step
    if grid.axis is not None:
        shape = [1] * joined.shape.rank
        shape[grid.axis] = -1
        step = tf.reshape(step, shape)
    lowest = grid.qmin - (
        grid.zero_point if grid.axis is None else tf.reshape(grid.zero_point, shape)
    )
    level = tf.clip_by_value(
        tf.floor(joined / step + 0.5), lowest, lowest + (grid.qmax - grid.qmin)
    )
    back = variable.shape
    return tf.reshape(level, back), tf.reshape(step * tf.ones_like(joined), back)


def is_first_guess(quantizer: RoundingQuantizer, weights: dict[str, tf.Variable]) -> bool:
    """Whether the range still is the value that it was made with, and means nothing."""
    given = isinstance(quantizer.range, Fixed) and quantizer.range.lo is not None
    return not given and float(weights["seen"].numpy()) == 0.0
