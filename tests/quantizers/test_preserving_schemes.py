"""TFMOT's prune- and cluster-preserving schemes under our rounding."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve import (  # noqa: E501
    default_8bit_cluster_preserve_quantize_scheme as cluster_preserve,
)
from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.prune_preserve import (  # noqa: E501
    default_8bit_prune_preserve_quantize_scheme as prune_preserve,
)

import qat_round as qr
from qat_round.quantizers.quantized_tensors import quantized_tensors
from qat_round.quantizers.sparsity import ClusterPreservingQuantizer, PrunePreservingQuantizer
from tests.models import nets
from tests.models.probe import kernels, quantizer_of

layers = keras.layers


# Pruned and clustered models


def plain_net():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            layers.Input((12, 12, 1)),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(10, name="classes"),
        ]
    )


def pruned(model):
    for layer in (model.get_layer("conv"), model.get_layer("classes")):
        kernel = layer.kernel.numpy()
        layer.kernel.assign(np.where(np.abs(kernel) < np.median(np.abs(kernel)), 0.0, kernel))
    return model


def clustered(model, count: int = 6):
    for layer in (model.get_layer("conv"), model.get_layer("classes")):
        kernel = layer.kernel.numpy()
        centroids = np.linspace(-1.0, 1.0, count - 1 + count % 2) * np.abs(kernel).max()
        nearest = np.abs(kernel[..., np.newaxis] - centroids).argmin(-1)
        layer.kernel.assign(centroids[nearest])
    return model


def trained(model, pictures):
    qr.calibrate(model, pictures[0][:32])
    nets.steps(nets.ready(model, rate=1e-2), *pictures)
    return model


def test_a_prune_preserving_scheme_keeps_zeros(pictures):
    scheme = prune_preserve.Default8BitPrunePreserveQuantizeScheme()
    model = qr.quantize_model(pruned(plain_net()), "sine", base_scheme=scheme)
    before = kernels(model)
    after = kernels(trained(model, pictures))
    assert isinstance(quantizer_of(model, "quant_conv/kernel"), PrunePreservingQuantizer)
    for path, kernel in after.items():
        assert np.array_equal(kernel == 0.0, before[path] == 0.0)
        assert np.any(kernel != before[path])


@pytest.mark.parametrize("preserve_sparsity", [False, True])
def test_a_cluster_preserving_scheme_keeps_clusters(pictures, preserve_sparsity):
    scheme = cluster_preserve.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity)
    model = qr.quantize_model(clustered(plain_net()), "sine", base_scheme=scheme)
    before = kernels(model)["quant_classes/kernel"]
    after = kernels(trained(model, pictures))["quant_classes/kernel"]
    assert isinstance(quantizer_of(model, "quant_classes/kernel"), ClusterPreservingQuantizer)
    assert len(np.unique(after)) <= len(np.unique(before))
    assert np.any(after != before)
    assert not preserve_sparsity or np.all(after[before == 0.0] == 0.0)


@pytest.mark.parametrize("kind", ["pruned", "clustered"])
def test_a_preserving_model_goes_on_after_loading(kind, pictures, tmp_path):
    if kind == "pruned":
        scheme = prune_preserve.Default8BitPrunePreserveQuantizeScheme()
        model = qr.quantize_model(pruned(plain_net()), "sine", base_scheme=scheme)
    else:
        scheme = cluster_preserve.Default8BitClusterPreserveQuantizeScheme(False)
        model = qr.quantize_model(clustered(plain_net()), "sine", base_scheme=scheme)
    trained(model, pictures).save(tmp_path / "model.keras")
    loaded = qr.load_model(tmp_path / "model.keras")
    assert [t.quantizer for t in quantized_tensors(loaded)] == [
        t.quantizer for t in quantized_tensors(model)
    ]
    assert nets.steps(loaded, *pictures) == nets.steps(model, *pictures)


def test_weights_that_are_not_clustered_are_reported(pictures):
    model = keras.Sequential([layers.Input((200,)), layers.Dense(10, name="classes")])
    scheme = cluster_preserve.Default8BitClusterPreserveQuantizeScheme(False)
    with pytest.warns(UserWarning, match="quant_classes: its weights have 2000 different values"):
        qr.quantize_model(model, base_scheme=scheme)
