"""Saves models, their outputs and a run half way, as fixtures that later versions must load.

usage: python -m tests.scripts.save_release FOLDER
Models are made by public names, so that the script runs at every release. The folder gets, for each
model, `NAME.keras`, `NAME.h5`, `NAME.saved.zip` and `NAME.npz` (inputs, labels, outputs and the
next two training losses); `run/`, a recipe whose training was stopped after its first epoch; and
`names.json`, the names that its files may hold.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

import qat_round as qr

L = keras.layers
LABELS = np.arange(64) % 3
SAVED_MODELS = ("learned", "annealed", "four_bit")  # folders of half a megabyte
RECIPE = """[model]
path = "net.keras"

[data]
train = "data.npz"

[quantize]
rounder = "sigmoid"

[train]
epochs = 3
batch_size = 32
knob = "slope"
knob_start = 5.0
knob_stop = 50.0

[export]
folder = "out"
name = "net"

[report]
html = false
"""


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(64, *shape)).astype(np.float32)


def conv_net() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            L.Input((8, 8, 2), name="image"),
            L.Conv2D(4, 3, use_bias=False, name="conv"),
            L.BatchNormalization(name="bn"),
            L.ReLU(6.0, name="relu"),
            L.SeparableConv2D(6, 3, padding="same", name="separable"),
            L.AveragePooling2D(name="pool"),
            L.Flatten(name="flat"),
            L.Dense(3, name="classes"),
        ],
        name="conv_net",
    )


def dense_net() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [L.Input((8,), name="row"), L.Dense(6, "relu", name="hidden"), L.Dense(3, name="last")],
        name="dense_net",
    )


def lstm_net() -> keras.Model:
    keras.utils.set_random_seed(0)
    rows = L.Input((4, 3), name="rows")
    states = L.LSTM(4, return_sequences=True, name="lstm")(rows)
    states = L.Bidirectional(L.GRU(2), name="both_ways")(states)
    return keras.Model(rows, L.Dense(3, name="last")(states), name="lstm_net")


def attention_net() -> keras.Model:
    """Layers that become layers of this package."""
    keras.utils.set_random_seed(0)
    words = L.Input((6,), name="words")
    x = L.Embedding(20, 8, name="embedding")(words)
    y = L.LayerNormalization(name="norm")(x)
    y = L.MultiHeadAttention(2, 4, name="attention")(y, y)
    x = L.Add(name="sum")([x, y])
    y = L.EinsumDense("abc,cd->abd", (None, 12), bias_axes="d", name="einsum")(x)
    y = L.Conv1D(8, 3, padding="causal", activation="swish", name="causal")(y)
    x = L.Multiply(name="product")([x, y])
    x = L.PReLU(shared_axes=[1], name="prelu")(L.ZeroPadding1D(1, name="pad")(x))
    x = tf.nn.relu(x[:, 1:-1]) / 2.0
    x = L.GlobalAveragePooling1D(name="mean")(L.UpSampling1D(2, name="up")(x))
    return keras.Model(words, L.Dense(3, "softmax", name="last")(x), name="attention_net")


def int16_net() -> keras.Model:
    keras.utils.set_random_seed(0)
    row = L.Input((8,), name="row")
    gate = L.Dense(6, "sigmoid", name="gate")(row)
    value = L.Dense(6, "tanh", name="value")(row)
    both = L.Concatenate(name="both")([L.Multiply(name="gated")([gate, value]), value])
    return keras.Model(row, L.Dense(3, name="last")(both), name="int16_net")


def partly_annotated() -> keras.Model:
    keras.utils.set_random_seed(0)
    marked = qr.annotate_layer(L.Dense(5, "relu", name="marked"), qr.LayerSpec("sine"))
    return keras.Sequential(
        [L.Input((8,), name="row"), L.Dense(6, "relu", name="plain"), marked, L.Dense(3)]
    )


def stock() -> keras.Model:
    model = tfmot.quantization.keras.quantize_model(conv_net())
    return trained(model, normal(8, 8, 2))


def compiled(model: keras.Model) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    return model


def trained(model: keras.Model, inputs: np.ndarray, **options: object) -> keras.Model:
    fit = {"batch_size": 32, "shuffle": False, "verbose": 0, "epochs": 2}
    compiled(model).fit(inputs, LABELS, **fit, **options)
    return model


def quantized(net: keras.Model, inputs: np.ndarray, **settings: object) -> keras.Model:
    return trained(qr.calibrate(qr.quantize_model(net, **settings), inputs), inputs)


def learned() -> keras.Model:
    spec = qr.TensorSpec(rounder="sigmoid", range="learned")
    return quantized(conv_net(), normal(8, 8, 2), weights=spec, activations=spec)


def annealed() -> keras.Model:
    """StoppedError half way."""
    model = qr.calibrate(qr.quantize_model(dense_net(), "sigmoid"), normal(8))
    slope = qr.Anneal("slope", qr.schedules.exponential(5.0, 500.0, steps=8))
    return trained(model, normal(8), callbacks=[slope])


def words() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 20, (64, 6)).astype(np.float32)


MODELS = {
    "learned": (learned, lambda: normal(8, 8, 2)),
    "annealed": (annealed, lambda: normal(8)),
    "lstm": (lambda: quantized(lstm_net(), normal(4, 3)), lambda: normal(4, 3)),
    "four_bit": (
        lambda: quantized(conv_net(), normal(8, 8, 2), recipe="w4a4"),
        lambda: normal(8, 8, 2),
    ),
    "attention": (lambda: quantized(attention_net(), words(), rounder="tanh"), words),
    "int16": (
        lambda: quantized(int16_net(), normal(8), rounder="ste", activation_bits=16),
        lambda: normal(8),
    ),
    "annotated": (
        lambda: trained(qr.calibrate(qr.quantize_apply(partly_annotated()), normal(8)), normal(8)),
        lambda: normal(8),
    ),
    "adopted": (lambda: compiled(qr.adopt(stock(), rounder="sine")), lambda: normal(8, 8, 2)),
}


def save(name: str, folder: pathlib.Path) -> None:
    make, inputs_of = MODELS[name]
    model, inputs = make(), inputs_of()
    outputs = model(inputs, training=False).numpy()
    model.save(folder / f"{name}.keras")
    model.save(folder / f"{name}.h5")
    if name in SAVED_MODELS:
        with tempfile.TemporaryDirectory() as place:
            model.save(place, save_format="tf")
            shutil.make_archive(str(folder / f"{name}.saved"), "zip", place)
    losses = [float(model.train_on_batch(inputs[:32], LABELS[:32])) for _ in range(2)]
    np.savez_compressed(
        folder / f"{name}.npz", inputs=inputs, labels=LABELS, outputs=outputs, losses=losses
    )


def save_names(folder: pathlib.Path) -> None:
    registered = [n for n in keras.utils.get_custom_objects() if n.startswith("qat_round>")]
    names = {"classes": sorted(registered), "rounders": sorted(qr.names())}
    (folder / "names.json").write_text(json.dumps(names, indent=1) + "\n")


class StoppedError(Exception):
    """Ends a run after an epoch."""


def stop(line: str) -> None:
    if line.startswith("epoch 1"):
        raise StoppedError


def save_run(folder: pathlib.Path) -> None:
    """A recipe after one of three epochs, and what it ends with."""
    from qat_round.files.manifest import versions
    from qat_round.pipeline.recipe_file import read_recipe
    from qat_round.pipeline.recipe_run import run_recipe

    rows = normal(8)
    np.savez(folder / "data.npz", x=rows, y=LABELS)
    dense_net().save(folder / "net.keras")
    (folder / "recipe.toml").write_text(RECIPE)
    try:
        run_recipe(read_recipe(folder / "recipe.toml"), told=stop)
    except StoppedError:
        shutil.move(folder / "out" / ".net.training", folder / "net.training")
    found = run_recipe(read_recipe(folder / "recipe.toml"))
    outputs = keras.models.load_model(folder / "out" / "net.keras")(rows, training=False).numpy()
    shutil.rmtree(folder / "out")
    expected = {"versions": versions(), "history": found["history"], "outputs": outputs.tolist()}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    import os

    where = pathlib.Path(sys.argv[1]).resolve()
    (where / "run").mkdir(parents=True, exist_ok=True)
    save_names(where)
    for each in MODELS:
        save(each, where)
    os.chdir(where / "run")
    save_run(pathlib.Path())
