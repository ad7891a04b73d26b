"""Where to cut a tensor's values: the range that represents them best, from a histogram of them.

Cutting the rarest values makes the steps smaller for all others. At 8 bits the ends are as good as
any; at 2 to 4 bits the right cut decides whether a model works at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_BINS = 4096  # on each side of 0
_COARSE, _FINE = np.linspace(0.01, 1.0, 100), np.linspace(0.93, 1.07, 15)
_TINY = 1e-30


class Levels(NamedTuple):
    """The levels that a range will have.

    Args:
        bits: bit width.
        narrow_range: whether the lowest level is left out.
        symmetric: whether both ends have to shrink together.
    """

    bits: int
    narrow_range: bool
    symmetric: bool

    @property
    def steps(self) -> int:
        """How many steps there are from end to end."""
        return 2**self.bits - 1 - int(self.narrow_range)


class Histogram:
    """How often which values came, over an interval that grows with them; zeros are not counted.

    Zero is on every grid, so that it has no part in any error.
    """

    def __init__(self) -> None:
        self.reach = 0.0  # a power of two once a value was seen
        self.counts = np.zeros(2 * _BINS)
        self.lo = self.hi = 0.0

    def add(self, values: np.ndarray) -> None:
        """Counts values of any shape; all finite."""
        values = np.ravel(values).astype(np.float32)
        values = values[values != 0.0]
        if not values.size:
            return
        self.lo, self.hi = min(self.lo, float(values.min())), max(self.hi, float(values.max()))
        self._reach_to(max(-self.lo, self.hi))
        ends = (-self.reach, self.reach)
        self.counts += np.histogram(values, 2 * _BINS, ends)[0]

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """The middles of the bins that are not empty, and their counts."""
        width = self.reach / _BINS
        used = np.flatnonzero(self.counts)
        return (used - _BINS + 0.5) * width, self.counts[used]

    def _reach_to(self, size: float) -> None:
        if not self.reach:
            self.reach = 2.0 ** np.ceil(np.log2(max(size, _TINY)))
        while size > self.reach:
            kept = self.counts.reshape(-1, 2).sum(1)  # twice as wide bins hold two of the old
            self.counts = np.pad(kept, _BINS // 2)
            self.reach *= 2.0


def best_ends(
    values: Any, counts: Any, ends: Any, levels: Levels, badness: Callable[..., Any]
) -> np.ndarray:
    """The ends within given ones that are least bad.

    One number shrinks both ends if they have to stay in proportion or one is 0; else each end then
    is moved by itself, in turns.

    Args:
        values, counts: what was seen, how often; (n,), or (n, channels) for ends of each channel.
        ends: [lo, hi] at most; (2,) or (2, channels).
        levels: what the range will have.
        badness: called with (values, counts, lo, hi, levels), gives () or (channels,).

    Returns:
        [lo, hi], of the shape of ends.
    """
    ends = np.asarray(ends, np.float64)

    def shrunk(ratios: np.ndarray, which: np.ndarray) -> np.ndarray:
        return _least_bad(values, counts, ends, levels, badness, ratios, which)

    both, none = np.ones_like(ends[0]), np.zeros_like(ends[0])
    ends = shrunk(_COARSE, np.stack([both, both]))
    ends = shrunk(_FINE, np.stack([both, both]))
    if levels.symmetric or not np.any((ends[0] < 0.0) & (ends[1] > 0.0)):
        return ends
    for ratios in (_COARSE, _FINE):
        ends = shrunk(ratios, np.stack([both, none]))
        ends = shrunk(ratios, np.stack([none, both]))
    return ends


def _least_bad(
    values: Any, counts: Any, ends: Any, levels: Levels, badness: Any, ratios: Any, which: Any
) -> np.ndarray:
    best, least = ends, np.full(np.shape(ends[0]), np.inf)
    for ratio in ratios:
        tried = ends * np.where(which > 0.0, ratio, 1.0)
        found = badness(values, counts, tried[0], tried[1], levels)
        best = np.where(found < least, tried, best)
        least = np.minimum(found, least)
    return best


def squared_error(values: Any, counts: Any, lo: Any, hi: Any, levels: Levels) -> Any:
    """Sum of the squared errors of values on the grid over lo .. hi.

    Source: as in TFLite's and MCT's calibration; for learned steps LSQ+ (arXiv:2004.09576).
    """
    step = np.maximum((hi - lo) / levels.steps, _TINY)
    lowest = -np.floor(-lo / step + 0.5)  # of the grid, in steps: zero is a level
    whole = np.clip(np.floor(values / step + 0.5), lowest, lowest + levels.steps)
    return np.sum(counts * np.square(whole * step - values), axis=0)


def divergence(values: Any, counts: Any, lo: Any, hi: Any, levels: Levels) -> Any:
    """Kullback-Leibler divergence of the values' distribution from what the grid leaves of it.

        sum p ln(p/q): p the values cut to lo .. hi; q the rest, evenly over each level's bins

    Source: Migacz 2017, "8-bit inference with TensorRT".
    """
    step = max((hi - lo) / levels.steps, _TINY)
    inside = (values >= lo) & (values <= hi)
    if not inside.any():
        return np.inf
    p = counts * inside
    below, above = counts[values < lo].sum(), counts[values > hi].sum()
    first, last = np.flatnonzero(inside)[[0, -1]]
    cell = np.floor((values - lo) / step + 0.5).astype(np.int64)[inside]
    cell = np.clip(cell, 0, levels.steps)
    mass, bins = np.bincount(cell, p[inside]), np.bincount(cell)
    q = (mass / np.maximum(bins, 1))[cell]
    p[first] += below
    p[last] += above
    p = p[inside]
    return float(np.sum(p / p.sum() * np.log(p / p.sum() / (q / q.sum()))))


def percentile_ends(histogram: Histogram, percentile: float) -> np.ndarray:
    """The ends between which `percentile` % of the values other than 0 lie, as many cut each side.

    A side without values keeps 0 as its end.
    """
    values, counts = histogram.values()
    if not values.size:
        return np.zeros(2)
    share = np.cumsum(counts) / counts.sum()
    cut = (1.0 - percentile / 100.0) / (2.0 if histogram.lo < 0.0 < histogram.hi else 1.0)
    first, last = np.minimum(np.searchsorted(share, [cut, 1.0 - cut]), values.size - 1)
    lo, hi = values[first], values[last]
    return np.array([min(lo, 0.0), max(hi, 0.0)])
