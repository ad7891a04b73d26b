"""Quantizers for models that were pruned or clustered: zeros stay zero, clusters stay clusters.

TFMOT's prune- and cluster-preserving quantizers know which weights are zero and which share a
value; they are asked for it, and what they give is rounded by ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._compat import deserialize_object, keras, serialize_object, tf
from .quantizers import RoundingQuantizer


class _PreservingQuantizer(RoundingQuantizer):
    """A RoundingQuantizer in front of which a TFMOT quantizer's pattern is applied to the weights.

    Args:
        base: the TFMOT quantizer that finds the pattern when the layer is built.
        **settings: those of RoundingQuantizer.
    """

    def __init__(self, base: Any, **settings: Any):
        super().__init__(**settings)
        self.base = base

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        pattern = self.base.build(tensor_shape, f"{name}", layer)
        own = super().build(tensor_shape, f"{name}_rounding", layer)
        return {**pattern, **own}

    def train(self, x: Any, weights: dict[str, Any]) -> tf.Tensor:
        return super().train(self.preserved(x, weights), weights)

    def preserved(self, x: Any, weights: dict[str, Any]) -> tf.Tensor:
        """The weights with the pattern applied."""
        raise TypeError(f"{type(self).__name__} has to define preserved(x, weights).")

    def get_config(self) -> dict[str, Any]:
        return {"base": serialize_object(self.base), **super().get_config()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> _PreservingQuantizer:
        settings = dict(config)
        return cls(deserialize_object(settings.pop("base")), **settings)


@keras.utils.register_keras_serializable(package="qat_round")
class PrunePreservingQuantizer(_PreservingQuantizer):
    """Weights that were zero when the layer was built stay zero."""

    def preserved(self, x: Any, weights: dict[str, Any]) -> tf.Tensor:
        return tf.convert_to_tensor(x) * weights["sparsity_mask"]

    def infer(self, x: Any, weights: dict[str, Any]) -> tf.Tensor:
        return super().infer(self.preserved(x, weights), weights)


@keras.utils.register_keras_serializable(package="qat_round")
class ClusterPreservingQuantizer(_PreservingQuantizer):
    """Weights that shared a value when the layer was built go on sharing one; the values train."""

    def preserved(self, x: Any, weights: dict[str, Any]) -> tf.Tensor:
        sparse = self.base.preserve_sparsity and "sparsity_mask" in weights
        if "cluster_centroids_tf" not in weights:
            return tf.convert_to_tensor(x) * weights["sparsity_mask"] if sparse else x
        clusters, original = weights["clst_impl"], weights["ori_weights_vars_tf"]
        if sparse:
            original.assign(original * weights["sparsity_mask"])
            clusters.cluster_centroids.assign(
                clusters.cluster_centroids * weights["centroids_mask"]
            )
        indices = weights["pulling_indices_tf"]
        indices.assign(tf.cast(clusters.get_pulling_indices(original), indices.dtype))
        clustered = clusters.get_clustered_weight(indices, original)
        x.assign(clustered)
        return clustered
