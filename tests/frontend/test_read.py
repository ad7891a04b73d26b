"""Models are read flat: nested, shared, subclassed, several ends, activations by name."""

from __future__ import annotations

import numpy as np
import pytest

from qat_round._compat import keras, tf, tfmot
from qat_round.frontend.to_functional import to_functional

L = keras.layers


def _names(model):
    return [layer.name for layer in model.layers]


def _classes(model):
    return [type(layer).__name__ for layer in model.layers]


def _is_flat(model):
    return not any(isinstance(layer, keras.Model) for layer in model.layers)


def test_copy_has_its_own_weights():
    model = keras.Sequential([keras.Input([4]), L.Dense(3)])
    before = model.get_weights()
    found = to_functional(model)
    found.set_weights([w + 1.0 for w in found.get_weights()])
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


def test_model_given_is_not_changed():
    model = keras.Sequential([keras.Input([4]), L.Dense(3, activation=tf.nn.relu6)])
    config = str(model.get_config())
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    to_functional(model)
    assert str(model.get_config()) == config
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes


def test_nested_models_are_opened_at_any_depth():
    x = keras.Input([8, 8, 3])
    deep = keras.Sequential([L.Conv2D(4, 3, name="conv"), L.BatchNormalization(name="norm")])
    middle = keras.Model(x, L.ReLU(name="act")(deep(x)))
    outer = keras.Sequential([keras.Input([8, 8, 3]), middle, L.Flatten(), L.Dense(2)])
    found = to_functional(outer)
    assert _is_flat(found)
    assert _names(found)[1:4] == ["conv", "norm", "act"]


def test_names_are_made_unique_only_where_they_meet():
    def block(name):
        x = keras.Input([4])
        return keras.Model(x, L.Dense(4, name="dense")(x), name=name)

    x = keras.Input([4], name="x")
    model = keras.Model(x, block("b")(block("a")(L.Dense(4, name="other")(x))))
    assert _names(to_functional(model)) == ["x", "other", "dense", "b_dense"]


def test_outer_names_win():
    x = keras.Input([4], name="x")
    inner = keras.Sequential([L.Dense(4, name="dense")], name="inner")
    model = keras.Model(x, L.Dense(4, name="dense")(inner(x)))
    assert _names(to_functional(model)) == ["x", "inner_dense", "dense"]


def test_shared_layers_and_models_stay_shared():
    dense = L.Dense(4)
    tower = keras.Sequential([dense, L.Dense(4)])
    a, b = keras.Input([4]), keras.Input([4])
    model = keras.Model([a, b], L.Add()([tower(a), dense(tower(b))]))
    found = to_functional(model)
    assert len(found.weights) == 4
    assert len([name for name in _classes(found) if name == "Dense"]) == 2


def test_training_flag_of_a_nested_model_reaches_its_layers():
    base = keras.Sequential([keras.Input([4]), L.Dropout(0.9), L.BatchNormalization()])
    x = keras.Input([4])
    found = to_functional(keras.Model(x, base(x, training=False)))
    data = tf.random.normal([32, 4], seed=0)
    np.testing.assert_array_equal(found(data, training=True), found(data, training=False))


def test_frozen_layers_stay_frozen():
    base = keras.Sequential([keras.Input([4]), L.Dense(4), L.BatchNormalization()])
    base.trainable = False
    model = keras.Sequential([keras.Input([4]), base, L.Dense(1)])
    assert len(to_functional(model).trainable_weights) == 2


def test_several_inputs_and_outputs_keep_order_names_and_structure():
    a, b = keras.Input([4], name="left"), keras.Input([3], name="right")
    x = L.Concatenate()([b, a])
    outputs = {"z": L.Dense(2, name="last")(x), "y": L.Dense(1, name="first")(x)}
    model = keras.Model({"left": a, "right": b}, outputs)
    found = to_functional(model)
    data = {"left": tf.ones([2, 4]), "right": tf.ones([2, 3])}
    assert found.input_names == model.input_names
    assert found.output_names == model.output_names
    np.testing.assert_allclose(found(data)["z"], model(data)["z"], atol=1e-6)


def test_output_that_is_rewritten_keeps_its_name():
    x = keras.Input([4])
    model = keras.Model(x, L.Dense(2, activation=tf.nn.relu6, name="scores")(x))
    found = to_functional(model)
    assert found.output_names == ["scores"]
    assert _names(found)[1:] == ["scores", "scores_relu6"]


def test_input_that_is_also_an_output():
    x = keras.Input([4])
    found = to_functional(keras.Model(x, [x, L.Dense(2)(x)]))
    assert len(found.outputs) == 2


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (tf.nn.relu, "relu"),
        (tf.nn.swish, "swish"),
        (tf.nn.sigmoid, "sigmoid"),
        (tf.tanh, "tanh"),
        (tf.nn.gelu, "gelu"),
        (tf.nn.softmax, "softmax"),
        (None, "linear"),
    ],
)
def test_activation_functions_get_their_names(function, name):
    model = keras.Sequential([keras.Input([4]), L.Dense(3, activation=function)])
    found = to_functional(model)
    assert found.layers[1].get_config()["activation"] == name
    assert len(found.layers) == 2


@pytest.mark.parametrize(
    ("activation", "behind"),
    [
        (tf.nn.relu6, "ReLU"),
        (tf.nn.leaky_relu, "LeakyReLU"),
        ("elu", "ELU"),
        ("selu", "Activation"),
        ("hard_sigmoid", "Activation"),
        ("softplus", "Activation"),
        (lambda x: x * 2.0, "Activation"),
        (L.LeakyReLU(0.1), "LeakyReLU"),
    ],
)
@pytest.mark.parametrize("host", [L.Conv2D, L.SeparableConv2D, L.Conv2DTranspose])
def test_activations_that_cannot_be_fused_are_pulled_out(host, activation, behind):
    model = keras.Sequential([keras.Input([8, 8, 3]), host(4, 3, activation=activation)])
    assert _classes(to_functional(model))[1:] == [host.__name__, behind]


def test_shared_layer_shares_its_activation():
    dense = L.Dense(4, activation="elu", name="d")
    x = keras.Input([4])
    found = to_functional(keras.Model(x, dense(dense(x))))
    assert _names(found)[1:] == ["d", "d_elu"]


def test_activation_layer_of_a_function():
    x = keras.Input([4])
    model = keras.Model(x, L.Activation(tf.nn.relu6)(L.Activation(tf.nn.swish)(x)))
    assert _classes(to_functional(model))[1:] == ["Activation", "ReLU"]


def test_activation_with_weights_stays():
    model = keras.Sequential([keras.Input([4]), L.Dense(3, activation=L.PReLU())])
    assert len(to_functional(model).weights) == 3


class Block(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense, self.drop = L.Dense(4), L.Dropout(0.5)

    def call(self, x, training=None):
        return x + self.drop(self.dense(x), training=training)


class Outer(keras.Model):
    def __init__(self):
        super().__init__()
        self.block, self.head = Block(), L.Dense(2, activation="softmax")

    def call(self, inputs):
        return {"scores": self.head(self.block(self.block(inputs)))}


def test_subclassed_model_is_traced_and_opened():
    model = Outer()
    model(tf.ones([1, 4]))
    nodes = [len(layer._inbound_nodes) for layer in (model.block, model.head, model.block.dense)]
    found = to_functional(model)
    assert _is_flat(found)
    assert len(found.weights) == 4
    assert list(found.output) == ["scores"]
    after = [len(layer._inbound_nodes) for layer in (model.block, model.head, model.block.dense)]
    assert after == nodes


def test_subclassed_model_built_by_shape():
    model = Outer()
    model.build([None, 4])
    assert _is_flat(to_functional(model))


class Doubler(L.Layer):
    def call(self, x):
        return x * 2.0


def test_custom_layers_are_kept():
    model = keras.Sequential([keras.Input([4]), Doubler(), L.Dense(1)])
    assert _classes(to_functional(model))[1:] == ["Doubler", "Dense"]


def test_lambda_of_a_live_model_is_kept():
    model = keras.Sequential([keras.Input([4]), L.Lambda(lambda x: x * 2.0), L.Dense(1)])
    assert _classes(to_functional(model))[1:] == ["Lambda", "Dense"]


def test_recurrent_attention_and_masks():
    tokens = keras.Input([6], dtype="int32")
    x = L.Embedding(20, 8, mask_zero=True)(tokens)
    x = L.Bidirectional(L.LSTM(4, return_sequences=True))(x)
    x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True))
    x = L.TimeDistributed(L.Dense(3))(x)
    x, state = L.GRU(5, return_state=True)(x)
    found = to_functional(keras.Model(tokens, [x, state]))
    assert len(found.outputs) == 2


def test_sizes_that_are_not_fixed():
    x = keras.Input([None, None, 3])
    model = keras.Model(x, tf.reduce_mean(L.Conv2D(4, 3)(x), [1, 2]))
    assert to_functional(model).input_shape == (None, None, None, 3)


def test_fixed_batch_stays():
    x = keras.Input([4], batch_size=3)
    assert to_functional(keras.Model(x, L.Dense(1)(x))).input_shape == (3, 4)


def test_mixed_precision_policy_is_kept():
    model = keras.Sequential([keras.Input([4]), L.Dense(3, dtype="mixed_float16")])
    assert to_functional(model).layers[1].compute_dtype == "float16"


def test_losses_that_are_added_to_the_model_are_warned_of():
    x = keras.Input([4])
    y = L.Dense(2)(x)
    model = keras.Model(x, y)
    model.add_loss(tf.reduce_mean(y))
    with pytest.warns(UserWarning, match="has add_loss or add_metric terms .* not in the copy"):
        to_functional(model)


def test_pruned_layers_are_taken_with_their_masks():
    model = keras.Sequential([keras.Input([4]), L.Dense(2)])
    pruned = tfmot.sparsity.keras.prune_low_magnitude(model)
    found = to_functional(pruned)
    assert len(found.weights) == len(pruned.weights)
