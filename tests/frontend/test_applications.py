"""Published networks come out flat, without bare operators, with equal outputs."""

from __future__ import annotations

import numpy as np
import pytest

from qat_round._compat import keras
from qat_round.frontend.operators import recorded_operators
from qat_round.frontend.to_functional import to_functional

BOTH = (
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "MobileNetV3Large",
    "ResNet50",
    "ResNet50V2",
    "Xception",
    "VGG16",
    "InceptionV3",
    "InceptionResNetV2",
    "DenseNet121",
    "NASNetMobile",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "ConvNeXtTiny",
)
ONLY_TF_KERAS = ("ResNetRS50", "RegNetX002")


def _network(library, name, size=96):
    """A network whose weights are random enough for every layer to matter."""
    library.backend.clear_session()
    rng = np.random.default_rng(0)
    arguments = {"weights": None, "classifier_activation": None, "classes": 20}
    model = getattr(library.applications, name)(input_shape=(size, size, 3), **arguments)
    for weight in model.weights:
        kind = weight.name.split("/")[-1].split(":")[0]
        if kind == "moving_variance":
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif "kernel" not in kind and kind != "seed_generator_state":
            weight.assign(weight + rng.normal(0.0, 0.1, weight.shape))
    return model


def _check_flat(found):
    assert recorded_operators(found) == []
    assert not any(isinstance(layer, keras.Model) for layer in found.layers)


def test_mobilenet_v3_has_hard_swish_layers():
    found = to_functional(_network(keras, "MobileNetV3Small", 32))
    _check_flat(found)
    classes = [type(layer).__name__ for layer in found.layers]
    assert classes.count("HardSwish") == 19
    assert classes.count("HardSigmoid") == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", BOTH + ONLY_TF_KERAS)
def test_network_of_tf_keras(name):
    _check_flat(to_functional(_network(keras, name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", BOTH)
def test_network_of_keras3(name):
    keras3 = pytest.importorskip("keras", minversion="3.0")
    _check_flat(to_functional(_network(keras3, name)))
