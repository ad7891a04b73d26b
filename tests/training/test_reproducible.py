"""Two runs with one seed are identical."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tf_keras as keras

import qat_round as qr
from tests import scripts
from tests.models import nets

slow = pytest.mark.slow


# Determinism.

TRAIN_TWICE = """
import sys, numpy as np, tensorflow as tf, tf_keras as keras, qat_round as qr
from tests.models import nets
keras.utils.set_random_seed(1)
tf.config.experimental.enable_op_determinism()
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[2]))
net = nets.conv_net(); keras.utils.set_random_seed(1)
model = qr.quantize_model(net, "stochastic")
nets.ready(qr.calibrate(model, nets.pictures(64)[0]))
model.fit(*nets.pictures(128), verbose=0, epochs=2)
np.savez(sys.argv[1], *model.get_weights())
"""


def trained(path: pathlib.Path, threads: int) -> list[np.ndarray]:
    command = [sys.executable, "-c", TRAIN_TWICE, str(path), str(threads)]
    subprocess.run(command, check=True, capture_output=True, timeout=300, cwd=scripts.ROOT)
    with np.load(path) as found:
        return [found[name] for name in found.files]


@slow
def test_two_runs_are_identical_random_rounding_included(tmp_path):
    """With as many threads; another number moves the last bits of TensorFlow's own gradients."""
    first, second = trained(tmp_path / "a.npz", 2), trained(tmp_path / "b.npz", 2)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@slow
def test_two_trainings_in_one_process_are_identical():
    found = []
    for _ in range(2):
        net = nets.dense_net()
        keras.utils.set_random_seed(5)
        model = nets.ready(qr.calibrate(qr.quantize_model(net, "stochastic"), nets.vectors()))
        nets.steps(model, nets.vectors(), np.arange(64) % 3, 5)
        found.append(model.get_weights())
    assert not np.array_equal(found[0][-1], nets.dense_net().get_weights()[-1])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
