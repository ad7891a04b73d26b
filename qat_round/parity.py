"""How far a `.tflite` is from Keras: figures, a verdict, a table."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from .tables import as_text

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
    """One output of the file against Keras's."""
    if ours.size != theirs.size:
        raise ValueError(
            f"verify_tflite: output {name!r} has shape {ours.shape} in Keras and {theirs.shape} in "
            "the file; these are not outputs for the same inputs."
        )
    apart = np.abs(ours.astype(np.float64).ravel() - theirs.astype(np.float64).ravel()) / step
    classes = ours.reshape(len(ours), -1)
    top1 = None
    if classes.shape[1] > 1:
        others = theirs.reshape(classes.shape)
        picked = np.take_along_axis(others, classes.argmax(1)[:, np.newaxis], axis=1)[:, 0]
        top1 = float(np.mean(picked >= others.max(1)))
    return OutputParity(
        name=name,
        step=step,
        max_steps=float(apart.max()),
        mean_steps=float(apart.mean()),
        within_one=float(np.mean(apart <= 1.0 + _TIE)),
        same=float(np.mean(apart < 0.5)),
        top1_agreement=top1,
    )


def _near(parities: tuple[OutputParity, ...], within_one: float, furthest: float) -> bool:
    near = (p.within_one >= within_one and p.max_steps <= furthest + _TIE for p in parities)
    return all(near)


def _row(parity: OutputParity, kind: str) -> list[str]:
    top1 = "-" if parity.top1_agreement is None else f"{parity.top1_agreement:.2%}"
    shares = [f"{parity.same:.2%}", f"{parity.within_one:.2%}"]
    distances = [f"{parity.mean_steps:.4f}", f"{parity.max_steps:.3g}"]
    return [parity.name + kind, f"{parity.step:.4g}", *shares, *distances, top1]
