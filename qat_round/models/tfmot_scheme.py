"""`RoundingScheme`: any TFMOT scheme, with its quantizers swapped for ours.

The one module that knows TFMOT's inside. Everything that TFMOT decides (which tensors are
quantized, what is folded and fused) is delegated; only the quantizers are replaced, one by one,
keeping bits, symmetry and axis unless a spec says otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from qat_round._compat import (
    Default8BitQuantizeScheme,
    NoOpQuantizeConfig,
    QuantizeConfig,
    QuantizeLayer,
    QuantizeRegistry,
    QuantizeScheme,
    QuantizeWrapper,
    serialize_object,
)
from qat_round.models.tfmot_configs import RoundingConfig, SpecMarker, swap
from qat_round.models.unsupported import UnsupportedLayers, objection
from qat_round.quantizers.model_spec import ModelSpec, as_model_spec
from qat_round.quantizers.spec import FLOAT, LayerSpec


class RoundingScheme(QuantizeScheme):
    """Any TFMOT scheme, with differentiable rounding.

    Hand it to TFMOT's own `quantize_apply(model, scheme)`, or use `qr.quantize_model`, which
    stands on it.

    Args:
        base_scheme: the TFMOT scheme to decorate; the 8-bit TFLite scheme if None.
        spec: a ModelSpec.
        **settings: the arguments of `model_spec`, instead of `spec`.

    Raises:
        TypeError: if base_scheme is no TFMOT `QuantizeScheme`.

    Example:
        >>> scheme = RoundingScheme(rounder="sine", weight_bits=4)
        >>> scheme.spec.default.weights.bits
        4
    """

    def __init__(
        self,
        base_scheme: QuantizeScheme | None = None,
        *,
        spec: ModelSpec | LayerSpec | None = None,
        **settings: Any,
    ):
        self.base_scheme = Default8BitQuantizeScheme() if base_scheme is None else base_scheme
        if not isinstance(self.base_scheme, QuantizeScheme):
            raise TypeError(
                f"base_scheme={base_scheme!r} is no TFMOT QuantizeScheme; give an instance such as "
                "Default8BitQuantizeScheme(), or None for it."
            )
        self.spec = as_model_spec(spec, **settings)

    def spec_of(self, layer: Any) -> LayerSpec:
        """The spec for a float layer."""
        return self.spec.for_layer(layer.name, class_names(layer))

    def get_layout_transformer(self) -> Any:
        return _RoundingTransform(self)

    def get_quantize_registry(self) -> QuantizeRegistry:
        return _RoundingRegistry(self.base_scheme.get_quantize_registry(), self.spec)


class _RoundingRegistry(QuantizeRegistry):
    """The base scheme's registry; the configs that it gives are ours."""

    def __init__(self, base: QuantizeRegistry, spec: ModelSpec):
        self.base = base
        self.spec = spec

    def supports(self, layer: Any) -> bool:
        return self.base.supports(layer)

    def get_quantize_config(self, layer: Any) -> QuantizeConfig:
        config = self.base.get_quantize_config(layer)
        return RoundingConfig(config, self.spec.for_layer(layer.name, class_names(layer)))


class _RoundingTransform:
    """The base scheme's layout transform, then a RoundingConfig for every layer to quantize."""

    def __init__(self, scheme: RoundingScheme):
        self.base = scheme.base_scheme.get_layout_transformer()
        self.registry = scheme.base_scheme.get_quantize_registry()
        self.spec = scheme.spec

    def apply(self, model: Any, layer_quantize_map: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        lifted = _lift_markers(layer_quantize_map)
        spec_of = self._specs(model, lifted)
        transformed, entries = self.base.apply(model, layer_quantize_map)
        refused: dict[Any, str] = {}
        for layer in transformed.layers:
            if isinstance(layer, QuantizeLayer):
                entries.setdefault(layer.name, {})["quantizer"] = self._input(
                    layer, entries, spec_of
                )
            elif layer.name in entries and not isinstance(layer, QuantizeWrapper):
                entry = self._entry(layer, entries[layer.name], spec_of(layer))
                why_not = objection(layer, entry.get("quantize_config"))
                refused |= {layer: why_not} if why_not else {}
                entries[layer.name] = entry
        if refused:
            raise UnsupportedLayers(refused)
        return transformed, entries

    def _specs(self, model: Any, lifted: dict[str, LayerSpec]) -> Callable[[Any], LayerSpec]:
        self.spec.check_matches((layer.name, class_names(layer)) for layer in model.layers)

        def spec_of(layer: Any) -> LayerSpec:
            spec = self.spec.for_layer(layer.name, class_names(layer))
            marked = lifted.get(layer.name)
            return spec if marked is None else marked.over(spec)

        return spec_of

    def _entry(self, layer: Any, entry: dict[str, Any], spec: LayerSpec) -> dict[str, Any]:
        """The map's entry with our config, or with none if nobody knows how."""
        config = entry.get("quantize_config")
        if config is None and self.registry.supports(layer):
            config = self.registry.get_quantize_config(layer)
        if config is None and spec == FLOAT:
            config = NoOpQuantizeConfig()
        if config is None:
            return entry
        return {**entry, "quantize_config": RoundingConfig(copy.deepcopy(config), spec)}

    def _input(self, layer: Any, entries: dict[str, Any], spec_of: Any) -> dict[str, Any] | None:
        """The model input's own quantizer, as TFMOT reads it from the map.

        TFMOT takes it away in front of a Concatenate.
        """
        entry = entries.get(layer.name, {})
        quantizer = entry.get("quantizer", layer.quantizer)
        spec = spec_of(_source(layer)).activations
        if quantizer is None or spec is None:
            return None
        return serialize_object(swap(quantizer, spec))


def _lift_markers(layer_quantize_map: dict[str, Any]) -> dict[str, LayerSpec]:
    """Takes the SpecMarkers out of the map; name -> spec."""
    lifted = {}
    for name, entry in layer_quantize_map.items():
        config = entry.get("quantize_config")
        if isinstance(config, SpecMarker):
            lifted[name] = config.spec
            layer_quantize_map[name] = {**entry, "quantize_config": None}
    return lifted


def _source(layer: Any) -> Any:
    """The input layer in front of a `QuantizeLayer`."""
    return layer.inbound_nodes[0].inbound_layers if layer.inbound_nodes else layer


def class_names(layer: Any) -> list[str]:
    """The names of a layer's class and of the classes that it inherits from."""
    return [cls.__name__ for cls in type(layer).__mro__]
