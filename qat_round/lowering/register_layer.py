"""Layers of users: which of their weights are quantized, as they say."""

from __future__ import annotations

import inspect
from typing import Any

from qat_round._compat import keras
from qat_round.frontend.graph import Part
from qat_round.lowering.operator_table import Kind, Weight
from qat_round.quantizers.spec import LayerSpec

_SPECS: dict[type, LayerSpec] = {}


def register_layer(cls: type, spec: LayerSpec) -> type:
    """Says how a custom layer is quantized, in every model that has one.

    The layer is one step of the plan: its named weights are put on grids before its `call`, and
    what it gives is put on a grid behind it. What happens in between stays in integers if it is one
    TFLite operator, or several that only move values; look at `qr.coverage(model)` and at the
    file's float operators (`qr.verify_tflite`). Write a layer of several steps as several layers.

    Args:
        cls: a subclass of `tf_keras.layers.Layer` that can be made from its `get_config()`.
        spec: a LayerSpec whose `weights` names attributes, {"kernel": TensorSpec(bits=4)}, and
            whose `outputs` says how the output is quantized (None: not at all). `qr.FLOAT` leaves
            such layers in float without further questions.

    Returns:
        The class, so that it can be used as `register_layer(MyLayer, spec)` behind its definition.

    Raises:
        TypeError: if cls is no layer class, or spec no LayerSpec.
        ValueError: if it is a built-in layer, or the spec names no weights.

    Example:
        >>> class Gain(keras.layers.Layer):
        ...     def build(self, input_shape):
        ...         self.gain = self.add_weight("gain", [input_shape[-1]], initializer="ones")
        ...     def call(self, inputs):
        ...         return inputs * self.gain
        >>> register_layer(Gain, LayerSpec(weights={"gain": "sine"}, outputs="ste")).__name__
        'Gain'
    """
    if not (inspect.isclass(cls) and issubclass(cls, keras.layers.Layer)):
        raise TypeError(f"register_layer: {cls!r} is no subclass of tf_keras.layers.Layer.")
    if not isinstance(spec, LayerSpec):
        raise TypeError(f"register_layer: spec={spec!r} is no qr.LayerSpec.")
    if cls.__module__.startswith(("tf_keras.", "keras.")):
        raise ValueError(
            f"register_layer: {cls.__name__} is built in and known. To quantize it otherwise, give "
            "qr.quantize_model(..., overrides={<class or name>: LayerSpec})."
        )
    if spec.weights is not None and not spec.by_weight:
        raise ValueError(
            f"register_layer: name the weights of {cls.__name__} that are to be quantized, "
            'LayerSpec(weights={"kernel": qr.TensorSpec()}); weights=None for one without.'
        )
    _SPECS[cls] = spec
    return cls


def registered(cls: type) -> LayerSpec | None:
    """What was registered for a class, or for the nearest one that it inherits from."""
    return next((_SPECS[base] for base in cls.__mro__ if base in _SPECS), None)


def kind_of_custom(part: Part) -> Kind:
    """What is quantized of a registered layer."""
    spec = registered(part.cls)
    named: dict[str, Any] = {} if spec is None else spec.by_weight
    return Kind(weights=tuple(Weight(name, axis=_axis(tensor)) for name, tensor in named.items()))


def _axis(tensor: Any) -> int | None:
    return -1 if tensor is not None and tensor.per_axis else None
