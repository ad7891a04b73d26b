"""Training with quantization, one epoch at a time, so that it can be taken up after a kill.

Everything that an epoch needs is in a state file that is replaced as a whole after each one:
weights, optimizer, history. The order of the samples and all randomness come from seed and epoch.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from qat_round._compat import keras, tf
from qat_round.files.atomic_write import write_file
from qat_round.files.data_files import Data
from qat_round.quantizers.quantized_tensors import quantized_tensors
from qat_round.training import schedules
from qat_round.training.anneal import Anneal, knobs

_PROBABILITIES = ("softmax", "sigmoid")


def with_classes(model: Any, data: Data, loss: str = "auto") -> Data:
    """The data, with the number of its class for each sample where labels say it otherwise.

    That is, for an output of two or more classes and unless another loss is named: whole numbers in
    a last axis of one, as CIFAR has them, and rows of zeros with a single one ("one-hot").

    Args:
        model: with one output; for others nothing is changed.
        data: with labels or without.
        loss: as in `check_labels`.
    """
    labels = data.labels
    if labels is None or len(model.outputs) != 1 or loss not in ("auto", "crossentropy"):
        return data
    shape = model.outputs[0].shape
    if labels.ndim != shape.rank or (shape[-1] or 0) < 2:
        return data
    if labels.shape[-1] == 1 and labels.dtype.kind in "iub":
        return dataclasses.replace(data, labels=labels[..., 0])
    if labels.shape[-1] == shape[-1] and _is_one_hot(labels):
        return dataclasses.replace(data, labels=labels.argmax(-1))
    return data


def _is_one_hot(labels: np.ndarray) -> bool:
    return bool(np.all((labels == 0) | (labels == 1)) and np.all(labels.sum(-1) == 1))


def check_labels(model: Any, data: Data, loss: str = "auto", verb: str = "train") -> str:
    """The loss that fits a model's output and the labels.

    Args:
        model: with one output.
        data: with labels, as `with_classes` gives them.
        loss: "auto", "crossentropy", "binary_crossentropy" or "mean_squared_error".
        verb: who asks, for the messages.

    Returns:
        One of the last three.

    Raises:
        ValueError: if there are no labels, or they do not fit.
    """
    if len(model.outputs) != 1:
        raise ValueError(
            f"{verb}: the model has {len(model.outputs)} outputs; the command trains models with "
            "one. Train this one in Python: qr.quantize_model, compile, fit."
        )
    if data.labels is None:
        raise ValueError(f"{verb}: there are no labels; name them with --labels or [data] labels.")
    labels, classes = data.labels, model.outputs[0].shape[-1]
    if loss == "auto":
        whole = labels.dtype.kind in "iub" and labels.ndim == model.outputs[0].shape.rank - 1
        loss = "mean_squared_error" if not whole else "crossentropy"
        if labels.dtype.kind in "iub" and classes == 1:
            loss = "binary_crossentropy"
    if loss == "crossentropy":
        _check_classes(labels, model.outputs[0].shape, verb)
    elif tuple(labels.shape[1:]) != tuple(model.outputs[0].shape[1:]) and not (
        classes == 1 and labels.ndim == 1
    ):
        raise ValueError(
            f"{verb}: labels of shape {labels.shape} do not fit the output of shape "
            f"{tuple(model.outputs[0].shape)} (loss {loss})."
        )
    return loss


def _check_classes(labels: np.ndarray, shape: Any, verb: str) -> None:
    classes = shape[-1]
    if labels.ndim != shape.rank - 1:
        raise ValueError(
            f"{verb}: labels of shape {labels.shape} do not fit the output of shape "
            f"{tuple(shape)}: cross-entropy needs the number of the class for each."
        )
    if labels.dtype.kind not in "iub":
        raise ValueError(
            f"{verb}: cross-entropy needs whole numbers as labels, these are {labels.dtype}; use "
            "loss mean_squared_error for other targets."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"{verb}: the labels go from {labels.min()} to {labels.max()}, but the output has "
            f"{classes} classes: they have to be 0 to {classes - 1}."
        )


def make_loss(model: Any, loss: str) -> Any:
    """The Keras loss; from logits unless the model ends in a softmax or sigmoid."""
    if loss == "mean_squared_error":
        return keras.losses.MeanSquaredError()
    kind = keras.losses
    cls = kind.SparseCategoricalCrossentropy if loss == "crossentropy" else kind.BinaryCrossentropy
    return cls(from_logits=not gives_probabilities(model))


def gives_probabilities(model: Any) -> bool:
    """Whether the model's first output is that of a softmax or sigmoid."""
    layer = model.get_layer(model.output_names[0])
    layer = getattr(layer, "layer", layer)
    if isinstance(layer, keras.layers.Softmax):
        return True
    activation = getattr(layer, "activation", None)
    return getattr(activation, "__name__", "") in _PROBABILITIES


def train_epochs(
    make_model: Callable[[], Any],
    data: Data,
    *,
    epochs: int,
    batch_size: int = 64,
    learning_rate: float = 3e-4,
    loss: str = "auto",
    knob: str = "",
    knob_start: float = 0.0,
    knob_stop: float = 0.0,
    knob_schedule: str = "exponential",
    seed: int = 0,
    state: str | os.PathLike[str] | None = None,
    fingerprint: str = "",
    told: Callable[[str], None] = lambda message: None,
    moved: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Any, list[dict[str, Any]]]:
    """Trains a quantized model; taken up where the state file says, it ends with the same model.

    Args:
        make_model: gives the quantized model, calibrated, the same each time.
        data: samples with labels that fit the model's one output.
        epochs, batch_size, learning_rate, loss, knob*: as in a recipe's `[train]`.
        seed: of the order of samples and of everything random.
        state: the file that is written after each epoch; None for none.
        fingerprint: of all that led here; a state with another one is not used.
        told: is called with a line for each epoch.
        moved: is called after each training step with how many are done, and of how many.

    Returns:
        The trained model, and for each epoch {"epoch", "loss", "ranges", "knobs"}.

    Raises:
        ValueError: for labels that do not fit, or a loss that is not finite.
    """
    model = make_model()
    if not epochs:
        return model, []
    data = with_classes(model, data, loss)
    loss = check_labels(model, data, loss)
    steps = epochs * math.ceil(data.samples / batch_size)
    saved = _load(state, fingerprint)
    history: list[dict[str, Any]] = saved["history"] if saved else []
    has_draws = any(isinstance(x, keras.__internal__.layers.BaseRandomLayer) for x in _inner(model))
    compiled = False
    for epoch in range(len(history), epochs):
        keras.utils.set_random_seed((seed + 7919 * (epoch + 1)) % 2**31)
        if has_draws and epoch:  # so that draws are as after a restart
            model, compiled = make_model(), False
        if not compiled:
            _compile(model, make_loss(model, loss), learning_rate, steps)
            compiled = True
            if saved:
                _restore(model, saved)
        callbacks = _annealing(knob, knob_start, knob_stop, knob_schedule, steps)
        callbacks.append(_watching(epoch, steps // epochs, steps, moved))
        order = np.random.RandomState([seed, epoch]).permutation(data.samples)
        found = _one_epoch(model, data.taken(order), batch_size, callbacks)
        history.append({"epoch": epoch + 1, "loss": found, **_state_of_quantizers(model)})
        saved = _captured(model, history)
        if state is not None:
            _save(state, saved, fingerprint)
        told(f"epoch {epoch + 1} of {epochs}: loss {found:.4f}")
    if saved and not compiled:  # all epochs were there
        _compile(model, make_loss(model, loss), learning_rate, steps)
        _restore(model, saved)
    return model, history


def _inner(model: Any) -> list[Any]:
    return [getattr(layer, "layer", layer) for layer in model.layers]


def _compile(model: Any, loss: Any, rate: float, steps: int) -> None:
    falling = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(keras.optimizers.Adam(falling), loss)
    model.optimizer.build(model.trainable_variables)


def _annealing(knob: str, start: float, stop: float, schedule: str, steps: int) -> list[Any]:
    if not knob:
        return []
    moved = schedules.get({"name": schedule, "start": start, "stop": stop, "steps": steps})
    return [Anneal(knob, moved)]


def _watching(epoch: int, per_epoch: int, steps: int, moved: Callable[[int, int], None]) -> Any:
    def batch_ended(batch: int, logs: Any) -> None:
        moved(epoch * per_epoch + batch + 1, steps)

    return keras.callbacks.LambdaCallback(on_batch_end=batch_ended)


def _one_epoch(model: Any, data: Data, batch_size: int, callbacks: list[Any]) -> float:
    done = model.fit(
        data.inputs,
        data.labels,
        batch_size=batch_size,
        epochs=1,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    loss = float(done.history["loss"][-1])
    if not math.isfinite(loss):
        raise ValueError(
            f"train: the loss became {loss}; lower the learning rate, or look at the data."
        )
    return loss


def _state_of_quantizers(model: Any) -> dict[str, Any]:
    """Ranges of what has one range, and knobs, as they are now."""
    ranges = {
        t.path: [float(t.weights[end].numpy()) for end in ("min_var", "max_var")]
        for t in quantized_tensors(model)
        if t.weights["min_var"].shape.rank == 0
    }
    return {"ranges": ranges, "knobs": knobs(model)}


def _captured(model: Any, history: list[dict[str, Any]]) -> dict[str, Any]:
    variables = [v.numpy() for v in model.optimizer.variables]
    return {"weights": model.get_weights(), "optimizer": variables, "history": history}


def _restore(model: Any, saved: dict[str, Any]) -> None:
    model.set_weights(saved["weights"])
    for variable, value in zip(model.optimizer.variables, saved["optimizer"], strict=True):
        variable.assign(tf.cast(value, variable.dtype))


def _save(path: str | os.PathLike[str], saved: dict[str, Any], fingerprint: str) -> None:
    arrays = {f"w{i:05}": a for i, a in enumerate(saved["weights"])}
    arrays |= {f"o{i:05}": a for i, a in enumerate(saved["optimizer"])}
    about = json.dumps({"fingerprint": fingerprint, "history": saved["history"]})
    out = io.BytesIO()
    np.savez(out, about=np.array(about), **arrays)  # type: ignore[arg-type]
    write_file(path, out.getvalue())


def _load(path: str | os.PathLike[str] | None, fingerprint: str) -> dict[str, Any] | None:
    """What was saved by the same recipe; None if there is nothing of the kind."""
    if path is None or not pathlib.Path(path).exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            keys = sorted(file.files)
            if about["fingerprint"] != fingerprint:
                return None
            return {
                "weights": [file[k] for k in keys if k.startswith("w")],
                "optimizer": [file[k] for k in keys if k.startswith("o")],
                "history": list(about["history"]),
            }
    except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile):
        return None
