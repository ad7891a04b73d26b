"""What cannot be taken in is named, with what to do; files of tf_keras are read."""

from __future__ import annotations

import numpy as np
import pytest

from qat_round._compat import keras, tf
from qat_round.frontend.to_functional import to_functional

L = keras.layers


def _model():
    return keras.Sequential([keras.Input([4]), L.Dense(3, activation="elu"), L.Dense(2)])


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "saved"])
def test_files_of_tf_keras_are_read(tmp_path, name):
    model = _model()
    model.save(tmp_path / name)
    found = to_functional(str(tmp_path / name))
    data = tf.random.normal([8, 4], seed=0)
    np.testing.assert_allclose(found(data), model(data), atol=1e-6)


def test_subclassed_model_is_read_from_a_saved_model(tmp_path):
    class Net(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = L.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Net()
    model(tf.ones([1, 4]))
    model.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="cannot be followed symbolically|is subclassed"):
        to_functional(tmp_path / "saved")


def test_two_unconnected_parts_are_refused():
    a, b = keras.Input([4], name="a"), keras.Input([4], name="b")
    model = keras.Model([a, b], [L.Dense(1, name="x")(a), L.Dense(1, name="y")(b)], name="twins")
    with pytest.raises(
        ValueError, match=r"'twins' has 2 parts.*\['a'\] -> \['x'\].*tf_keras.Model"
    ):
        to_functional(model)


def test_parts_that_share_a_layer_are_connected():
    dense = L.Dense(1)
    a, b = keras.Input([4]), keras.Input([4])
    assert len(to_functional(keras.Model([a, b], [dense(a), dense(b)])).outputs) == 2


def test_weights_that_two_layers_train_are_refused():
    x = keras.Input([4], name="x")
    first, second = L.Dense(4, name="first"), L.Dense(4, name="second")
    model = keras.Model(x, second(first(x)), name="tied")
    second._trainable_weights[0] = second.kernel = first.kernel
    with pytest.raises(ValueError, match="'first' and 'second' of model 'tied' share the weight"):
        to_functional(model)
    first.trainable = second.trainable = False
    assert len(to_functional(model).layers) == 3


def test_unused_input_is_taken():
    a, b = keras.Input([4]), keras.Input([4])
    assert len(to_functional(keras.Model([a, b], L.Dense(1)(a))).inputs) == 2


def test_unbuilt_model_is_refused():
    with pytest.raises(ValueError, match=r"is not built.*model.build\(input_shape\)"):
        to_functional(keras.Sequential([L.Dense(2)]))


def test_model_that_branches_on_values_is_refused():
    class Net(keras.Model):
        def call(self, x):
            return x if float(tf.reduce_sum(x)) > 0 else -x

    model = Net()
    model(tf.ones([1, 4]))
    with pytest.raises(ValueError, match=r"cannot be followed symbolically.*tf_keras.Input"):
        to_functional(model)


def test_model_with_two_arguments_is_refused():
    class Net(keras.Model):
        def call(self, x, other):
            return x + other

    model = Net()
    model(tf.ones([1, 4]), tf.ones([1, 4]))
    with pytest.raises(ValueError, match="takes several arguments in `call`"):
        to_functional(model)


def test_layer_without_config_is_refused():
    class Scale(L.Layer):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def call(self, x):
            return x * len(self.factor)

    model = keras.Sequential([keras.Input([4]), Scale({1, 2})])
    with pytest.raises(ValueError, match=r"\(Scale\) has no get_config\(\)"):
        to_functional(model)


def test_layer_with_an_incomplete_config_is_refused():
    class Scale(L.Layer):
        def __init__(self, factor, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor

        def call(self, x):
            return x * self.factor

        def get_config(self):
            return super().get_config()

    model = keras.Sequential([keras.Input([4]), Scale(2.0)])
    with pytest.raises(ValueError, match="cannot be made again from its config"):
        to_functional(model)


def test_layer_whose_output_is_random_is_refused():
    class Noise(L.Layer):
        def call(self, x):
            return x + tf.random.normal(tf.shape(x))

    model = keras.Sequential([keras.Input([4]), Noise()])
    with pytest.raises(
        ValueError, match=r"not equal to the original: outputs differ by.*check=False"
    ):
        to_functional(model)
    assert len(to_functional(model, check=False).layers) == 2


def test_text_input_is_refused():
    x = keras.Input([], dtype="string")
    model = keras.Model(x, L.StringLookup(vocabulary=["a", "b"])(x))
    with pytest.raises(ValueError, match=r"has dtype string|cannot be made again"):
        to_functional(model)


@pytest.mark.parametrize("given", [None, 3, L.Dense(2), np.zeros(3)])
def test_what_is_no_model_is_refused(given):
    with pytest.raises(TypeError, match="give a tf_keras or Keras 3 model, or the path"):
        to_functional(given)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="There is no file or folder"):
        to_functional(tmp_path / "nothing.keras")


def test_file_that_is_not_keras_is_refused(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"TFL3 not a model")
    with pytest.raises(ValueError, match="is not a Keras model. Give the path of a `.keras`"):
        to_functional(tmp_path / "m.keras")


def test_archive_that_is_not_keras_is_refused(tmp_path):
    np.savez(tmp_path / "m.npz", a=np.ones(2))
    with pytest.raises(ValueError, match="is an archive, but not of a Keras model"):
        to_functional(tmp_path / "m.npz")


def test_weights_alone_are_refused(tmp_path):
    _model().save_weights(tmp_path / "m.h5")
    with pytest.raises(ValueError, match="holds weights but no model config"):
        to_functional(tmp_path / "m.h5")


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no SavedModel"):
        to_functional(tmp_path)


def test_saved_graph_without_layers_is_refused(tmp_path):
    _model().export(tmp_path / "exported")
    with pytest.raises(ValueError, match="holds no Keras layers, only a graph"):
        to_functional(tmp_path / "exported")


def test_lambda_in_a_file_is_refused(tmp_path):
    keras.Sequential([keras.Input([4]), L.Lambda(lambda x: x * 2)]).save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match=r"tf_keras cannot load.*safe_mode=False"):
        to_functional(tmp_path / "m.keras")
    assert len(to_functional(tmp_path / "m.keras", safe_mode=False).layers) == 2


def test_text_of_unknown_rule_is_refused_twice():
    from qat_round.frontend.operators import rule

    with pytest.raises(ValueError, match="There is a rule for operator 'add' already"):
        rule("add")(lambda op: None)
