"""Quantizers for models that were pruned or clustered: zeros stay zero, clusters stay clusters.

TFMOT's prune- and cluster-preserving schemes say which weights; the pattern itself is found here
when the layer is built, and kept in layer weights, so that a saved model still has it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from qat_round._compat import keras, tf
from qat_round.quantizers.quantizer import RoundingQuantizer

MOST_CLUSTERS = 1024  # more different values than that are not called clusters, as in TFMOT


@keras.utils.register_keras_serializable(package="qat_round")
class PrunePreservingQuantizer(RoundingQuantizer):
    """Weights that were zero when the layer was built stay zero."""

    is_for_weights: ClassVar[bool] = True

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, tf.Variable]:
        mask = np.not_equal(_values(layer, name), 0.0).astype(np.float32)
        own = super().build(tensor_shape, name, layer)
        return {**own, "mask": _kept(layer, f"{name}_mask", mask)}

    def train(self, x: Any, weights: dict[str, Any]) -> tf.Tensor:
        return super().train(tf.convert_to_tensor(x) * weights["mask"], weights)

    def infer(self, x: Any, weights: dict[str, Any]) -> tf.Tensor:
        return super().infer(tf.convert_to_tensor(x) * weights["mask"], weights)


@keras.utils.register_keras_serializable(package="qat_round")
class ClusterPreservingQuantizer(RoundingQuantizer):
    """Weights that shared a value when the layer was built go on sharing one; the values train.

    In training each weight is the centroid that is nearest to its own trained number w; the
    gradient goes to the centroid (summed) and to w:
        y = c[argmin |w - c|],   dy/dc = 1 for the nearest c,   dy/dw = 1

    Args:
        preserve_sparsity: whether weights and centroids that were zero stay zero.
        clusters: how many centroids; None to find them when the layer is built, 0 for none.
        by_channel: whether each output channel has centroids of its own.
        one_range: whether all channels have the range of the whole tensor, so that a centroid is
            one integer in all of them (a batch norm that is folded scales them apart).
        **settings: those of RoundingQuantizer.
    """

    is_for_weights: ClassVar[bool] = True

    def __init__(
        self,
        preserve_sparsity: bool = False,
        clusters: int | None = None,
        by_channel: bool = False,
        one_range: bool = False,
        **settings: Any,
    ):
        super().__init__(**settings)
        self.preserve_sparsity = preserve_sparsity
        self.clusters = clusters
        self.by_channel = by_channel
        self.one_range = one_range

    def measure(self, x: tf.Tensor) -> tf.Tensor:
        ends = super().measure(x)
        if not (self.one_range and self.per_axis):
            return ends
        lo, hi = tf.reduce_min(ends[0]), tf.reduce_max(ends[1])
        return tf.stack([tf.fill(tf.shape(ends[0]), lo), tf.fill(tf.shape(ends[1]), hi)])

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, tf.Variable]:
        own = super().build(tensor_shape, name, layer)
        values = _values(layer, name)
        centroids = self._centroids(values, layer)
        if self.preserve_sparsity:
            mask = np.not_equal(values, 0.0).astype(np.float32)
            own["mask"] = _kept(layer, f"{name}_mask", mask)
        if not self.clusters:
            return own
        if self.preserve_sparsity:
            mask = np.not_equal(centroids, 0.0).astype(np.float32)
            own["centroids_mask"] = _kept(layer, f"{name}_centroids_mask", mask)
        own["centroids"] = _kept(layer, f"{name}_centroids", centroids, trainable=True)
        own["original"] = _kept(layer, f"{name}_original", values, trainable=True)
        return own

    def train(self, x: Any, weights: dict[str, Any]) -> tf.Tensor:
        if "centroids" not in weights:
            return super().train(_masked(x, weights, "mask"), weights)
        original = _masked(weights["original"], weights, "mask")
        clustered = nearest_centroid(original, _masked(weights["centroids"], weights))
        x.assign(clustered)  # what is evaluated, saved and exported
        return super().train(clustered, weights)

    def get_config(self) -> dict[str, Any]:
        own = ("preserve_sparsity", "clusters", "by_channel", "one_range")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}

    def _centroids(self, values: np.ndarray, layer: Any) -> np.ndarray:
        """Shape (channels, clusters), or (1, clusters); zeros where a file will bring them."""
        channels = values.reshape(-1, values.shape[-1]).T if self.by_channel else values[None]
        if self.clusters is not None:
            return np.zeros((len(channels), self.clusters), np.float32)
        found = _find_centroids(values, isinstance(layer.layer, keras.layers.Conv2D))
        self.by_channel = len(found) > 1
        self.clusters = found.shape[1]
        if not 1 < self.clusters <= MOST_CLUSTERS:
            warnings.warn(
                f"{layer.name}: its weights have {self.clusters} different values, so they are "
                "not clustered and are quantized as any others."
            )
            self.clusters = 0
        return found


PRESERVING = (PrunePreservingQuantizer, ClusterPreservingQuantizer)
PATTERNS = ("sparsity", "clusters")
_KERNELS = ("kernel", "depthwise_kernel", "embeddings")


def patterns(preserve: str | Sequence[str] | None) -> tuple[str, ...]:
    """What of the weights is to be preserved, from one word, several, or None.

    Raises:
        ValueError: for another word than "sparsity" and "clusters".

    Example:
        >>> patterns("clusters")
        ('clusters',)
    """
    words = (preserve,) if isinstance(preserve, str) else tuple(preserve or ())
    for word in words:
        if word not in PATTERNS:
            raise ValueError(
                f"preserve={preserve!r}: {word!r} is unknown; allowed are "
                '"sparsity", "clusters", or both in a tuple.'
            )
    return words


def preserving(
    quantizer: RoundingQuantizer, words: Sequence[str], attribute: str, values: np.ndarray
) -> RoundingQuantizer:
    """The quantizer that keeps the pattern of some weights; the same one where there is none.

    Args:
        quantizer: of the weights.
        words: what `patterns` gives.
        attribute: where their layer has them; biases and gains have no pattern.
        values: their values.
    """
    if not words or attribute not in _KERNELS:
        return quantizer
    if "clusters" not in words:
        return PrunePreservingQuantizer(**quantizer.get_config())
    clusters = len(np.unique(values))
    if not 1 < clusters <= MOST_CLUSTERS:
        return preserving(quantizer, [w for w in words if w != "clusters"], attribute, values)
    settings = quantizer.get_config() | {"one_range": True}
    zeros = "sparsity" in words
    return ClusterPreservingQuantizer(preserve_sparsity=zeros, clusters=clusters, **settings)


def note_patterns(wrapper: Any) -> None:
    """Takes the zeros and centroids from a wrapped layer's weights as they are now."""
    for variable, quantizer, state in wrapper._weight_vars:
        if not isinstance(quantizer, PRESERVING):
            continue
        values = variable.numpy()
        found = {"mask": values, "original": values}
        if "centroids" in state:
            unique = np.unique(values)[np.newaxis]
            found |= {"centroids": unique, "centroids_mask": unique}
        for name in found.keys() & state.keys():
            array = found[name]
            state[name].assign(array != 0.0 if name.endswith("mask") else array)


def nearest_centroid(values: tf.Tensor, centroids: tf.Tensor) -> tf.Tensor:
    """Each value's nearest centroid; the gradient goes to the centroid and to the value.

    Args:
        values: any shape, channels last.
        centroids: (channels, clusters), or (1, clusters) for all channels.

    Example:
        >>> nearest_centroid(tf.constant([0.1, 0.9]), tf.constant([[0.0, 1.0]])).numpy().tolist()
        [0.0, 1.0]
    """
    channels, clusters = centroids.shape
    at = tf.argmin(tf.abs(values[..., tf.newaxis] - centroids), axis=-1, output_type=tf.int32)
    picked = tf.gather(tf.reshape(centroids, [-1]), at + tf.range(channels) * clusters)
    return picked + (values - tf.stop_gradient(values))


def _find_centroids(values: np.ndarray, is_convolution: bool) -> np.ndarray:
    """By channel where a convolution's channels have as many values each (or one fewer)."""
    whole = np.unique(values)[np.newaxis]
    if not is_convolution:
        return whole
    found = [np.unique(values[..., channel]) for channel in range(values.shape[-1])]
    most = max(map(len, found))
    if most - min(map(len, found)) > 1:
        return whole
    return np.stack([np.pad(c, (0, most - len(c)), mode="edge") for c in found])


def _masked(x: Any, weights: dict[str, Any], mask: str = "centroids_mask") -> tf.Tensor:
    x = tf.convert_to_tensor(x)
    return x * weights[mask] if mask in weights else x


def _values(layer: Any, name: str) -> np.ndarray:
    """The values of the wrapped layer's weight."""
    with tf.init_scope():
        return np.asarray(getattr(layer.layer, name), np.float32)


def _kept(layer: Any, name: str, value: np.ndarray, trainable: bool = False) -> tf.Variable:
    return layer.add_weight(
        name=name,
        shape=value.shape,
        dtype=tf.float32,
        initializer=lambda shape, dtype=None, **_: tf.constant(value, dtype),
        trainable=trainable,
    )
