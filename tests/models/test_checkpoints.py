"""Checkpoints bring back the next steps, of quantized, adopted and annotated models."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot

import qat_round as qr
from tests.models import nets

tq = tfmot.quantization.keras
slow = pytest.mark.slow


# Checkpoints.


def adopted():
    model = tq.quantize_model(nets.dense_net())
    nets.ready(model).fit(nets.vectors(), np.arange(64) % 3, verbose=0)
    return qr.adopt(model)


MAKE = {"quantized": lambda: qr.quantize_model(nets.dense_net(), "sine"), "adopted": adopted}


@pytest.mark.parametrize("kind", ["quantized", pytest.param("adopted", marks=slow)])
def test_a_checkpoint_in_mid_training_brings_back_the_next_steps(kind, tmp_path):
    rows, labels = nets.vectors(), np.arange(64) % 3
    model = nets.ready(qr.calibrate(MAKE[kind](), rows))
    nets.steps(model, rows, labels, 3)
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "mid"))
    expected = nets.steps(model, rows, labels, 3)
    fresh = nets.ready(MAKE[kind]())
    tf.train.Checkpoint(model=fresh).restore(path)
    assert nets.steps(fresh, rows, labels, 3) == expected


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_an_adopted_model_reloads(ending, tmp_path):
    model = adopted()
    rows = nets.vectors()
    model.save(tmp_path / f"adopted{ending}")
    again = qr.load_model(tmp_path / f"adopted{ending}")
    np.testing.assert_array_equal(again(rows, training=False), model(rows, training=False))


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_an_annotated_model_reloads_in_every_format(ending, tmp_path):
    annotated = qr.annotate_model(nets.dense_net(), qr.LayerSpec("sine"))
    annotated.save(tmp_path / f"annotated{ending}")
    again = qr.load_model(tmp_path / f"annotated{ending}")
    rows = nets.vectors()
    np.testing.assert_array_equal(again(rows), annotated(rows))
    assert qr.quantize_apply(again).count_params() == qr.quantize_apply(annotated).count_params()
