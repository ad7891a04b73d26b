"""How good a model and its file are on labelled samples: accuracy, or mean squared error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qat_round.files.data_files import Data
from qat_round.files.interpreter import Runner, sliced
from qat_round.files.tflite_file import TFLiteFile
from qat_round.training.epochs import check_labels, gives_probabilities, with_classes

_BATCH = 64


def figures(
    model: Any,
    tflite: bytes,
    test: Data,
    loss: str = "auto",
    reference: Callable[[Any], Any] | None = None,
) -> dict[str, Any]:
    """Accuracy, or mean squared error, of the float model, the quantized one and the file.

    Args:
        model: the quantized model.
        tflite: its file.
        test: samples; without labels, or for a model of several outputs, there is no accuracy.
        loss: as in `qat_round.training.epochs.check_labels`.
        reference: runs the float model on a batch; None if there is none.

    Returns:
        {"samples", "file_bytes", "accuracy_float", "accuracy_quantized", "accuracy_device"}, or
        "mean_squared_error_..." where that is the loss.
    """
    found: dict[str, Any] = {"samples": test.samples, "file_bytes": len(tflite)}
    if why_no_score(model, test):
        return found
    test = with_classes(model, test, loss)
    loss = check_labels(model, test, loss, "figures")
    named = test.inputs if isinstance(test.inputs, dict) else {model.input_names[0]: test.inputs}
    runs = {
        "quantized": lambda batch: model(_given(batch), training=False),
        "device": _device(tflite),
    }
    if reference is not None:
        runs = {"float": lambda batch: reference(_given(batch)), **runs}
    threshold = 0.5 if gives_probabilities(model) else 0.0
    kind = "mean_squared_error" if loss == "mean_squared_error" else "accuracy"
    size = Runner(TFLiteFile(tflite)).fixed_batch() or _BATCH
    for name, run in runs.items():
        answers = [np.asarray(_first(run(batch))) for batch in sliced(named, size)]
        found[f"{kind}_{name}"] = _score(kind, np.concatenate(answers), test.labels, threshold)
    return found


def why_no_score(model: Any, test: Data) -> str:
    """Why nothing can be said of accuracy or error; empty if it can."""
    if test.labels is None:
        return "the data has no labels"
    outputs = len(model.outputs or ())
    return "" if outputs == 1 else f"the model has {outputs} outputs"


def _device(tflite: bytes) -> Callable[[Any], Any]:
    runner = Runner(TFLiteFile(tflite))
    names = list(runner.inputs)

    def run(batch: dict[str, np.ndarray]) -> Any:
        known = batch if set(batch) == set(names) else dict(zip(names, batch.values(), strict=True))
        return runner(known)

    return run


def _given(batch: dict[str, np.ndarray]) -> Any:
    return next(iter(batch.values())) if len(batch) == 1 else list(batch.values())


def _first(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, (list, tuple)) else outputs


def _score(kind: str, found: np.ndarray, labels: Any, threshold: float) -> float:
    if kind != "accuracy":
        return float(np.mean((found.reshape(labels.shape) - labels) ** 2))
    if found.shape[-1] == 1:
        return float(np.mean((found.reshape(len(found), -1)[:, 0] > threshold) == labels.ravel()))
    return float(np.mean(found.argmax(-1) == labels))
