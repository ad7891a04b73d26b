"""Pruned and clustered models keep their zeros and clusters through training and export."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
import tf_keras as keras

import qat_round as qr
from qat_round.files.interpreter import Runner
from qat_round.files.tflite_file import TFLiteFile
from qat_round.quantizers.quantized_tensors import quantized_tensors
from tests.models import nets

SHARE, CLUSTERS = 0.8, 16


def pruned(model, pictures):
    """The model with four of five weights zero, by TFMOT."""
    sparsity = tfmot.sparsity.keras
    schedule = sparsity.ConstantSparsity(SHARE, 0, frequency=1)
    wrapped = sparsity.prune_low_magnitude(model, schedule)
    nets.ready(wrapped)
    callbacks = [sparsity.UpdatePruningStep()]
    wrapped.fit(*pictures, epochs=1, verbose=0, callbacks=callbacks)
    return sparsity.strip_pruning(wrapped)


def clustered(model):
    """The model with 16 different weights in each kernel, by TFMOT."""
    clustering = tfmot.clustering.keras
    start = clustering.CentroidInitialization.KMEANS_PLUS_PLUS
    settings = {"number_of_clusters": CLUSTERS, "cluster_centroids_init": start}
    return clustering.strip_clustering(clustering.cluster_weights(model, **settings))


def trained(model, pictures, preserve):
    """Two epochs of quantization-aware training."""
    quantized = qr.quantize_model(model, preserve=preserve)
    qr.calibrate(quantized, pictures[0][:64])
    nets.ready(quantized).fit(*pictures, epochs=2, verbose=0)
    return quantized


def kernels(model):
    """The quantized kernels, as Keras has them in inference."""
    tensors = [t for t in quantized_tensors(model) if t.variable is not None]
    return [np.asarray(t.quantizer.infer(t.variable, t.weights)) for t in tensors]


def integers(tflite):
    """The int8 kernels of a file."""
    file = TFLiteFile(tflite)
    runner = Runner(file)
    wanted = {"CONV_2D", "FULLY_CONNECTED"}
    return [runner.read_raw(op.inputs[1]) for op in file.operators if op.name in wanted]


@pytest.fixture(scope="module")
def sparse_net(float_net, pictures):
    return pruned(keras.models.clone_model(float_net), pictures)


@pytest.fixture(scope="module")
def clustered_net(float_net):
    copy = keras.models.clone_model(float_net)
    copy.set_weights(float_net.get_weights())
    return clustered(copy)


def test_zeros_stay_zero(sparse_net, pictures):
    model = trained(sparse_net, pictures, "sparsity")
    found = [*kernels(model), *integers(qr.export_tflite(model))]
    assert len(found) == 6
    assert all(np.mean(kernel == 0) >= SHARE - 0.01 for kernel in found)


@pytest.mark.parametrize("preserve", ["clusters", ("sparsity", "clusters")])
def test_clusters_stay_clusters(clustered_net, pictures, preserve):
    model = trained(clustered_net, pictures, preserve)
    found = [*kernels(model), *integers(qr.export_tflite(model))]
    assert len(found) == 6
    assert all(1 < len(np.unique(kernel)) <= CLUSTERS for kernel in found)


def test_training_moves_what_is_preserved(sparse_net, pictures, tmp_path):
    before = kernels(qr.quantize_model(sparse_net, preserve="sparsity"))
    model = trained(sparse_net, pictures, "sparsity")
    assert all(np.any(a != b) for a, b in zip(before, kernels(model), strict=True))
    model.save(tmp_path / "q.keras")
    for a, b in zip(kernels(model), kernels(qr.load_model(tmp_path / "q.keras")), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_word_is_refused():
    with pytest.raises(ValueError, match='allowed are "sparsity", "clusters"'):
        qr.quantize_model(nets.dense_net(), preserve="zeros")
