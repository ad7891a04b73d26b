"""Whole models: what is quantized and how, for whom it works, and that the given model stays."""

from __future__ import annotations

import nets
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve import (  # noqa: E501
    default_8bit_cluster_preserve_quantize_scheme as cluster_preserve,
)
from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.prune_preserve import (  # noqa: E501
    default_8bit_prune_preserve_quantize_scheme as prune_preserve,
)

import qat_round as qr
from qat_round._compat import (
    Default8BitQuantizeScheme,
    DefaultNBitQuantizeScheme,
    QuantizeAnnotate,
    quantizers,
)
from qat_round.quantizers.quantized_tensors import quantized_tensors
from qat_round.quantizers.sparsity import ClusterPreservingQuantizer, PrunePreservingQuantizer

layers = keras.layers
tfmot_keras = tfmot.quantization.keras


def tensors(model) -> dict:
    return {tensor.path: tensor for tensor in quantized_tensors(model)}


def quantizer_of(model, path: str):
    return tensors(model)[path].quantizer


# What is quantized


def stock(model, scheme=None):
    annotated = tfmot_keras.quantize_annotate_model(model)
    return tfmot_keras.quantize_apply(annotated, scheme or Default8BitQuantizeScheme())


EIGHT_BIT = Default8BitQuantizeScheme()


def settings(model) -> dict:
    """Everything about the quantized tensors but who quantizes them."""

    def of(tensor):
        quantizer = tensor.quantizer
        shape = tuple(tensor.weights["min_var"].shape)
        return tensor.bits, quantizer.symmetric, quantizer.narrow_range, shape

    rows = [(t.path.removeprefix(t.layer.name), *of(t)) for t in quantized_tensors(model)]
    return dict(enumerate(rows))


def separable_net():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            layers.Input((12, 12, 2)),
            layers.ZeroPadding2D(1),
            layers.DepthwiseConv2D(3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.SeparableConv2D(4, 3, name="separable"),
            layers.Conv2D(4, 1, activation="relu"),
            layers.Flatten(),
            layers.Dense(5, "softmax"),
        ]
    )


@pytest.mark.parametrize("build", [nets.conv_net, nets.dense_net, nets.twin_net, separable_net])
def test_the_same_tensors_are_quantized_as_by_stock_tfmot(build):
    ours, theirs = qr.quantize_model(build(), "sine", base_scheme=EIGHT_BIT), stock(build())
    assert settings(ours) == settings(theirs)
    assert [type(layer.layer).__name__ for layer in ours.layers if hasattr(layer, "layer")] == [
        type(layer.layer).__name__ for layer in theirs.layers if hasattr(layer, "layer")
    ]
    assert all(tensor.is_ours for tensor in quantized_tensors(ours))


def test_batch_norm_and_relu_are_folded_into_the_convolution(float_net):
    paths = set(tensors(qr.quantize_model(float_net)))
    assert "quant_relu/output" in paths
    assert not {path for path in paths if "bn" in path or path.endswith("conv/post_activation")}


def test_dense_layers_are_quantized_per_channel_too_but_by_tfmots_scheme(float_net):
    shapes = {
        name: tensors(model)["quant_classes/kernel"].weights["min_var"].shape
        for name, model in (
            ("plan", qr.quantize_model(float_net)),
            ("scheme", qr.quantize_model(float_net, base_scheme=EIGHT_BIT)),
        )
    }
    assert shapes == {"plan": (10,), "scheme": ()}


def test_an_n_bit_base_scheme_keeps_its_bits(pictures):
    scheme = DefaultNBitQuantizeScheme(num_bits_weight=4, num_bits_activation=6)
    ours = qr.quantize_model(nets.conv_net(), "sine", base_scheme=scheme)
    assert settings(ours) == settings(stock(nets.conv_net(), scheme))
    assert {t.bits for t in quantized_tensors(ours)} == {4, 6}


def test_bits_asked_for_win_over_the_base_schemes():
    scheme = DefaultNBitQuantizeScheme(num_bits_weight=4, num_bits_activation=6)
    model = qr.quantize_model(nets.dense_net(), weight_bits=3, base_scheme=scheme)
    assert quantizer_of(model, "quant_last/kernel").bits == 3
    assert quantizer_of(model, "quant_last/post_activation").bits == 6


def test_four_bit_weights_have_at_most_15_values(float_net, pictures):
    model = qr.quantize_model(float_net, weight_bits=4)
    tensor = tensors(model)["quant_classes/kernel"]
    on_grid = tensor.quantizer(tensor.variable, False, tensor.weights)
    assert max(len(np.unique(channel)) for channel in np.transpose(on_grid)) <= 15


# Settings


@pytest.mark.parametrize(
    "asked",
    ["sine", qr.SineRound(), qr.TensorSpec(rounder="sine"), {"name": "sine"}, {"rounder": "sine"}],
)
def test_weights_take_a_name_a_rounder_or_a_spec(asked):
    model = qr.quantize_model(nets.dense_net(), weights=asked)
    assert quantizer_of(model, "quant_last/kernel").rounder == qr.SineRound()
    assert quantizer_of(model, "quant_last/output").rounder == qr.StraightThrough()


def test_activations_take_a_spec_with_bits_and_range():
    spec = qr.TensorSpec(bits=6, rounder="ramp", range="all_values", symmetric=True)
    model = qr.quantize_model(nets.dense_net(), "sine", activations=spec)
    for tensor in quantized_tensors(model):
        if tensor.variable is None:
            assert (tensor.bits, tensor.quantizer.symmetric) == (6, True)
            assert tensor.quantizer.rounder == qr.RampRound()
            assert tensor.quantizer.range == qr.ranges.AllValues()
        else:
            assert tensor.quantizer.rounder == qr.SineRound()


def test_weights_none_leaves_weights_in_float():
    model = qr.quantize_model(nets.dense_net(), weights=None)
    assert all(tensor.variable is None for tensor in quantized_tensors(model))


def test_overrides_by_pattern_and_class_and_the_last_match_wins():
    overrides = {
        layers.Dense: qr.LayerSpec(weights=qr.TensorSpec(bits=4)),
        "dense_*": qr.LayerSpec(weights="ramp"),
        "dense_b": qr.FLOAT,
    }
    model = qr.quantize_model(nets.dense_net(), "sine", overrides=overrides)
    assert quantizer_of(model, "quant_last/kernel").bits == 4
    first = quantizer_of(model, "quant_dense_a/kernel")
    assert (first.bits, first.rounder) == (8, qr.RampRound())
    assert [path for path in tensors(model) if "dense_b" in path] == ["quant_dense_b/output"]


def test_what_an_override_leaves_open_is_as_in_the_rest_of_the_model():
    overrides = {"last": qr.LayerSpec(activations="sine")}
    model = qr.quantize_model(nets.dense_net(), weights=None, overrides=overrides)
    assert all(tensor.variable is None for tensor in quantized_tensors(model))
    assert quantizer_of(model, "quant_last/output").rounder == qr.SineRound()


def test_what_an_annotation_leaves_open_is_as_the_overrides_say():
    model = keras.Sequential(
        [layers.Input((8,)), qr.annotate_layer(layers.Dense(3, name="last"), qr.LayerSpec("sine"))]
    )
    bits = qr.LayerSpec(weights=qr.TensorSpec(bits=4, rounder="ramp"))
    quantizer = quantizer_of(
        qr.quantize_apply(model, overrides={"last": bits}), "quant_last/kernel"
    )
    assert (quantizer.bits, quantizer.rounder) == (4, qr.SineRound())


def test_a_float_layer_computes_in_float():
    model = qr.quantize_model(nets.dense_net(), overrides={"*": qr.FLOAT})
    inputs = nets.vectors()
    given = nets.predicted(nets.dense_net(), inputs)
    np.testing.assert_array_equal(nets.predicted(model, inputs), given)


def test_a_float_convolution_still_has_its_batch_norm(float_net, pictures):
    model = qr.quantize_model(float_net, overrides={"*": qr.FLOAT})
    given, ours = (nets.predicted(m, pictures[0][:32]) for m in (float_net, model))
    np.testing.assert_allclose(ours, given, rtol=1e-5, atol=1e-5)


def test_the_summary_names_what_stays_in_float_and_why():
    model = qr.quantize_model(nets.dense_net(), "sine", overrides={"dense_b": qr.FLOAT})
    text = qr.summary(model)
    assert "quant_dense_b: asked for (qr.FLOAT)" in text
    for word in ("quant_last", "kernel", "sine", "never set", "last_value"):
        assert word in text


def test_a_spec_object_says_the_same_as_the_arguments():
    spec = qr.ModelSpec(qr.LayerSpec("sine", "ramp"), {"last": qr.FLOAT})
    by_object = qr.quantize_model(nets.dense_net(), spec=spec)
    by_arguments = qr.quantize_model(
        nets.dense_net(), weights="sine", activations="ramp", overrides={"last": qr.FLOAT}
    )
    ours, theirs = ([t.quantizer for t in quantized_tensors(m)] for m in (by_object, by_arguments))
    assert ours == theirs


@pytest.mark.parametrize("setting", [{"rounder": "sine"}, {"weight_bits": 4}, {"weights": "sine"}])
def test_a_spec_and_arguments_together_are_refused(setting):
    with pytest.raises(TypeError, match="not both"):
        qr.quantize_model(nets.dense_net(), spec=qr.LayerSpec(), **setting)


# The given model


def test_the_given_model_stays_as_it_was(pictures):
    model = nets.ready(nets.conv_net())
    weights, config, optimizer = model.get_weights(), model.to_json(), model.optimizer
    nodes = [len(layer.inbound_nodes) for layer in model.layers]
    outputs = nets.predicted(model, pictures[0][:8])
    quantized = qr.quantize_model(model, "sine", overrides={"classes": qr.FLOAT})
    qr.calibrate(quantized, pictures[0][:32])
    nets.steps(nets.ready(quantized), *pictures)
    qr.annotate_model(model)
    assert type(model) is keras.Sequential
    assert model.to_json() == config
    assert model.optimizer is optimizer
    assert [len(layer.inbound_nodes) for layer in model.layers] == nodes
    for now, then in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)
    np.testing.assert_array_equal(nets.predicted(model, pictures[0][:8]), outputs)


def test_an_annotated_model_shares_no_weights_with_the_given_one():
    model = nets.dense_net()
    before = model.get_weights()
    annotated = qr.annotate_model(model)
    annotated.set_weights([weight + 1.0 for weight in annotated.get_weights()])
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_quantizing_an_annotated_model_leaves_it_as_it_was():
    annotated = qr.annotate_model(nets.dense_net())
    config = annotated.to_json()
    qr.quantize_apply(annotated, weights="sine")
    assert annotated.to_json() == config
    assert not any(quantized_tensors(annotated))


def test_a_frozen_layer_stays_frozen(pictures):
    model = nets.conv_net()
    model.get_layer("conv").trainable = False
    quantized = nets.ready(qr.quantize_model(model, "sine"))
    qr.calibrate(quantized, pictures[0][:32])
    nets.steps(quantized, *pictures)
    moved = {name: _kernel_moved(model, quantized, name) for name in ("conv", "conv2")}
    assert moved == {"conv": False, "conv2": True}


def _kernel_moved(model, quantized, name: str) -> bool:
    now = tensors(quantized)[f"quant_{name}/kernel"].variable.numpy()
    return bool(np.any(now != model.get_layer(name).kernel.numpy()))


# Annotations


def test_only_annotated_layers_are_quantized():
    model = keras.Sequential(
        [
            layers.Input((8,)),
            layers.Dense(6, "relu", name="plain"),
            qr.annotate_layer(layers.Dense(5, "relu", name="marked"), qr.LayerSpec("sine")),
            layers.Dense(3, name="plain_too"),
        ]
    )
    quantized = qr.quantize_apply(model, weight_bits=4)
    weights = {p: t.quantizer for p, t in tensors(quantized).items() if t.variable is not None}
    assert list(weights) == ["quant_marked/kernel"]
    assert (weights["quant_marked/kernel"].rounder.name, weights["quant_marked/kernel"].bits) == (
        "sine",
        4,
    )
    assert "plain_too: not annotated" in qr.summary(quantized)


def test_annotate_model_keeps_the_marks_that_are_there():
    marked = keras.Sequential(
        [
            layers.Input((8,)),
            qr.annotate_layer(layers.Dense(5, name="first"), qr.LayerSpec("ramp")),
            layers.Dense(3, name="second"),
        ]
    )
    model = qr.quantize_apply(qr.annotate_model(marked, qr.LayerSpec("sine")))
    assert quantizer_of(model, "quant_first/kernel").rounder.name == "ramp"
    assert quantizer_of(model, "quant_second/kernel").rounder.name == "sine"


def test_an_annotation_does_not_stop_batch_norm_folding(float_net):
    marked = qr.quantize_apply(qr.annotate_model(float_net, qr.LayerSpec("sine")))
    whole = qr.quantize_model(float_net, base_scheme=EIGHT_BIT)
    assert list(tensors(marked))[1:] == list(tensors(whole))[1:]


def test_our_annotations_and_tfmots_work_together():
    model = keras.Sequential(
        [
            layers.Input((8,)),
            tfmot_keras.quantize_annotate_layer(layers.Dense(6, "relu", name="theirs")),
            qr.annotate_layer(layers.Dense(3, name="ours"), qr.LayerSpec("ramp")),
        ]
    )
    with tfmot_keras.quantize_scope():
        quantized = qr.quantize_apply(model, weights="sine")
    assert quantizer_of(quantized, "quant_theirs/kernel").rounder.name == "sine"
    assert quantizer_of(quantized, "quant_ours/kernel").rounder.name == "ramp"


# TFMOT code, one line changed


@pytest.fixture
def tfmot_annotated():
    """A user's TFMOT code up to `quantize_apply`."""
    return tfmot_keras.quantize_annotate_model(nets.conv_net())


def test_a_stock_annotated_model_runs_with_one_line_changed(tfmot_annotated, pictures):
    before = tfmot_keras.quantize_apply(tfmot_annotated)
    after = qr.quantize_apply(tfmot_annotated, weights="sine")  # the one line
    assert settings(after) == settings(before)
    assert all(tensor.is_ours for tensor in quantized_tensors(after))
    assert np.all(np.isfinite(nets.steps(nets.ready(after), *pictures)))


def test_a_rounding_scheme_runs_in_tfmots_own_quantize_apply(tfmot_annotated, pictures):
    before = tfmot_keras.quantize_apply(tfmot_annotated)
    after = tfmot_keras.quantize_apply(tfmot_annotated, qr.RoundingScheme(rounder="sine"))
    assert settings(after) == settings(before)
    assert {t.quantizer.rounder.name for t in quantized_tensors(after)} == {"sine"}
    qr.calibrate(after, pictures[0][:32])
    assert np.all(np.isfinite(nets.steps(nets.ready(after), *pictures)))


def test_quantize_apply_takes_a_rounding_scheme(tfmot_annotated):
    model = qr.quantize_apply(tfmot_annotated, qr.RoundingScheme(rounder="sine", weight_bits=4))
    assert quantizer_of(model, "quant_classes/kernel").bits == 4


def test_a_rounding_scheme_beside_other_settings_is_refused(tfmot_annotated):
    with pytest.raises(TypeError, match="weight_bits"):
        qr.quantize_apply(tfmot_annotated, qr.RoundingScheme(), weight_bits=4)


class StockDenseConfig(tfmot_keras.QuantizeConfig):
    """A hand-written config, as in TFMOT's guide."""

    def weight_quantizer(self):
        return quantizers.LastValueQuantizer(8, per_axis=False, symmetric=True, narrow_range=True)

    def get_weights_and_quantizers(self, layer):
        return [(layer.kernel, self.weight_quantizer())]

    def get_activations_and_quantizers(self, layer):
        quantizer = quantizers.MovingAverageQuantizer(8, False, False, False)
        return [(layer.activation, quantizer)]

    def set_quantize_weights(self, layer, quantize_weights):
        layer.kernel = quantize_weights[0]

    def set_quantize_activations(self, layer, quantize_activations):
        layer.activation = quantize_activations[0]

    def get_output_quantizers(self, layer):
        return []

    def get_config(self):
        return {}


class OneLineDenseConfig(StockDenseConfig):
    """The same with one line changed."""

    def weight_quantizer(self):
        return qr.RoundingQuantizer(8, "sine", symmetric=True, narrow_range=True)  # the one line


def with_config(config):
    keras.utils.set_random_seed(0)
    annotate = tfmot_keras.quantize_annotate_layer
    return keras.Sequential(
        [
            layers.Input((8,)),
            annotate(layers.Dense(6, "relu", name="first"), config),
            annotate(layers.Dense(3, name="second")),
        ]
    )


def test_a_hand_written_config_runs_with_one_line_changed():
    inputs, labels = nets.vectors(), np.arange(64) % 3
    losses = {}
    for config in (StockDenseConfig, OneLineDenseConfig):
        with tfmot_keras.quantize_scope({config.__name__: config}):
            model = nets.ready(tfmot_keras.quantize_apply(with_config(config())))
        losses[config] = nets.steps(model, inputs, labels)
    assert quantizer_of(model, "quant_first/kernel").rounder == qr.SineRound()
    np.testing.assert_allclose(losses[OneLineDenseConfig], losses[StockDenseConfig], rtol=0.05)


def test_a_hand_written_config_runs_in_our_quantize_apply():
    with tfmot_keras.quantize_scope({"StockDenseConfig": StockDenseConfig}):
        model = qr.quantize_apply(with_config(StockDenseConfig()), weights="ramp")
    assert quantizer_of(model, "quant_first/kernel").rounder == qr.RampRound()
    assert quantizer_of(model, "quant_second/kernel").rounder == qr.RampRound()


def test_quantizers_of_ones_own_in_a_config_are_kept():
    with tfmot_keras.quantize_scope({"OneLineDenseConfig": OneLineDenseConfig}):
        model = qr.quantize_apply(with_config(OneLineDenseConfig()), weights="ramp")
    assert quantizer_of(model, "quant_first/kernel").rounder == qr.SineRound()
    assert quantizer_of(model, "quant_second/kernel").rounder == qr.RampRound()


# Graphs


def test_a_model_with_two_inputs_two_outputs_and_a_shared_layer_trains():
    inputs = [nets.vectors(seed=1), nets.vectors(seed=2)]
    model = qr.quantize_model(nets.twin_net(), "sine")
    qr.calibrate(model, inputs)
    model.compile("adam", "mse")
    targets = [np.zeros((64, 3)), np.ones((64, 3))]
    losses = [model.train_on_batch(inputs, targets)[0] for _ in range(5)]
    assert losses[-1] < losses[0]
    assert [path for path in tensors(model) if "shared/kernel" in path] == ["quant_shared/kernel"]


def test_a_shared_layers_range_holds_all_its_uses():
    inputs = [nets.vectors(seed=1), 10.0 * nets.vectors(seed=2)]
    model = qr.quantize_model(nets.twin_net())
    qr.calibrate(model, inputs)
    shared = nets.twin_net().get_layer("shared")
    seen = np.concatenate([shared(x).numpy() for x in inputs])
    _, highest = _ends(model, "quant_shared/output")
    np.testing.assert_allclose(highest, seen.max(), rtol=1e-6)


def _ends(model, path: str) -> tuple[float, float]:
    weights = tensors(model)[path].weights
    return float(weights["min_var"].numpy()), float(weights["max_var"].numpy())


def test_knobs_lists_every_tensor_that_has_one(float_net):
    model = qr.quantize_model(float_net, weights="sigmoid", activations="ste")
    kernels = [f"quant_{name}/kernel" for name in ("conv", "conv2", "classes")]
    assert list(qr.knobs(model)) == kernels
    assert qr.knobs(model)["quant_conv/kernel"] == {"slope": 1000.0, "center": 0.5}


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


def kernels(model) -> dict:
    return {t.path: t.variable.numpy() for t in quantized_tensors(model) if t.variable is not None}


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


def test_annotated_layers_are_tfmots_annotations():
    assert isinstance(qr.annotate_layer(layers.Dense(2)), QuantizeAnnotate)


def test_a_quantized_model_runs_in_a_tf_function(float_net, pictures):
    model = qr.quantize_model(float_net, "sine")
    qr.calibrate(model, pictures[0][:32])
    batch = tf.constant(pictures[0][:4])
    eager = model(batch, training=False)
    graph = tf.function(model)(batch, training=False)
    np.testing.assert_allclose(graph, eager, rtol=1e-6, atol=1e-6)
