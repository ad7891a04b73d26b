"""Whole models: what is quantized and how, for whom it works, and that the given model stays."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

import qat_round as qr
from qat_round._compat import Default8BitQuantizeScheme, DefaultNBitQuantizeScheme
from qat_round.quantizers.quantized_tensors import quantized_tensors
from tests.models import nets
from tests.models.probe import quantizer_of, settings, tensors

layers = keras.layers
tfmot_keras = tfmot.quantization.keras


# What is quantized


def stock(model, scheme=None):
    annotated = tfmot_keras.quantize_annotate_model(model)
    return tfmot_keras.quantize_apply(annotated, scheme or Default8BitQuantizeScheme())


EIGHT_BIT = Default8BitQuantizeScheme()


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


def test_a_quantized_model_runs_in_a_tf_function(float_net, pictures):
    model = qr.quantize_model(float_net, "sine")
    qr.calibrate(model, pictures[0][:32])
    batch = tf.constant(pictures[0][:4])
    eager = model(batch, training=False)
    graph = tf.function(model)(batch, training=False)
    np.testing.assert_allclose(graph, eager, rtol=1e-6, atol=1e-6)
