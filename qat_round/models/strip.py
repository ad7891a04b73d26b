"""The way back: a float Keras model with the trained weights, and every grid as plain data."""

from __future__ import annotations

from typing import Any

import numpy as np

from qat_round._compat import QuantizeLayer, QuantizeWrapper, keras, tfmot, trusting
from qat_round.layers.ops import Clip
from qat_round.layers.shared_grid import GridClip
from qat_round.quantizers.quantized_tensors import quantized_tensors, require_quantized


def strip(model: Any, weights: str = "raw") -> Any:
    """A float model of the same layers, without any quantizer.

    `qr.write_back(q, original)` puts the weights into the model that came in; this one needs no
    original, and has the layers that the plan made of it (docs/any_model.md).

    Args:
        model: a quantized model; it is not changed.
        weights: "raw": as they were trained; "quantized": on their grids, as they ship.

    Returns:
        A tf_keras model without quantizers; layer names lose their "quant_".

    Raises:
        ValueError: for a model that is not quantized, or another word.

    Example:
        >>> from qat_round.models.quantize import quantize_model
        >>> model = keras.Sequential([keras.layers.Dense(2, input_shape=(3,), name="last")])
        >>> strip(quantize_model(model)).layers[-1].name
        'last'
    """
    require_quantized(model, "strip")
    if weights not in ("raw", "quantized"):
        raise ValueError(f'strip: weights={weights!r} is unknown; allowed are "raw", "quantized".')
    made: dict[str, Any] = {}

    def plain(layer: Any) -> Any:
        made[layer.name] = _plain(layer)
        return made[layer.name]

    with tfmot.quantization.keras.quantize_scope(), trusting():
        stripped = keras.models.clone_model(model, clone_function=plain)
    on_grid = _on_grid(model) if weights == "quantized" else {}
    pairs: list[Any] = []
    for layer in model.layers:
        if layer.name in made:
            found = _float_weights(layer)
            new = made[layer.name].weights
            pairs += [(v, on_grid.get(id(w), w).numpy()) for v, w in zip(new, found, strict=True)]
    keras.backend.batch_set_value(pairs)
    return stripped


def _plain(layer: Any) -> Any:
    if isinstance(layer, QuantizeLayer):
        return keras.layers.Activation("linear", name=layer.name)
    inner = layer.layer if isinstance(layer, QuantizeWrapper) else layer
    config = dict(inner.get_config())
    if isinstance(inner, GridClip):
        return Clip(low=config["low"], high=config["high"], name=config["name"])
    if isinstance(layer, QuantizeWrapper) and "activation" in config:
        activation = getattr(inner, "activation", None)
        activation = getattr(activation, "activation", activation)  # TFMOT's wrapper around it
        config["activation"] = keras.activations.serialize(activation)
    return type(inner).from_config(config)


def _float_weights(layer: Any) -> list[Any]:
    """The variables of the wrapped layer, in its order; Keras forgets those that are replaced."""
    if not isinstance(layer, QuantizeWrapper):
        return [] if isinstance(layer, QuantizeLayer) else list(layer.weights)
    if hasattr(layer, "float_weights"):
        return list(layer.float_weights())
    fresh = _plain(layer)
    fresh.build(layer.input_shape)
    known = {_short(v): v for v in layer.weights}
    return [known[_short(v)] for v in fresh.weights]


def _short(variable: Any) -> str:
    return variable.name.split(":")[0].split("/")[-1]


def _on_grid(model: Any) -> dict[int, Any]:
    """Quantized weights, by the identity of their variable."""
    found = {}
    for tensor in quantized_tensors(model):
        if tensor.variable is not None and tensor.is_ours:
            found[id(tensor.variable)] = tensor.quantizer.infer(tensor.variable, tensor.weights)
    return found


def encodings(model: Any) -> dict[str, Any]:
    """Every quantized tensor's grid as plain data, so that other runtimes can be fed.

        real = scale (integer - zero_point),   integer from qmin to qmax, signed as in TFLite

    Args:
        model: a quantized model.

    Returns:
        {"version", "activations": {path: grid}, "weights": {path: grid}}; a grid has "bits",
        "scale" and "zero_point" (lists: one number, or one for each channel), "qmin", "qmax",
        "axis" (None for one scale) and "symmetric". It fits JSON.

    Raises:
        ValueError: for a model that is not quantized.

    Example:
        >>> from qat_round.models.quantize import quantize_model
        >>> model = keras.Sequential([keras.layers.Dense(2, input_shape=(3,), name="last")])
        >>> encodings(quantize_model(model))["weights"]["quant_last/kernel"]["bits"]
        8
    """
    require_quantized(model, "encodings")
    found: dict[str, Any] = {"version": 1, "activations": {}, "weights": {}}
    for tensor in quantized_tensors(model):
        kind = "activations" if tensor.variable is None else "weights"
        found[kind][tensor.path] = _encoding(tensor)
    return found


def _encoding(tensor: Any) -> dict[str, Any]:
    scale, zero_point = tensor.scale_and_zero_point()
    half = 2 ** (tensor.bits - 1)
    per_axis = np.ndim(scale) > 0
    axis = getattr(tensor.quantizer, "axis", -1)
    narrow = bool(getattr(tensor.quantizer, "narrow_range", False))
    return {
        "bits": int(tensor.bits),
        "scale": np.atleast_1d(scale).astype(float).tolist(),
        "zero_point": [int(z) for z in np.broadcast_to(zero_point, np.shape(scale) or (1,))],
        "qmin": 1 - half if narrow else -half,
        "qmax": half - 1,
        "axis": (list(axis) if isinstance(axis, tuple) else axis) if per_axis else None,
        "symmetric": bool(getattr(tensor.quantizer, "symmetric", False)),
    }
