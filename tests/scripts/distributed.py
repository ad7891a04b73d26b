"""Trains a net under a distribution strategy; run by training/test_distribution.py.

usage: python -m tests.scripts.distributed OUT.npz SETTINGS
SETTINGS is JSON: {"strategy": "one" | "mirrored" | "workers", ...}.
"""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

import tensorflow_model_optimization as tfmot  # noqa: E402
import tf_keras as keras  # noqa: E402

import qat_round as qr  # noqa: E402
from tests.models import nets  # noqa: E402

BATCH = 32  # samples of a step, over all replicas


class StepLosses(keras.callbacks.Callback):
    """The loss of each step, which Keras shows as a mean over an epoch only."""

    def __init__(self):
        super().__init__()
        self.found: list[float] = []

    def on_train_batch_begin(self, batch, logs=None):
        self.model.reset_metrics()

    def on_train_batch_end(self, batch, logs=None):
        self.found.append(float(logs["loss"]))


def strategy_of(name: str):
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    if name == "workers":
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def data(strategy, samples: int, turned: bool = False):
    """Batches of the same samples, however many replicas there are."""
    rows, labels = nets.vectors(samples), (np.arange(samples) % 3).astype(np.int64)
    rows += np.eye(8, dtype=np.float32)[labels]

    def of_worker(context):
        share = BATCH // context.num_replicas_in_sync
        batches = tf.data.Dataset.from_tensor_slices((rows, labels)).repeat().batch(share)
        return batches.shard(context.num_input_pipelines, context.input_pipeline_id)

    if turned:  # the same samples in each batch, from last to first
        order = np.arange(samples).reshape(-1, BATCH)[:, ::-1].ravel()
        rows, labels = rows[order], labels[order]
    if strategy is tf.distribute.get_strategy():
        return rows, tf.data.Dataset.from_tensor_slices((rows, labels)).repeat().batch(BATCH)
    return rows, strategy.distribute_datasets_from_function(of_worker)


def clumped(model):
    """The model with kernels of five values, one of them 0."""
    for layer in model.layers:
        kernel, bias = layer.get_weights()
        layer.set_weights([np.round(kernel * 2.0) / 2.0, bias])
    return model


def normed_net():
    """Two dense layers, with a batch norm over the batches of all replicas between them."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((8,), name="row"),
            layers.Dense(6, use_bias=False, name="dense_a"),
            layers.BatchNormalization(momentum=0.9, synchronized=True, name="norm"),
            layers.ReLU(name="relu"),
            layers.Dense(3, name="last"),
        ]
    )


def made(asked: dict, rows: np.ndarray):
    """The model that is asked for, compiled."""
    net = normed_net if asked.get("norm") else nets.dense_net
    if asked.get("load"):
        model = qr.load_model(asked["load"])
    elif asked.get("preserve"):
        model = qr.quantize_model(clumped(nets.dense_net()), preserve=asked["preserve"])
        qr.calibrate(model, rows[:BATCH])
    elif asked.get("stock"):
        model = tfmot.quantization.keras.quantize_model(nets.dense_net())
    else:
        spec = qr.TensorSpec(rounder=asked["rounder"], range=asked["range"])
        learns = asked["range"] == "learned"
        weights = qr.TensorSpec(
            rounder=asked["rounder"], range="learned" if learns else None, rate=asked.get("pace")
        )
        model = qr.quantize_model(net(), weights=weights, activations=spec)
        if asked.get("calibrated", True):
            qr.calibrate(model, rows[:BATCH])
    if not asked.get("load"):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(asked.get("rate", 0.05), momentum=0.9), loss)
    return model


def train(asked: dict) -> dict:
    """Losses, variables and answers after some steps."""
    strategy = strategy_of(asked["strategy"])
    with strategy.scope():
        rows, batches = data(strategy, asked.get("samples", 128), asked.get("turned", False))
        model = made(asked, rows)
    losses = StepLosses()
    quiet = {"verbose": 0, "callbacks": [losses]}
    if asked.get("part"):  # the last batch has one sample: a replica gets none
        part = tf.data.Dataset.from_tensor_slices((rows, np.arange(len(rows)) % 3)).batch(BATCH)
        model.fit(part, **quiet)
    else:
        model.fit(batches, steps_per_epoch=asked["steps"], **quiet)
    # on all workers: to read a batch norm's statistics is an operation of all
    answers = {"outputs": model(rows[:BATCH], training=False).numpy()}
    copies = [v.values for v in model.variables if hasattr(v, "values")]
    agree = all(np.array_equal(c[0], other) for c in copies for other in c[1:])
    found = {f"v/{v.name}": v.numpy() for v in model.variables}
    if asked.get("save"):  # by all workers, as TensorFlow asks; the chief's is the one that counts
        path = pathlib.Path(asked["save"])
        model.save(path if _is_chief() else path.with_name(f"not_chief_{path.name}"))
    return {"losses": losses.found, "agree": agree, **answers, **found}


def _is_chief() -> bool:
    return tf.distribute.cluster_resolver.TFConfigClusterResolver().task_id in (None, 0)


if __name__ == "__main__":
    results = train(json.loads(sys.argv[2]))
    np.savez(pathlib.Path(sys.argv[1]), **results)
