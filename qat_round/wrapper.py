"""The wrapper that the integer plan puts around every layer, and the config that steers it.

It is TFMOT's `QuantizeWrapperV2` for everyone who looks at a model, with three differences: it
builds without asking the layer for its output shape, it passes notes of grids on, and it saves what
it can load.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ._compat import (
    QuantizeConfig,
    RoundingWrapper,
    deserialize_object,
    keras,
    serialize_object,
    smart_cond,
    tf,
)
from .grids import GridNote, note, noted, on_noted_grid
from .quantizers import RoundingQuantizer

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


@keras.utils.register_keras_serializable(package="qat_round")
class GridWrapper(RoundingWrapper):
    """Quantizes a layer's weights and output, and keeps track of the grid that the output is on.

    Args:
        layer: the float layer.
        quantize_config: a LayerQuantizers.
        **kwargs: as for TFMOT's wrapper.
    """

    def build(self, input_shape: Any) -> None:
        if not self.layer.built:
            with tf.name_scope(self.layer.name):
                self.layer.build(input_shape)
            self.layer.built = True
        self.built = True
        config = self.quantize_config
        self._trainable_weights.extend(self.layer.trainable_weights)
        variables = list(self.layer.weights)
        self.float_weights = lambda: variables  # Keras forgets those that quantized values replace
        self._quantize_activations: list[Any] = []
        self._weight_vars = [
            (weight, quantizer, quantizer.build(weight.shape, path.replace(".", "_"), self))
            for (weight, quantizer), path in zip(
                config.get_weights_and_quantizers(self.layer), config.weights, strict=True
            )
        ]
        self._output_quantizers = config.get_output_quantizers(self.layer)
        for quantizer in self._output_quantizers:
            self._output_quantizer_vars = quantizer.build(None, "output", self)
        self._takes_training = "training" in inspect.signature(self.layer.call).parameters

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def call(self, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
        if training is None:
            training = keras.backend.learning_phase()
        weights = [_quantized(q, w, training, state) for w, q, state in self._weight_vars]
        self.quantize_config.set_quantize_weights(self.layer, weights)
        if self._takes_training:
            kwargs["training"] = training
        return self._on_grid(self.layer.call(inputs, **kwargs), inputs, training)

    def _on_grid(self, outputs: Any, inputs: Any, training: Any) -> Any:
        kind = self.quantize_config.grid
        if kind == KEEPS:
            return tf.nest.map_structure(lambda y: note(y, noted(inputs)), outputs)
        if kind == AVERAGES:
            return note(on_noted_grid(outputs, noted(inputs), training), noted(inputs))
        if kind != OWN:
            return outputs
        quantizer, state = self._output_quantizers[0], self._output_quantizer_vars
        return note(_quantized(quantizer, outputs, training, state), GridNote(quantizer, state))


def _quantized(quantizer: Any, x: Any, training: Any, state: Any) -> Any:
    return smart_cond(
        training,
        lambda: quantizer(x, True, weights=state),
        lambda: quantizer(x, False, weights=state),
    )


def _get(layer: Any, path: str) -> Any:
    for part in path.split("."):
        layer = getattr(layer, part)
    return layer


def _set(layer: Any, path: str, value: Any) -> None:
    *parents, name = path.split(".")
    for part in parents:
        layer = getattr(layer, part)
    setattr(layer, name, value)
