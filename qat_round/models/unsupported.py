"""Why a layer cannot be quantized, in words that help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qat_round._compat import ACTIVATIONS, QuantizeConfig, keras


class UnsupportedLayers(ValueError):  # noqa: N818
    """Names every layer that cannot be quantized, and what to do about each.

    Args:
        reasons: {layer, or the part of a graph that stands for it: why}.
    """

    def __init__(self, reasons: Mapping[Any, str]):
        self.reasons = dict(reasons)
        lines = [
            f"  {layer.name} ({getattr(layer, 'cls', type(layer)).__name__}): {why}"
            for layer, why in reasons.items()
        ]
        super().__init__(
            f"{len(lines)} of the model's layers cannot be quantized:\n"
            + "\n".join(lines)
            + '\nLeave a layer in float with overrides={"<its name>": qr.FLOAT}, or annotate it '
            "with a QuantizeConfig of your own."
        )


def why_unmarkable(layer: Any) -> str:
    """Why TFMOT cannot even mark a layer to be quantized, or nothing if it can."""
    is_operator = isinstance(layer, keras.layers.Lambda) or type(layer).__name__.endswith(
        "OpLambda"
    )
    return _advice(layer) if is_operator or isinstance(layer, keras.Model) else ""


def objection(layer: Any, config: QuantizeConfig | None) -> str:
    """Why TFMOT cannot quantize a layer by a config, or nothing if it can."""
    if config is None:
        return _advice(layer)
    try:
        config.get_output_quantizers(layer)
        activations = [activation for activation, _ in config.get_activations_and_quantizers(layer)]
    except ValueError as error:
        activation = getattr(getattr(layer, "activation", None), "__name__", None)
        return f"TFMOT does not know the activation {activation}" if activation else str(error)
    names = [getattr(a, "__name__", type(a).__name__) for a in activations]
    unknown = [name for name in names if name not in ACTIVATIONS]
    return f"TFMOT does not know the activation {', '.join(unknown)}" if unknown else ""


def _advice(layer: Any) -> str:
    if isinstance(layer, keras.layers.BatchNormalization):
        return "batch norm that follows no convolution or dense layer"
    if isinstance(layer, keras.layers.Lambda) or type(layer).__name__.endswith("OpLambda"):
        return "a raw operator or Lambda; write it as a Keras layer"
    if isinstance(layer, keras.Model):
        return "a model inside of the model; build one flat model"
    if type(layer).__module__.startswith(("keras", "tf_keras")):
        return "TFMOT has no QuantizeConfig for this layer"
    return "a custom layer; annotate it with a QuantizeConfig that names its weights"
