"""`RoundingScheme`: any TFMOT scheme, with its quantizers swapped for ours.

The one module that knows TFMOT's inside. Everything that TFMOT decides (which tensors are
quantized, what is folded and fused) is delegated; only the quantizers are replaced, one by one,
keeping bits, symmetry and axis unless a spec says otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from ._compat import (
    ACTIVATIONS,
    CLUSTER_QUANTIZERS,
    PRUNE_QUANTIZERS,
    Default8BitQuantizeScheme,
    NoOpQuantizeConfig,
    QuantizeConfig,
    QuantizeLayer,
    Quantizer,
    QuantizeRegistry,
    QuantizeScheme,
    QuantizeWrapper,
    deserialize_object,
    keras,
    quantizers,
    serialize_object,
)
from .preserve import PRESERVING, ClusterPreservingQuantizer, PrunePreservingQuantizer
from .quantizers import RoundingQuantizer
from .ranges import Fixed
from .spec import FLOAT, LayerSpec, ModelSpec, TensorSpec


@keras.utils.register_keras_serializable(package="qat_round")
class SpecMarker(QuantizeConfig):
    """Carries a LayerSpec on an annotation; lifted out before TFMOT's transforms run.

    A real config there would make TFMOT skip batch-norm folding for the layer.
    """

    def __init__(self, spec: LayerSpec):
        self.spec = spec

    def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
        return []

    def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
        pass

    def set_quantize_activations(self, layer: Any, quantize_activations: Any) -> None:
        pass

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return []

    def get_config(self) -> dict[str, Any]:
        return {"spec": self.spec.get_config()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SpecMarker:
        return cls(LayerSpec.from_config(config["spec"]))


@keras.utils.register_keras_serializable(package="qat_round")
class RoundingConfig(QuantizeConfig):
    """A TFMOT `QuantizeConfig` whose quantizers round as a LayerSpec says.

    Args:
        base_config: the config that knows the layer; every question is passed on to it.
        spec: what to change in the quantizers that it gives.

    Example:
        A config of your own, in one line: `RoundingConfig(MyDenseConfig(), LayerSpec("sine"))`.
    """

    def __init__(self, base_config: QuantizeConfig, spec: LayerSpec = LayerSpec()):  # noqa: B008
        self.base_config = _with_lasting_weight_quantizer(base_config, spec)
        self.spec = spec

    def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
        if self.spec.weights is None:
            return []
        pairs = self.base_config.get_weights_and_quantizers(layer)
        return [(weight, swap(quantizer, self.spec.weights)) for weight, quantizer in pairs]

    def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
        if self.spec.activations is None:
            return []
        pairs = self.base_config.get_activations_and_quantizers(layer)
        return [(act, swap(quantizer, self.spec.activations)) for act, quantizer in pairs]

    def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
        if quantize_weights:  # TFMOT's configs refuse an empty list
            self.base_config.set_quantize_weights(layer, quantize_weights)

    def set_quantize_activations(self, layer: Any, quantize_activations: Any) -> None:
        if quantize_activations:
            self.base_config.set_quantize_activations(layer, quantize_activations)

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        if self.spec.activations is None:
            return []
        outputs = self.base_config.get_output_quantizers(layer)
        return [swap(quantizer, self.spec.activations) for quantizer in outputs]

    def get_config(self) -> dict[str, Any]:
        config = {
            "base_config": serialize_object(self.base_config),
            "spec": self.spec.get_config(),
        }
        weight_quantizer = getattr(self.base_config, "weight_quantizer", None)
        if isinstance(weight_quantizer, PRESERVING):
            config["weight_quantizer"] = serialize_object(weight_quantizer)
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> RoundingConfig:
        base = deserialize_object(config["base_config"])
        if "weight_quantizer" in config:
            base.weight_quantizer = deserialize_object(config["weight_quantizer"])
        return cls(base, LayerSpec.from_config(config["spec"]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RoundingConfig) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash(self.spec)


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


def _with_lasting_weight_quantizer(config: QuantizeConfig, spec: LayerSpec) -> QuantizeConfig:
    """The config with our quantizer for pruned or clustered weights, if it has one.

    TFMOT's configs do not mention it in `get_config`, so it would be lost with the first save; and
    one is shared by all layers, though each layer has clusters of its own.
    """
    quantizer = getattr(config, "weight_quantizer", None)
    if spec.weights is None or not isinstance(quantizer, PRUNE_QUANTIZERS + CLUSTER_QUANTIZERS):
        return config
    lasting = copy.copy(config)
    lasting.weight_quantizer = swap(quantizer, spec.weights)
    return lasting


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


def swap(quantizer: Quantizer, spec: TensorSpec) -> Quantizer:
    """Our quantizer in place of a TFMOT one; those that we do not know are left as they are."""
    if isinstance(quantizer, RoundingQuantizer):
        return quantizer
    kind = _kind(quantizer)
    if kind is None:
        return quantizer
    cls, range_ = kind
    settings: dict[str, Any] = {
        "bits": getattr(quantizer, "num_bits", 8),
        "rounder": "ste",
        "range": range_,
        "symmetric": getattr(quantizer, "symmetric", False),
        "per_axis": getattr(quantizer, "per_axis", False),
        "narrow_range": quantizer.narrow_range,
    }
    if cls is ClusterPreservingQuantizer:
        settings["preserve_sparsity"] = quantizer.preserve_sparsity
    return cls(**(settings | spec.given()))


def _kind(quantizer: Quantizer) -> tuple[type[RoundingQuantizer], Any] | None:
    if isinstance(quantizer, PRUNE_QUANTIZERS):
        return PrunePreservingQuantizer, "last_value"
    if isinstance(quantizer, CLUSTER_QUANTIZERS):
        return ClusterPreservingQuantizer, "last_value"
    if isinstance(quantizer, quantizers.FixedQuantizer):
        return RoundingQuantizer, Fixed(quantizer.init_min, quantizer.init_max)
    for cls, range_ in (
        (quantizers.LastValueQuantizer, "last_value"),
        (quantizers.MovingAverageQuantizer, "moving_average"),
        (quantizers.AllValuesQuantizer, "all_values"),
    ):
        if isinstance(quantizer, cls) and type(quantizer).__module__.startswith(_TFMOT):
            return RoundingQuantizer, range_
    return None


_TFMOT = "tensorflow_model_optimization"


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


def model_spec(
    rounder: Any = "ste",
    weight_bits: int | None = None,
    activation_bits: int | None = None,
    weights: Any = TensorSpec(),  # noqa: B008
    activations: Any = TensorSpec(),  # noqa: B008
    overrides: Any = (),
) -> ModelSpec:
    """A ModelSpec from the arguments of `qr.quantize_model`.

    Args:
        rounder: for weights and activations, unless `weights` or `activations` say otherwise.
        weight_bits, activation_bits: 2 to 16; None as the base scheme has it.
        weights, activations: what `qr.LayerSpec` takes.
        overrides: {layer name pattern or class: LayerSpec}.
    """
    common = {"weights": weight_bits, "activations": activation_bits}
    asked = LayerSpec(weights, activations)
    base = LayerSpec(*(TensorSpec(bits=bits, rounder=rounder) for bits in common.values()))
    return ModelSpec(asked.over(base), overrides)


def as_model_spec(spec: Any = None, **settings: Any) -> ModelSpec:
    """A ModelSpec from a ModelSpec, a LayerSpec, or the arguments of `model_spec`.

    Raises:
        TypeError: if both a spec and arguments are given, or the spec is neither.
    """
    if spec is None:
        return model_spec(**settings)
    if settings:
        raise TypeError(f"Give either spec or {sorted(settings)}, not both.")
    if isinstance(spec, LayerSpec):
        return ModelSpec(spec.over(model_spec().default))
    if isinstance(spec, ModelSpec):
        return ModelSpec(spec.default.over(model_spec().default), spec.overrides)
    raise TypeError(f"spec={spec!r} is neither a qr.ModelSpec nor a qr.LayerSpec.")
