"""Keras 3 models become tf_keras models, from the object and from files; or are refused."""

from __future__ import annotations

import json
import warnings
import zipfile

import numpy as np
import pytest

from qat_round._compat import keras as tf_keras
from qat_round._compat import tf
from qat_round.frontend.check_equal import parity
from qat_round.frontend.to_functional import to_functional
from qat_round.frontend.write_back import write_back
from tests.models.keras3_nets import one_layer, randomized

keras = pytest.importorskip("keras", minversion="3.0")
L, ops = keras.layers, keras.ops
IMAGE, SERIES, VECTOR = (8, 8, 4), (8, 4), (4,)


def _nested():
    """Shared nested models, several ends, multi-head attention, operations between."""
    a, b = keras.Input(IMAGE, name="a"), keras.Input(IMAGE, name="b")
    tower = keras.Sequential(
        [keras.Input(IMAGE), L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU()], name="tower"
    )
    deep = keras.Sequential([tower, L.Conv2D(4, 3), L.Reshape((16, 4))], name="deep")
    x = ops.relu6(deep(a) * 2.0) + deep(b)
    x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True))
    x = L.Bidirectional(L.LSTM(3, return_sequences=True))(x)
    outputs = {"last": L.Dense(2, name="z")(x), "first": L.Dense(3, name="y")(x)}
    return randomized(keras.Model({"a": a, "b": b}, outputs))


def _same_on(found, model):
    rng = np.random.default_rng(1)
    data = {key: rng.normal(size=(2, *IMAGE)).astype("float32") for key in "ab"}
    wanted = model(data, training=False)
    got = found(data)
    for key in wanted:
        scale = np.ptp(np.asarray(wanted[key]))
        np.testing.assert_allclose(got[key], np.asarray(wanted[key]), atol=1e-5 * scale)


def test_nested_model_from_the_object():
    model = _nested()
    found = to_functional(model)
    _same_on(found, model)
    assert found.input_names == ["a", "b"]
    assert not any(isinstance(layer, tf_keras.Model) for layer in found.layers)


@pytest.mark.parametrize("form", ["keras", "h5"])
def test_nested_model_from_a_file(tmp_path, form):
    model, path = _nested(), tmp_path / f"model.{form}"
    model.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 3 cannot load operations from its own `.h5`
        found = to_functional(str(path))
    _same_on(found, model)


def test_mixed_precision_policy():
    found = to_functional(one_layer(L.Dense(3, dtype="mixed_float16"), VECTOR), check=False)
    assert found.layers[1].compute_dtype == "float16"


def test_functional_inside_time_distributed():
    x = keras.Input(VECTOR)
    inner = keras.Model(x, L.BatchNormalization()(L.Dense(3)(x)))
    to_functional(one_layer(L.TimeDistributed(inner), SERIES))


def test_adapted_normalization(tmp_path):
    norm = L.Normalization()
    norm.adapt(np.random.default_rng(0).normal(2.0, 3.0, (64, 4)).astype("float32"))
    model = keras.Sequential([keras.Input(VECTOR), norm, L.Dense(2)])
    model.save(tmp_path / "m.keras")
    classes = [type(x).__name__ for x in to_functional(tmp_path / "m.keras").layers]
    assert classes == ["InputLayer", "Affine", "Dense"]


def test_token_inputs():
    x = keras.Input([6], dtype="int32")
    y = L.LSTM(4)(L.Embedding(5, 3, mask_zero=True)(x))
    to_functional(randomized(keras.Model(x, y)))


def test_recorded_training_flag_does_not_switch_dropout_off():
    x = keras.Input(VECTOR)
    found = to_functional(keras.Model(x, L.Dropout(0.9)(x)))
    data = tf.ones([64, 4])
    assert not np.array_equal(found(data, training=True), found(data, training=False))


def test_custom_layer_is_refused_until_registered():
    @keras.saving.register_keras_serializable("pets")
    class Purr(L.Layer):
        def call(self, x):
            return x * 2.0

    model = one_layer(Purr(), VECTOR)
    with pytest.raises(ValueError, match=r"class 'pets>Purr'.*register_keras_serializable"):
        to_functional(model)

    @tf_keras.utils.register_keras_serializable("pets", "Purr")
    class TfPurr(tf_keras.layers.Layer):
        def call(self, x):
            return x * 2.0

    assert type(to_functional(model).layers[1]) is TfPurr


def test_lambda_is_refused_unless_trusted(tmp_path):
    model = keras.Sequential([keras.Input(VECTOR), L.Lambda(lambda x: x * 2.0), L.Dense(2)])
    model.save(tmp_path / "m.keras")
    for given in (model, tmp_path / "m.keras"):
        with pytest.raises(ValueError, match=r"is a Lambda.*safe_mode=False"):
            to_functional(given)
        assert len(to_functional(given, safe_mode=False).layers) == 3


def test_argument_that_tf_keras_lacks_is_refused():
    with pytest.raises(ValueError, match=r"has antialias=True, which tf_keras's Resizing cannot"):
        to_functional(one_layer(L.Resizing(4, 4, antialias=True), IMAGE))


def test_unknown_operation_is_refused():
    x = keras.Input(VECTOR)
    with pytest.raises(ValueError, match=r"'cumsum.*' .*has no translation. Known are: Absolute"):
        to_functional(keras.Model(x, ops.cumsum(x, axis=1)))


def test_unknown_activation_is_refused():
    @keras.saving.register_keras_serializable("pets")
    def hiss(x):
        return x * 3.0

    model = one_layer(L.Dense(3, activation=hiss), VECTOR)
    with pytest.raises(ValueError, match=r"has activation 'pets>hiss'"):
        to_functional(model)
    tf_keras.utils.register_keras_serializable("pets", "hiss")(lambda x: x * 3.0)
    to_functional(model)


def test_quantized_policy_is_refused():
    model = one_layer(L.Dense(3), VECTOR)
    model.quantize("int8")
    with pytest.raises(ValueError, match=r"dtype policy 'QuantizedDTypePolicy'"):
        to_functional(model)


class Net(keras.Model):
    """Two layers, called as a layer calls others."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.norm, self.last = L.Dense(3), L.BatchNormalization(), L.Dense(2)

    def call(self, x, training=None):
        y = self.norm(ops.relu(self.first(x)), training=training)
        return self.last(y) + 1.0


def test_subclassed_keras3_model_is_traced_and_left_as_it_was():
    model = Net()
    model(np.ones((1, 4), "float32"))
    randomized(model)
    before = [len(layer._inbound_nodes) for layer in model.layers]
    found = to_functional(model)
    assert {x.name for x in model.layers} <= {x.name for x in found.layers}
    assert [len(layer._inbound_nodes) for layer in model.layers] == before
    found.layers[1].kernel.assign(found.layers[1].kernel * 2.0)
    write_back(found, model)
    np.testing.assert_array_equal(model.first.kernel, found.layers[1].kernel)


def test_subclassed_keras3_model_of_a_dictionary_is_traced():
    class Named(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(2)

        def call(self, x):
            return {"sum": self.dense(x["a"]) + x["b"]}

    model = Named()
    model({"a": np.ones((1, 4), "float32"), "b": np.ones((1, 2), "float32")})
    assert list(to_functional(model).output) == ["sum"]


class Branching(keras.Model):
    def call(self, x):
        return x if float(ops.sum(x)) > 0 else -x


class OwnWeight(keras.Model):
    def build(self, shape):
        self.gain = self.add_weight(shape=shape[1:], initializer="ones")

    def call(self, x):
        return x * self.gain


class Holding(keras.Model):
    """A subclassed model inside of one."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def call(self, x):
        return self.net(x)


@pytest.mark.parametrize("cls", [Branching, OwnWeight])
def test_subclassed_keras3_model_that_is_no_graph_is_refused(cls):
    model = cls()
    model(np.ones((1, 4), "float32"))
    with pytest.raises(ValueError, match=r"cannot be followed symbolically.*keras.Input"):
        to_functional(model)


def test_subclassed_keras3_model_inside_of_another_is_refused():
    model = Holding()
    model(np.ones((1, 4), "float32"))
    with pytest.raises(ValueError, match=r"'Net', which tf_keras does not have"):
        to_functional(model)


def test_unbuilt_keras3_model_is_refused():
    with pytest.raises(ValueError, match=r"not built.*model.build"):
        to_functional(keras.Sequential([L.Dense(2)]))


def test_damaged_file_is_refused(tmp_path):
    import h5py

    model = one_layer(L.Dense(3), VECTOR)
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        archive.extractall(tmp_path / "m")
    with h5py.File(tmp_path / "m" / "model.weights.h5", "r+") as file:
        del file["layers/dense/vars/1"]
    with zipfile.ZipFile(tmp_path / "n.keras", "w") as archive:
        for name in ("config.json", "metadata.json", "model.weights.h5"):
            archive.write(tmp_path / "m" / name, name)
    with pytest.raises(ValueError, match=r"have shapes \[\(4, 3\)\]; the layer needs"):
        to_functional(tmp_path / "n.keras")


def test_code_in_a_config_is_not_looked_up(tmp_path):
    model = one_layer(L.Dense(3), VECTOR)
    config = json.loads(model.to_json())
    config["config"]["layers"][1].update(module="os", class_name="system")
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        rest = {name: archive.read(name) for name in archive.namelist() if name != "config.json"}
    with zipfile.ZipFile(tmp_path / "n.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        for name, data in rest.items():
            archive.writestr(name, data)
    with pytest.raises(ValueError, match="class 'system', which tf_keras does not have"):
        to_functional(tmp_path / "n.keras")


def test_parity_is_not_what_the_fused_batch_norm_rounds():
    keras.utils.set_random_seed(0)
    x = y = keras.Input(IMAGE)
    for _ in range(12):
        y = L.BatchNormalization(momentum=0.0)(L.Conv2D(8, 3, padding="same")(y))
    model = keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(y)))
    far = np.random.default_rng(0).normal(3e4, 1e4, (8, *IMAGE))  # what it is compared on is near 0
    model(far.astype(np.float32), training=True)
    found = to_functional(model, check=False)
    given = tf.constant(np.random.default_rng(0).standard_normal((2, *IMAGE)), tf.float32)
    wanted = np.asarray(model(given, training=False))
    assert np.abs(found(given) - wanted).max() > 0.0
    assert parity(found, model) == 0.0
    assert all(n.fused for n in found.layers if isinstance(n, tf_keras.layers.BatchNormalization))
