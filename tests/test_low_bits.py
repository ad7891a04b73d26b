"""Facts about calibration by search, recipes, batch-norm statistics, lifting and what trains."""

import importlib

import nets
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.quantizers.quantized_tensors import quantized_tensors
from qat_round.training.range_search import Histogram, Levels, best_ends, divergence, squared_error

NAMES = ["w8a8", "w8a16", "w4a8", "w4a4", "w3a3", "w2a4", "w2a2"]


@pytest.fixture(scope="module")
def low(float_net, pictures):
    """The float network in 2 and 4 bits, calibrated; not to be changed."""
    return qr.calibrate(qr.quantize_model(float_net, recipe="w2a4"), pictures[0][:128], "mse")


# Calibration.


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("narrow", [True, False])
def test_the_least_squared_error_is_that_of_a_brute_search(bits, narrow):
    x = np.random.default_rng(0).normal(size=3000)
    low, high = (-(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1)
    steps = np.linspace(0.01, 4.0, 4000)
    errors = [np.sum((np.clip(np.floor(x / s + 0.5), low, high) * s - x) ** 2) for s in steps]
    ends = np.array([low, high]) * max(np.max(x) / high, -np.min(x) / -low)
    found = best_ends(x, 1.0, ends, Levels(bits, narrow, True), squared_error)
    step = found[1] / high
    error = np.sum((np.clip(np.floor(x / step + 0.5), low, high) * step - x) ** 2)
    assert error <= 1.005 * min(errors)


def test_a_histogram_grows_and_forgets_nothing():
    histogram = Histogram()
    for scale in (0.1, 3.0, 50.0):
        histogram.add(np.linspace(-scale, scale, 101))
    assert histogram.counts.sum() == 300  # zeros are not counted
    assert (histogram.lo, histogram.hi) == (-50.0, 50.0)
    values, counts = histogram.values()
    assert np.sum(counts[np.abs(values) < 0.2]) == pytest.approx(104, abs=4)


def test_entropy_leaves_out_a_lone_outlier():
    values = np.concatenate([np.abs(np.random.default_rng(0).normal(size=20_000)), [40.0]])
    histogram = Histogram()
    histogram.add(values)
    ends = best_ends(
        *histogram.values(), np.array([0.0, 40.0]), Levels(8, False, False), divergence
    )
    assert 2.0 < ends[1] < 10.0


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
@pytest.mark.parametrize("kind", ["array", "dataset", "generator"])
def test_every_method_takes_every_kind_of_data(method, kind):
    x = nets.vectors(64)
    data = {
        "array": lambda: x,
        "dataset": lambda: tf.data.Dataset.from_tensor_slices(x).batch(32),
        "generator": lambda: (x[i : i + 32] for i in (0, 32)),
    }[kind]()
    q = qr.calibrate(qr.quantize_model(nets.dense_net(), recipe="w4a4"), data, method)
    same = qr.calibrate(qr.quantize_model(nets.dense_net(), recipe="w4a4"), x, method)
    for ours, theirs in zip(quantized_tensors(q), quantized_tensors(same), strict=True):
        np.testing.assert_array_equal(ours.weights["max_var"], theirs.weights["max_var"])


def test_a_percentile_cuts_what_is_beyond_it():
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.layers[0].set_weights([np.ones((1, 1)), np.zeros(1)])
    x = np.concatenate([np.linspace(0.0, 1.0, 990), np.full(10, 100.0)])[:, None].astype("float32")
    q = qr.calibrate(qr.quantize_model(model), x, "percentile", percentile=98.0)
    highs = [float(t.weights["max_var"]) for t in quantized_tensors(q) if t.variable is None]
    assert max(highs) == pytest.approx(1.0, abs=0.05)


def test_a_progress_bar_is_shown_on_request(capsys):
    q = qr.quantize_model(nets.dense_net())
    qr.calibrate(q, nets.vectors(), verbose=0)
    assert capsys.readouterr().out == ""
    qr.calibrate(q, nets.vectors(), verbose=1)
    assert "2/2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"method": "best"}, "unknown method 'best'"),
        ({"percentile": 10.0}, "has to be above 50"),
        ({"verbose": 7}, "verbose=7 is unknown"),
    ],
)
def test_calibration_refuses_what_it_does_not_know(settings, says):
    with pytest.raises(ValueError, match=says):
        qr.calibrate(qr.quantize_model(nets.dense_net()), nets.vectors(), **settings)


# Recipes.


def test_recipes_are_plain_data_and_a_copy():
    found = qr.recipes()
    assert list(found) == NAMES
    found["w4a4"]["weights"]["bits"] = 7
    assert qr.recipes()["w4a4"]["weights"]["bits"] == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_gives_its_bits_and_keeps_the_edges_at_eight(float_net, name):
    q = qr.quantize_model(float_net, recipe=name)
    tensors = quantized_tensors(q)
    weights, activations = int(name[1]), int(name[3:])
    assert {t.bits for t in tensors if t.variable is not None} == {weights}
    edges = 16 if name == "w8a16" else 8
    inner = [t.bits for t in tensors if t.variable is None][1:-1]
    assert set(inner) == {activations}
    assert (tensors[0].bits, tensors[-1].bits) == (edges, edges)


def test_two_bit_weights_have_four_levels(low):
    tensor = next(t for t in quantized_tensors(low) if t.variable is not None)
    step, zero = tensor.scale_and_zero_point()
    assert np.all(zero == 0)
    levels = np.round(tensor.quantizer.infer(tensor.variable, tensor.weights) / step)
    assert set(np.unique(levels)) == {-2.0, -1.0, 0.0, 1.0}


def test_overrides_go_over_a_recipe(float_net):
    eight = qr.LayerSpec(qr.TensorSpec(bits=8))
    q = qr.quantize_model(float_net, recipe="w4a4", overrides={"conv": eight})
    bits = {t.path: t.bits for t in quantized_tensors(q)}
    assert (bits["quant_conv/kernel"], bits["quant_conv2/kernel"]) == (8, 4)


def test_unknown_recipes_and_doubled_settings_are_refused(float_net):
    with pytest.raises(ValueError, match="Unknown recipe 'w4a5'.*w4a"):
        qr.quantize_model(float_net, recipe="w4a5")
    with pytest.raises(ValueError, match="A recipe has no"):
        qr.quantize_model(float_net, recipe={**qr.recipes()["w4a4"], "colour": 1})
    with pytest.raises(TypeError, match="a recipe says it all"):
        qr.quantize_model(float_net, weight_bits=4, recipe="w4a4")


# Batch norm.


def test_statistics_are_those_of_what_the_norms_see(float_net, pictures):
    q = qr.calibrate(qr.quantize_model(float_net, recipe="w2a4"), pictures[0][:128], "mse")
    x = pictures[0]
    qr.reestimate_batch_norm(q, x, batch_size=100)
    norms = [
        w
        for w in q.layers
        if isinstance(getattr(w, "layer", None), keras.layers.BatchNormalization)
    ]
    assert len(norms) == 2
    for wrapper in norms:
        seen = keras.Model(q.inputs, wrapper.input)(x, training=False).numpy().astype("float64")
        np.testing.assert_allclose(
            wrapper.layer.moving_mean, seen.mean((0, 1, 2)), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(wrapper.layer.moving_variance, seen.var((0, 1, 2)), rtol=1e-4)


def test_the_batch_size_does_not_matter(float_net, pictures):
    found = []
    for size in (50, 384):
        q = qr.calibrate(qr.quantize_model(float_net, recipe="w2a4"), pictures[0][:128], "mse")
        found.append(qr.reestimate_batch_norm(q, pictures[0], batch_size=size).get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


# Files.


@pytest.mark.parametrize("name", ["w4a8", "w3a3", "w2a2"])
def test_files_of_few_bits_hold_int4_and_answer_as_the_lifted_model(float_net, pictures, name):
    x = pictures[0]
    q = qr.calibrate(qr.quantize_model(float_net, recipe=name), x[:128], "mse")
    if name == "w4a8":
        tflite = qr.export_tflite(q, io="int8")
    else:
        with pytest.raises(ValueError, match="lift_activations=True"):
            qr.export_tflite(q, io="int8")
        with pytest.warns(UserWarning, match="written with 8 bits on the same ranges"):
            tflite = qr.export_tflite(q, io="int8", lift_activations=True)
    with qr.lifted(q):
        report = qr.verify_tflite(q, tflite, x[:100])
    assert report.ok
    assert report.max_steps <= 1
    assert report.tensor_types["INT4"] == 3
    assert {t.bits for t in quantized_tensors(q) if t.variable is None} == {8, int(name[3:])}


# Distillation.


def test_a_distiller_trains_the_student_alone(low, float_net, pictures):
    student = keras.models.clone_model(float_net)
    before = float_net.get_weights()
    distiller = qr.Distiller(student, float_net, share=1.0, temperature=2.0)
    distiller.compile(keras.optimizers.Adam(1e-2))
    history = distiller.fit(pictures[0], epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert all(map(np.array_equal, before, float_net.get_weights()))
    np.testing.assert_array_equal(distiller(pictures[0][:4]), student(pictures[0][:4]))


def test_its_loss_is_the_mean_of_both_in_their_shares(float_net, pictures):
    x, y = pictures[0][:32], pictures[1][:32]
    student = keras.models.clone_model(float_net)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller = qr.Distiller(student, float_net, share=0.25, temperature=3.0)
    distiller.compile("sgd", loss)
    z, wanted = student(x).numpy(), tf.nn.softmax(float_net(x) / 3.0).numpy()
    soft = 9.0 * np.mean(np.sum(-wanted * tf.nn.log_softmax(z / 3.0).numpy(), 1))
    found = distiller.compute_loss(x, tf.constant(y), student(x))
    assert float(found) == pytest.approx(0.75 * float(loss(y, z)) + 0.25 * soft, rel=1e-5)


def test_a_teacher_of_another_shape_is_refused(float_net):
    with pytest.raises(
        ValueError, match=r"student's outputs have shapes .* they have to be the same"
    ):
        qr.Distiller(float_net, nets.dense_net())
    with pytest.raises(ValueError, match="share=2"):
        qr.Distiller(float_net, float_net, share=2)
    with pytest.raises(ValueError, match="temperature=0"):
        qr.Distiller(float_net, float_net, temperature=0)
    with pytest.raises(TypeError, match="no tf_keras model"):
        qr.Distiller(float_net, "teacher")


# Oscillation, fewer bits.


def dense_in_few_bits():
    q = qr.quantize_model(nets.dense_net(), recipe="w2a4")
    q = qr.calibrate(q, nets.vectors(), "mse")
    q.compile(keras.optimizers.Adam(0.05), "mse")
    return q


def test_a_weight_that_turns_is_counted_and_one_that_moves_on_is_not():
    monitor = qr.OscillationMonitor(momentum=0.5)
    monitor._levels, monitor._direction = {"a": np.array([0.0, 0.0])}, {"a": np.zeros(2)}
    monitor.frequency = {"a": np.zeros(2)}
    for levels in ([1.0, 1.0], [0.0, 2.0], [1.0, 3.0]):
        monitor._count("a", np.array(levels))
    assert monitor.frequency["a"].tolist() == [0.75, 0.0]
    assert monitor.share(0.5) == 0.5


def test_frozen_weights_stay_on_their_level():
    x, y = nets.vectors(), np.random.default_rng(0).normal(size=(64, 3))
    q = dense_in_few_bits()
    freezing = qr.FreezeOscillating(momentum=0.5, threshold=0.01)
    history = q.fit(x, y, batch_size=8, epochs=4, verbose=0, callbacks=[freezing]).history
    assert 0.0 < freezing.frozen <= 1.0
    assert len(history["oscillating"]) == 4
    for tensor in quantized_tensors(q):
        held = freezing._held.get(tensor.path)
        if held is not None:
            step, _ = tensor.scale_and_zero_point()
            level = (tensor.variable / step).numpy()
            assert np.allclose(level[np.isfinite(held)], held[np.isfinite(held)], atol=1e-4)


def test_dampening_draws_weights_to_their_levels():
    x, y = nets.vectors(), np.zeros((64, 3))

    def distance(strength):
        q = dense_in_few_bits()
        q.optimizer.learning_rate = 1e-3  # the recipe's weights take eight such steps at once
        damp = qr.Dampening(q, strength)
        q.fit(x, y, epochs=20, verbose=0, callbacks=[damp])
        found = []
        for t in quantized_tensors(q):
            if t.variable is not None:
                on_grid = t.quantizer.infer(t.variable, t.weights)
                found.append(np.mean(np.abs(t.variable - on_grid)))
        return np.mean(found)

    assert distance(1.0) < 0.7 * distance(0.0)
    with pytest.raises(ValueError, match="strength=-1"):
        qr.Dampening(dense_in_few_bits(), -1.0)


def test_bits_go_down_while_training():
    x, y = nets.vectors(), np.zeros((64, 3))
    q = dense_in_few_bits()
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: seen.append(sorted({t.bits for t in quantized_tensors(q)}))
    )
    plan = qr.LowerBits({0: (4, 6), 1: (2, 4)}, x)
    q.fit(x, y, epochs=3, verbose=0, callbacks=[plan, look])
    assert seen == [[4, 6, 8], [2, 4, 8], [2, 4, 8]]
    with pytest.raises(ValueError, match="the plan is empty"):
        qr.LowerBits({}, x)


# Without training, and comparisons.


def test_learned_rounding_beats_nearest_rounding(float_net, pictures):
    x = pictures[0]
    errors = []
    for rounded in (False, True):
        q = qr.calibrate(qr.quantize_model(float_net, weight_bits=3), x[:128], "mse")
        if rounded:
            qr.adaround(q, x[:128], steps=400, learning_rate=0.05)
        wrapper = next(w for w in q.layers if w.name == "quant_conv2")
        ours = keras.Model(q.inputs, wrapper.output)(x, training=False)
        theirs = keras.Model(float_net.inputs, float_net.get_layer("conv2").output)(x)
        errors.append(float(tf.reduce_mean(tf.square(ours - theirs))))
    assert errors[1] < 0.9 * errors[0]


def test_learned_rounding_aims_at_the_float_model_behind_rounded_layers(
    float_net, pictures, monkeypatch
):
    x, targets = pictures[0][:32], []
    room = importlib.import_module("qat_round.training.adaround")  # qr.adaround is the function
    monkeypatch.setattr(room, "_fit", lambda layer, seen, wanted, *_: targets.append(wanted))
    q = qr.calibrate(qr.quantize_model(float_net, weight_bits=2), x, "mse")
    before = [t.variable.numpy() for t in quantized_tensors(q) if t.variable is not None]
    qr.adaround(q, x)
    after = [t.variable.numpy() for t in quantized_tensors(q) if t.variable is not None]
    assert all(np.abs(a - b).max() > 0.0 for a, b in zip(before, after, strict=True))
    np.testing.assert_allclose(targets[-1], float_net(x), atol=1e-4)


def test_learned_rounding_needs_ranges(float_net, pictures):
    with pytest.raises(ValueError, match="steps=0"):
        qr.adaround(qr.quantize_model(float_net), pictures[0][:8], steps=0)
    with pytest.raises(ValueError, match="not quantized"):
        qr.adaround(float_net, pictures[0][:8])


def test_bits_are_found_under_a_budget(float_net, pictures):
    x = pictures[0][:32]
    whole = sum(int(np.prod(w.shape)) for w in float_net.trainable_weights if "kernel" in w.name)
    found = qr.search_bits(float_net, x, budget_bytes=int(0.6 * whole))
    assert found.bytes <= 0.6 * whole
    assert set(found.bits.values()) == {4, 8}
    assert all(by[4] > by[8] for by in found.sensitivity.values())
    q = qr.quantize_model(float_net, overrides=found.overrides)
    bits = {t.layer.name: t.bits for t in quantized_tensors(q) if t.variable is not None}
    assert bits == {f"quant_{name}": b for name, b in found.bits.items()}
    with pytest.raises(ValueError, match=f"the smallest is {-(-whole // 2):,}"):
        qr.search_bits(float_net, x, budget_bytes=10)


def test_intervals_are_students():
    interval = qr.paired_difference([1.0, 2.0, 3.0, 4.0])
    assert interval.mean == 2.5
    assert interval.high - interval.mean == pytest.approx(3.182 * np.std([1, 2, 3, 4], ddof=1) / 2)
    assert interval.verdict == "better"
    assert qr.paired_difference([-1.0, 1.0]).verdict == "no difference beyond the seeds"
    with pytest.raises(ValueError, match="two or more"):
        qr.paired_difference([1.0])


@pytest.mark.slow
def test_a_bake_off_says_what_differs(float_net, pictures):
    data = (*pictures, pictures[0][:100], pictures[1][:100])
    found = qr.compare_rounders(float_net, data, ["ewgs"], bits=(4, 4), seeds=2, epochs=1)
    assert list(found.accuracies) == ["ste", "ewgs"]
    assert all(len(a) == 2 for a in found.accuracies.values())
    assert found.difference("ewgs").seeds == 2
    assert "ewgs" in found.table()
