"""Weights that jump to and fro between two levels while training: seen, damped, frozen.

With straight-through a weight near a threshold is pushed over it and back again, step after step;
below 4 bits many end on a level by chance, and batch norm's statistics fit no one state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from qat_round._compat import keras, tf
from qat_round._validate import real
from qat_round.quantizers.quantized_tensors import (
    QuantizedTensor,
    levels_of_weight,
    quantized_tensors,
    require_quantized,
)


class OscillationMonitor(keras.callbacks.Callback):
    """Counts how often each quantized weight turns back to the level that it came from.

    With w_t the weight's level after step t, a step is a turn if the level changed, and in the
    other direction than when it last changed. The frequency f is the turns' moving average:
        f <- (1 - m) f + m [turn],   m = momentum
    `frequency` holds f for each weight by "<layer>/<tensor>"; `share(0.02)` is the share of weights
    above a frequency. At the end of an epoch the logs get `oscillating`, that share.

    What is counted is part of the model's checkpoints, so that training that is resumed by
    `BackupAndRestore` goes on counting; put that callback behind this one.

    Args:
        momentum: m, 0 < momentum <= 1.
        threshold: above which a weight counts as oscillating; a number or a function of the step.

    Raises:
        ValueError: if momentum is outside its interval.
        TypeError: if a setting is no number.

    Source: Nagel et al. 2022, arXiv:2203.11086, section 4.
    """

    def __init__(self, momentum: float = 0.01, threshold: float | Callable[[int], float] = 0.02):
        super().__init__()
        self.momentum = real(momentum, self, "momentum")
        if not 0.0 < self.momentum <= 1.0:
            raise ValueError(
                f"{type(self).__name__}: momentum={momentum} has to be in 0 < momentum <= 1."
            )
        self.threshold = threshold if callable(threshold) else real(threshold, self, "threshold")
        self.frequency: dict[str, np.ndarray] = {}

    def share(self, threshold: float) -> float:
        """The share of all quantized weights that turn more often than a frequency."""
        above = sum(int(np.sum(f > threshold)) for f in self.frequency.values())
        return above / max(sum(f.size for f in self.frequency.values()), 1)

    def on_train_begin(self, logs: Any = None) -> None:
        model = getattr(self.model, "student", self.model)
        require_quantized(model, type(self).__name__)
        found = [t for t in quantized_tensors(model) if t.variable is not None and t.is_ours]
        self._tensors: list[QuantizedTensor] = found
        self._levels = {t.path: level.numpy() for t, level in zip(found, self._now(), strict=True)}
        self._direction = {path: np.zeros_like(level) for path, level in self._levels.items()}
        self.frequency = {path: np.zeros_like(level) for path, level in self._levels.items()}
        self._begin()
        self._kept = _Kept(self.model, type(self).__name__, self._states())

    def _begin(self) -> None:
        """What a subclass remembers besides."""

    def _act(self) -> None:
        """What a subclass does once a step has been counted."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._kept.read(self._states())

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        for tensor, levels in zip(self._tensors, self._now(), strict=True):
            self._count(tensor.path, levels.numpy())
        self._act()
        self._kept.write(self._states())

    def _states(self) -> list[dict[str, np.ndarray]]:
        """All that it remembers from one step to the next, by path."""
        return [self._levels, self._direction, self.frequency]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            logs["oscillating"] = self.share(self._threshold_now())

    def _threshold_now(self) -> float:
        if not callable(self.threshold):
            return self.threshold
        return float(self.threshold(int(self.model.optimizer.iterations.numpy())))

    @tf.function(autograph=False)
    def _now(self) -> list[tf.Tensor]:
        return [levels_of_weight(t)[0] for t in self._tensors]

    def _count(self, path: str, levels: np.ndarray) -> None:
        change = np.sign(levels - self._levels[path])
        turned = change * self._direction[path] < 0.0
        self.frequency[path] += self.momentum * (turned - self.frequency[path])
        self._direction[path] = np.where(change != 0.0, change, self._direction[path])
        self._levels[path] = levels


class _Kept:
    """Arrays kept in a model's checkpoints, but not among its weights.

    Args:
        model: the model.
        name: of the checkpoint's entry.
        states: dicts of arrays, whose keys and shapes stay.
    """

    def __init__(self, model: Any, name: str, states: list[dict[str, np.ndarray]]):
        self._holder = tf.Module()
        self._holder.kept = [
            [tf.Variable(array, trainable=False) for array in state.values()] for state in states
        ]
        model._track_trackable(self._holder, f"_qat_round_{name}", overwrite=True)

    def read(self, states: list[dict[str, np.ndarray]]) -> None:
        """Puts what is kept, or was restored, in the place of the arrays."""
        for state, variables in zip(states, self._holder.kept, strict=True):
            state.update({k: v.numpy().copy() for k, v in zip(list(state), variables, strict=True)})

    def write(self, states: list[dict[str, np.ndarray]]) -> None:
        """Keeps the arrays as they are now."""
        for state, variables in zip(states, self._holder.kept, strict=True):
            for array, variable in zip(state.values(), variables, strict=True):
                variable.assign(array)


class FreezeOscillating(OscillationMonitor):
    """Freezes weights that turn too often, each on the level where it mostly was.

    As `OscillationMonitor`; besides, a moving average of each weight's level, with the same
    momentum, is kept. A weight whose f exceeds the threshold is set to that average, rounded, and
    held there until training ends. `frozen` is the share of weights held.

    Args:
        momentum, threshold: as in `OscillationMonitor`; a threshold that falls, such as
            `qr.schedules.cosine(0.04, 0.01, steps)`, freezes late what matters least.

    Source: Nagel et al. 2022, arXiv:2203.11086, section 4.3.
    """

    def _begin(self) -> None:
        self._mean = {path: level.copy() for path, level in self._levels.items()}
        self._held = {path: np.full_like(level, np.nan) for path, level in self._levels.items()}

    def _states(self) -> list[dict[str, np.ndarray]]:
        return [*super()._states(), self._mean, self._held]

    @property
    def frozen(self) -> float:
        """The share of quantized weights that are held."""
        held = sum(int(np.isfinite(h).sum()) for h in self._held.values())
        return held / max(sum(h.size for h in self._held.values()), 1)

    def _act(self) -> None:
        threshold = self._threshold_now()
        for tensor in self._tensors:
            self._hold(tensor, threshold)

    def _hold(self, tensor: QuantizedTensor, threshold: float) -> None:
        path = tensor.path
        self._mean[path] += self.momentum * (self._levels[path] - self._mean[path])
        new = (self.frequency[path] > threshold) & np.isnan(self._held[path])
        self._held[path][new] = np.floor(self._mean[path][new] + 0.5)
        is_held = np.isfinite(self._held[path])
        if is_held.any():
            _, step = levels_of_weight(tensor)
            value = tf.where(is_held, self._held[path] * step, tensor.variable)
            tensor.variable.assign(value)


class Dampening(keras.callbacks.Callback):
    """Draws weights to the middle of their cells, so that they leave the thresholds.

        loss += strength * sum over weights of ((clip(w) - Q(w)) / step)^2
    with Q(w) the weight on its grid, taken as constant. Make it before training; as a callback it
    moves the strength, if that is a schedule.

    Args:
        model: the quantized model that will be trained.
        strength: a number >= 0, or a function of the step such as a `qr.schedules`.

    Raises:
        ValueError: if the model is not quantized or the strength negative.

    Source: Nagel et al. 2022, arXiv:2203.11086, section 4.2; in steps, so that one strength suits
        every layer: ours.
    """

    def __init__(self, model: Any, strength: float | Callable[[int], float] = 1e-4):
        super().__init__()
        require_quantized(model, "Dampening")
        self.schedule = strength if callable(strength) else (lambda step: float(strength))
        self._strength = tf.Variable(self._at(0), trainable=False, dtype=tf.float32)
        for tensor in quantized_tensors(model):
            if tensor.variable is not None and tensor.is_ours:
                tensor.layer.add_loss(self._loss_of(tensor))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._strength.assign(self._at(int(self.model.optimizer.iterations.numpy())))

    def on_train_end(self, logs: Any = None) -> None:
        self._strength.assign(0.0)  # a next `fit` without it is not dampened

    def _at(self, step: int) -> float:
        strength = float(self.schedule(step))
        if not 0.0 <= strength < math.inf:
            raise ValueError(
                f"Dampening: strength={strength} at step {step} has to be finite, 0 or positive."
            )
        return strength

    def _loss_of(self, tensor: QuantizedTensor) -> Callable[[], tf.Tensor]:
        def loss() -> tf.Tensor:
            level, step = levels_of_weight(tensor)
            where = tensor.variable / tf.stop_gradient(step)
            inside = tf.abs(where - tf.stop_gradient(level)) <= 0.5  # clipped weights stay
            square = tf.square(where - tf.stop_gradient(level))
            return self._strength * tf.reduce_sum(tf.where(inside, square, tf.zeros_like(square)))

        return loss
