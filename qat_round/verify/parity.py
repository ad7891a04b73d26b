"""How far a `.tflite` is from Keras: figures, a verdict, a table."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from qat_round._tables import as_text

WITHIN_ONE, FURTHEST = 0.99, 3.0  # what `ok` asks of the outputs
LOGITS_WITHIN_ONE, LOGITS_FURTHEST = 0.999, 2.0  # and of what goes into a closing softmax
_TIE = 1e-3  # a float comparison's slack, in steps


@dataclasses.dataclass(frozen=True)
class OutputParity:
    """How far one output of the file is from Keras's.

    Args:
        name: the output's name.
        step: one step of its grid, real units.
        max_steps, mean_steps: largest and mean distance, in steps.
        within_one: share of the values at most one step apart.
        same: share of the values on the very same step.
        top1_agreement: share of the samples whose largest class in Keras is (among) the file's
            largest; None without classes.
    """

    name: str
    step: float
    max_steps: float
    mean_steps: float
    within_one: float
    same: float
    top1_agreement: float | None


@dataclasses.dataclass(frozen=True)
class Parity:
    """What `verify_tflite` found.

    Args:
        outputs: one OutputParity for each output.
        logits: the same for what goes into a closing softmax or sigmoid, which multiplies a step.
        float_operators: operators that compute in float -> how many (QUANTIZE, DEQUANTIZE apart).
        tensor_types: tensor types in the file -> how many.
        file_bytes: its size.
        samples: how many samples were compared.
        allow_float: whether `ok` tolerates float operators.
    """

    outputs: tuple[OutputParity, ...]
    logits: tuple[OutputParity, ...]
    float_operators: dict[str, int]
    tensor_types: dict[str, int]
    file_bytes: int
    samples: int
    allow_float: bool = False

    @property
    def max_steps(self) -> float:
        """Largest distance of any output, in steps."""
        return max(output.max_steps for output in self.outputs)

    @property
    def mean_steps(self) -> float:
        """Mean distance over the outputs, in steps."""
        return float(np.mean([output.mean_steps for output in self.outputs]))

    @property
    def within_one(self) -> float:
        """Share of values at most one step apart, of the worst output."""
        return min(output.within_one for output in self.outputs)

    @property
    def top1_agreement(self) -> float | None:
        """Share of samples with the same class, of the worst output that has classes."""
        shares = [o.top1_agreement for o in self.outputs if o.top1_agreement is not None]
        return min(shares) if shares else None

    @property
    def float_operator_count(self) -> int:
        """How many operators compute in float."""
        return sum(self.float_operators.values())

    @property
    def ok(self) -> bool:
        """Whether the file may ship.

        No float operator (unless allowed); at least 99 % of the outputs within one step and none
        further than three. Behind a softmax or sigmoid the logits are judged instead: 99.9 % within
        one, none further than two.
        """
        if self.float_operators and not self.allow_float:
            return False
        if self.logits:
            return _near(self.logits, LOGITS_WITHIN_ONE, LOGITS_FURTHEST)
        return _near(self.outputs, WITHIN_ONE, FURTHEST)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the figures that the properties give."""
        figures = ("ok", "max_steps", "mean_steps", "within_one", "top1_agreement")
        extra = {name: getattr(self, name) for name in (*figures, "float_operator_count")}
        return {**dataclasses.asdict(self), **extra}

    def table(self) -> str:
        """The findings as text."""
        columns = ("tensor", "step", "same", "within one", "mean", "furthest", "top-1 agree")
        kinds = (("", self.outputs), (" (logits)", self.logits))
        rows = [_row(parity, kind) for kind, parities in kinds for parity in parities]
        text = as_text(f"Keras against the .tflite, {self.samples} samples", columns, rows, 110)
        in_float = self.float_operators or "none"
        return (
            f"{text}float operators: {in_float}; tensors: {self.tensor_types}; "
            f"{self.file_bytes} bytes; {'ok' if self.ok else 'NOT ok'}"
        )


def compare(name: str, ours: np.ndarray, theirs: np.ndarray, step: float) -> OutputParity:
    """One output of the file against Keras's, all at once."""
    comparison = Comparison(name, step)
    comparison.add(ours, theirs)
    return comparison.result()


class Comparison:
    """One output of the file against Keras's, batch by batch: counts are kept, not the values.

    The sum of the distances is exact, so that it does not depend on where batches begin. An output
    in float has no step: 1/255 of what Keras spans stands for it, which is known at the end, and
    until then the distances beyond half of it are kept.

    Args:
        name: the output's name.
        step: one step of its grid, real units; None for an output in float.
    """

    def __init__(self, name: str, step: float | None = None):
        self.name, self._step = name, step
        self._values = self._samples = self._agreeing = self._not_same = self._outside = 0
        self._classes = 0
        self._sums: list[float] = []
        self._furthest = 0.0
        self._undecided = np.zeros(0)
        self._ends: tuple[Any, Any] | None = None

    def add(self, ours: np.ndarray, theirs: np.ndarray) -> None:
        """Counts a batch."""
        if ours.size != theirs.size:
            raise not_the_same(self.name, ours.shape, theirs.shape)
        apart = np.abs(ours.astype(np.float64) - theirs.astype(np.float64).reshape(ours.shape))
        apart = apart.reshape(len(ours), -1) / (self._step or 1.0)
        self._values += apart.size
        self._furthest = float(np.maximum(self._furthest, apart.max()))
        for of_sample in apart.sum(axis=1).tolist():
            _add_exactly(self._sums, of_sample)
        self._add_classes(ours.reshape(apart.shape), theirs.reshape(apart.shape))
        self._add_far(ours, apart)

    def result(self) -> OutputParity:
        """The figures of all that was added."""
        step = self._step or self._spanned() / 255.0 or 1.0
        unit = 1.0 if self._step else step
        self._settle(unit)
        return OutputParity(
            name=self.name,
            step=step,
            max_steps=self._furthest / unit,
            mean_steps=math.fsum(self._sums) / self._values / unit,
            within_one=(self._values - self._outside) / self._values,
            same=(self._values - self._not_same) / self._values,
            top1_agreement=self._agreeing / self._samples if self._classes > 1 else None,
        )

    def _add_classes(self, ours: np.ndarray, theirs: np.ndarray) -> None:
        self._samples, self._classes = self._samples + len(ours), ours.shape[1]
        picked = np.take_along_axis(theirs, ours.argmax(1)[:, np.newaxis], axis=1)[:, 0]
        self._agreeing += int(np.sum(picked >= theirs.max(1)))

    def _add_far(self, ours: np.ndarray, apart: np.ndarray) -> None:
        low, high = ours.min(), ours.max()
        if self._ends is not None:
            low, high = np.minimum(self._ends[0], low), np.maximum(self._ends[1], high)
        self._ends = (low, high)
        unit = 1.0 if self._step else self._spanned() / 255.0
        seen = np.concatenate([self._undecided, apart.ravel()])
        self._undecided = seen[~(seen < 0.5 * unit)]  # NaN is far
        if self._step:
            self._settle(1.0)

    def _settle(self, unit: float) -> None:
        far = self._undecided / unit
        self._not_same += int(np.sum(~(far < 0.5)))
        self._outside += int(np.sum(~(far <= 1.0 + _TIE)))
        self._undecided = np.zeros(0)

    def _spanned(self) -> float:
        low, high = self._ends or (0.0, 0.0)
        return float(high - low)


def not_the_same(name: str, ours: tuple[int, ...], theirs: tuple[int, ...]) -> ValueError:
    """The error for an output whose shapes differ."""
    return ValueError(
        f"verify_tflite: output {name!r} has shape {ours} in Keras and {theirs} in the file; these "
        "are not outputs for the same inputs."
    )


def _add_exactly(partials: list[float], value: float) -> None:
    """Adds to a sum that is kept as numbers which do not overlap, so that nothing is lost.

    Source: Shewchuk 1997, as in Python's `math.fsum`.
    """
    kept = 0
    for partial in list(partials):
        large, small = (value, partial) if abs(value) >= abs(partial) else (partial, value)
        value = large + small
        lost = small - (value - large)
        if lost:
            partials[kept] = lost
            kept += 1
    partials[kept:] = [value]


def _near(parities: tuple[OutputParity, ...], within_one: float, furthest: float) -> bool:
    near = (p.within_one >= within_one and p.max_steps <= furthest + _TIE for p in parities)
    return all(near)


def _row(parity: OutputParity, kind: str) -> list[str]:
    top1 = "-" if parity.top1_agreement is None else f"{parity.top1_agreement:.2%}"
    shares = [f"{parity.same:.2%}", f"{parity.within_one:.2%}"]
    distances = [f"{parity.mean_steps:.4f}", f"{parity.max_steps:.3g}"]
    return [parity.name + kind, f"{parity.step:.4g}", *shares, *distances, top1]
