"""The config that steers a wrapper: which weights of a layer have a grid, and its output's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qat_round._compat import QuantizeConfig, deserialize_object, keras, serialize_object
from qat_round.quantizers.quantizer import RoundingQuantizer

OWN, KEEPS, AVERAGES, NONE = "own", "keeps", "averages", "none"
"""What a layer does about its output's grid: its own quantizer, its input's (values only moved),
its input's (values averaged), or nothing (fused into the next layer, or float)."""


@keras.utils.register_keras_serializable(package="qat_round")
class LayerQuantizers(QuantizeConfig):
    """Which weights of a layer are quantized by what, and what happens to its output.

    Args:
        weights: {attribute: RoundingQuantizer}; an attribute of a part is written "cell.kernel".
        output: the RoundingQuantizer of the output where `grid` is "own".
        grid: "own", "keeps", "averages" or "none".
        why: for the summary: why the layer stays in float; empty if it does not.
    """

    def __init__(
        self,
        weights: Mapping[str, RoundingQuantizer] | None = None,
        output: RoundingQuantizer | None = None,
        grid: str = NONE,
        why: str = "",
    ):
        self.weights = dict(weights or {})
        self.output = output
        self.grid = grid
        self.why = why

    def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
        return [(_get(layer, path), quantizer) for path, quantizer in self.weights.items()]

    def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
        for path, weight in zip(self.weights, quantize_weights, strict=True):
            _set(layer, path, weight)

    def set_quantize_activations(self, layer: Any, quantize_activations: Any) -> None:
        pass

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [] if self.output is None else [self.output]

    def get_config(self) -> dict[str, Any]:
        return {
            "weights": {path: serialize_object(q) for path, q in self.weights.items()},
            "output": None if self.output is None else serialize_object(self.output),
            "grid": self.grid,
            "why": self.why,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LayerQuantizers:
        weights = {path: deserialize_object(q) for path, q in config["weights"].items()}
        output = config["output"] and deserialize_object(config["output"])
        return cls(weights, output, config["grid"], config["why"])


def _get(layer: Any, path: str) -> Any:
    for part in path.split("."):
        layer = getattr(layer, part)
    return layer


def _set(layer: Any, path: str, value: Any) -> None:
    *parents, name = path.split(".")
    for part in parents:
        layer = getattr(layer, part)
    setattr(layer, name, value)
