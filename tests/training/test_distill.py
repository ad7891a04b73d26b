"""Distillation from a float teacher."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from tests.models import nets

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


L = keras.layers


# Distillation.


def test_samples_are_weighed_in_the_teachers_loss_too(float_net, pictures):
    x = pictures[0][:32]
    student = keras.models.clone_model(float_net)
    distiller = qr.Distiller(student, float_net, share=1.0)
    distiller.compile("sgd")
    half = np.concatenate([np.ones(16), np.zeros(16)]).astype(np.float32)
    weighed = distiller.compute_loss(x, None, student(x), tf.constant(half))
    of_half = distiller.compute_loss(x[:16], None, student(x[:16]))
    assert float(weighed) == pytest.approx(0.5 * float(of_half), rel=1e-4)


def test_a_share_for_labels_needs_labels(float_net, pictures):
    distiller = qr.Distiller(keras.models.clone_model(float_net), float_net, share=0.5)
    distiller.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"share=0.5 needs labels"):
        distiller.fit(pictures[0][:32], verbose=0)


def test_the_teachers_penalties_are_not_the_students():
    def net(strength):
        regularizer = keras.regularizers.L2(strength)
        return keras.Sequential([L.Input((8,)), L.Dense(3, kernel_regularizer=regularizer)])

    x = nets.vectors(8)
    student, losses = net(0.1), []
    for strength in (0.1, 50.0):
        teacher = net(strength)
        teacher.set_weights(student.get_weights())
        distiller = qr.Distiller(student, teacher, share=1.0)
        distiller.compile("sgd")
        losses.append(float(distiller.compute_loss(x, None, student(x))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
