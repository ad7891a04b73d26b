"""Means, intervals and plain verdicts for few paired numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Student's t, two-sided 95 %, by degrees of freedom
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_T |= {10: 2.228, 11: 2.201, 12: 2.179, 14: 2.145, 16: 2.120, 19: 2.093, 24: 2.064, 29: 2.045}


class Interval(NamedTuple):
    """A mean of differences, and the 95 % interval of Student's t around it.

    Args:
        mean: of the differences.
        low, high: the interval's ends.
        seeds: how many differences.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def verdict(self) -> str:
        """What may be said of it."""
        if self.low > 0.0:
            return "better"
        return "worse" if self.high < 0.0 else "no difference beyond the seeds"

    def __str__(self) -> str:
        ends = f"[{self.low:+.2f}, {self.high:+.2f}]"
        return f"{self.mean:+.2f} {ends}, {self.seeds} seeds: {self.verdict}"


def paired_difference(differences: Sequence[float]) -> Interval:
    """The mean of paired differences with its 95 % interval, mean +- t sd/sqrt(n).

    Args:
        differences: one for each seed; at least two.

    Raises:
        ValueError: for fewer than two, or one that is not finite.

    Example:
        >>> print(paired_difference([1.0, 2.0, 3.0]))
        +2.00 [-0.48, +4.48], 3 seeds: no difference beyond the seeds
    """
    values = np.asarray(differences, float)
    if values.size < 2 or not np.isfinite(values).all():
        raise ValueError(
            f"paired_difference: {list(differences)} has to be two or more finite numbers, one for "
            "each seed; one seed says nothing about the next."
        )
    half = student_t(values.size - 1) * float(values.std(ddof=1)) / math.sqrt(values.size)
    mean = float(values.mean())
    return Interval(mean, mean - half, mean + half, int(values.size))


def student_t(freedom: int) -> float:
    """The two-sided 95 % point of Student's t; between the table's rows the more careful one."""
    if freedom > max(_T):
        return _T[max(_T)]
    return _T[max(k for k in _T if k <= freedom)]
