"""Knobs that move while a model trains."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.rounding import registry
from qat_round.training import schedules

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = X.sum(axis=1, keepdims=True)


def net(rounder="sigmoid", **settings):
    model = keras.Sequential(
        [
            keras.layers.Dense(4, activation="relu", input_shape=(3,), name="first"),
            keras.layers.Dense(1, name="last"),
        ]
    )
    quantized = qr.quantize_model(model, rounder=rounder, **settings)
    quantized.compile(keras.optimizers.Adam(1e-3), "mse")
    return quantized


def fit(model, *callbacks, epochs=1, **options):
    return model.fit(X, Y, 10, epochs, verbose=0, callbacks=list(callbacks), **options)


def values(model, knob, layer=""):
    found = qr.knobs(model).items()
    return {knobs[knob] for path, knobs in found if knob in knobs and layer in path}


class Watch(keras.callbacks.Callback):
    """What a knob is in each training step."""

    def __init__(self, knob):
        super().__init__()
        self.knob = knob
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(values(self.model, self.knob))


def test_knobs_lists_what_can_be_annealed():
    found = qr.knobs(net("sigmoid"))
    assert {"quant_first/kernel", "quant_last/kernel"} <= set(found)
    assert all(knobs == {"slope": 1000.0, "center": 0.5} for knobs in found.values())
    assert qr.knobs(net("ste")) == {}


def test_the_knob_follows_the_schedule_step_by_step():
    model, watch = net(), Watch("slope")
    fit(model, qr.Anneal("slope", schedules.linear(5.0, 13.0, steps=8)), watch, epochs=3)
    steps = [*range(8), 8, 8, 8, 8]
    assert watch.seen == [{5.0 + step} for step in steps]


def test_training_resumes_at_the_right_value():
    anneal = lambda: qr.Anneal("slope", schedules.linear(0.5, 100.5, steps=100))  # noqa: E731
    model, watch = net(), Watch("slope")
    fit(model, anneal())
    assert values(model, "slope") == {4.5}, "as for the next step"
    fit(model, anneal(), watch)
    assert watch.seen == [{4.5}, {5.5}, {6.5}, {7.5}]


def test_the_step_is_the_optimizers_and_not_a_counter():
    model, watch = net(), Watch("slope")
    model.optimizer.iterations.assign(50)
    fit(model, qr.Anneal("slope", schedules.linear(0.0 + 1e-9, 100.0, steps=100)), watch)
    np.testing.assert_allclose([min(seen) for seen in watch.seen], [50, 51, 52, 53], rtol=1e-6)


def test_only_the_layers_asked_for_are_annealed():
    schedule = schedules.linear(7.0, 7.0, 1)
    for pattern in ("last", "quant_last", "*last"):
        model = net()
        fit(model, qr.Anneal("slope", schedule, layers=pattern))
        assert values(model, "slope", "quant_last") == {7.0}
        assert values(model, "slope", "quant_first") == {1000.0}


def test_two_knobs_can_move_at_once():
    model = net("ramp")
    fit(
        model,
        qr.Anneal("gain", schedules.exponential(1.0, 100.0, 4)),
        qr.Anneal("threshold", schedules.linear(0.0, 0.25, 4)),
    )
    assert values(model, "gain") == {100.0}
    assert values(model, "threshold") == {0.25}


def test_any_function_of_the_step_is_a_schedule():
    model, watch = net(), Watch("slope")
    fit(model, qr.Anneal("slope", lambda step: 10 * (step + 1)), watch)
    assert watch.seen == [{10.0}, {20.0}, {30.0}, {40.0}]


def test_the_knob_changes_what_is_computed():
    model = net(qr.SigmoidRound(slope=1e-3), weight_bits=3)
    qr.calibrate(model, X)
    before = model(X, training=True).numpy()
    fit(model, qr.Anneal("slope", lambda step: 1e5), epochs=1)
    hard = model(X, training=False).numpy()
    after = model(X, training=True).numpy()
    assert np.abs(after - hard).mean() < 0.2 * np.abs(before - after).mean()


def test_moving_a_knob_retraces_nothing(monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    traces = []

    @qr.register("counted")
    class Counted(qr.SigmoidRound):
        def soft(self, x):
            traces.append(1)  # runs when a graph is made, not when it is executed
            return super().soft(x)

    model = net("counted")
    anneal = qr.Anneal("slope", schedules.exponential(5.0, 1000.0, 12))
    fit(model, anneal)
    made = len(traces)
    assert made > 0
    function = model.train_function
    fit(model, anneal, epochs=2)
    assert values(model, "slope") == {1000.0}
    assert len(traces) == made
    assert model.train_function is function


def test_no_batch_is_left_behind_with_many_steps_per_execution():
    model = net()
    model.compile(keras.optimizers.Adam(1e-3), "mse", steps_per_execution=2)
    fit(model, qr.Anneal("slope", schedules.linear(5.0, 9.0, 4)))
    assert values(model, "slope") == {9.0}


def test_knobs_are_saved_and_loaded(tmp_path):
    model = net()
    fit(model, qr.Anneal("slope", schedules.linear(5.0, 9.0, 4)))
    model.save(tmp_path / "model.keras")
    loaded = qr.load_model(tmp_path / "model.keras")
    assert qr.knobs(loaded) == qr.knobs(model)
    watch = Watch("slope")
    fit(loaded, qr.Anneal("slope", schedules.linear(0.5, 100.5, 100)), watch)
    assert watch.seen[0] == {4.5}, "the optimizer's step is saved too"


# Errors.


def test_a_knob_that_no_layer_has_is_an_error_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"has the knob 'slop'.*'slope'.*Did you mean 'slope'\?"):
        fit(net(), qr.Anneal("slop", lambda step: 1.0))
    with pytest.raises(ValueError, match=r"has the knob 'slope'; it has none"):
        fit(net("ste"), qr.Anneal("slope", lambda step: 1.0))


def test_a_pattern_that_matches_no_layer_is_an_error_with_the_layers_names():
    with pytest.raises(ValueError, match=r"layers='conv\*' matches no layer .*'quant_first'"):
        fit(net(), qr.Anneal("slope", lambda step: 1.0, layers="conv*"))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_value_that_the_rounder_refuses_is_refused_before_it_is_set(value):
    model = net()
    with pytest.raises(ValueError, match="slope=.* has to be positive and finite"):
        fit(model, qr.Anneal("slope", lambda step: value))
    assert values(model, "slope") == {1000.0}


def test_a_schedule_that_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match=r"schedule=5.0 cannot be called with a step; give e.g. qr"):
        qr.Anneal("slope", 5.0)


def test_a_float_model_has_nothing_to_anneal():
    model = keras.Sequential([keras.layers.Dense(1, input_shape=(3,))])
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="no quantizer of the model has the knob 'slope'"):
        fit(model, qr.Anneal("slope", lambda step: 1.0))


def test_eager_training_is_annealed_too():
    model, watch = net(), Watch("slope")
    model.compile(keras.optimizers.Adam(1e-3), "mse", run_eagerly=True)
    fit(model, qr.Anneal("slope", schedules.linear(5.0, 9.0, 4)), watch)
    assert watch.seen == [{5.0}, {6.0}, {7.0}, {8.0}]
    assert tf.executing_eagerly()
