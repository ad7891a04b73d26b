"""TFMOT's quantize configs and quantizers, with ours in their place."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from qat_round._compat import (
    CLUSTER_QUANTIZERS,
    PRUNE_QUANTIZERS,
    QuantizeConfig,
    Quantizer,
    deserialize_object,
    keras,
    quantizers,
    serialize_object,
)
from qat_round.quantizers.quantizer import RoundingQuantizer
from qat_round.quantizers.ranges import Fixed
from qat_round.quantizers.sparsity import (
    PRESERVING,
    ClusterPreservingQuantizer,
    PrunePreservingQuantizer,
)
from qat_round.quantizers.spec import LayerSpec, TensorSpec


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
        return [(weight, swap(quantizer, self._spec_of(weight))) for weight, quantizer in pairs]

    def _spec_of(self, weight: Any) -> TensorSpec:
        name = weight.name.split(":")[0].split("/")[-1]
        spec = self.spec.weight(name)
        if spec is None:
            raise ValueError(
                f"LayerSpec(weights={{{name!r}: None}}): under a TFMOT scheme no single weight can "
                "be left in float. Leave base_scheme out, or give weights=None for all of them."
            )
        return spec

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


def _with_lasting_weight_quantizer(config: QuantizeConfig, spec: LayerSpec) -> QuantizeConfig:
    """The config with our quantizer for pruned or clustered weights, if it has one.

    TFMOT's configs do not mention it in `get_config`, so it would be lost with the first save; and
    one is shared by all layers, though each layer has clusters of its own.
    """
    quantizer = getattr(config, "weight_quantizer", None)
    if spec.weights is None or not isinstance(quantizer, PRUNE_QUANTIZERS + CLUSTER_QUANTIZERS):
        return config
    lasting = copy.copy(config)
    lasting.weight_quantizer = swap(quantizer, spec.weight("kernel") or TensorSpec())
    return lasting


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
