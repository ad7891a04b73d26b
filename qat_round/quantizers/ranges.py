"""Ranges: which real interval a tensor's grid stands for, and how it is found and kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from qat_round._compat import tf
from qat_round._validate import nearest, real
from qat_round.numerics.graph_function import one_call

FIRST_GUESS = (-6.0, 6.0)  # TFMOT's; never used for numbers that ship

_RANGES: dict[str, type[Range]] = {}
C = TypeVar("C", bound="type[Range]")


@dataclasses.dataclass(frozen=True)
class Range:
    """Base of all ranges: from the old ends and this batch's ends to the new ones.

    A subclass defines `update(old, new, seen)`, where old and new are [lo, hi] and seen is the
    number of batches before this one (a float tensor), and says in `follows_data` whether training
    moves the range.
    """

    name: ClassVar[str] = ""
    follows_data: ClassVar[bool] = True
    learns: ClassVar[bool] = False  # whether it has a state that the optimizer trains

    def update(self, old: tf.Tensor, new: tf.Tensor, seen: tf.Tensor) -> tf.Tensor:
        """The new ends, stacked as [lo, hi]."""
        raise TypeError(f"{type(self).__name__} has to define update(old, new, seen).")

    def make_state(self, layer: Any, name: str, shape: tuple[int, ...]) -> dict[str, Any]:
        """The layer weights that it needs besides the ends, by role."""
        return {}

    def reset(self, weights: dict[str, Any]) -> None:
        """Puts its state to where the stored ends are the range."""

    def ends(self, weights: dict[str, Any], levels: int) -> tuple[Any, Any]:
        """The range as it is now; `levels` is the number of steps from end to end."""
        return weights["min_var"], weights["max_var"]

    def get_config(self) -> dict[str, Any]:
        """Plain data from which `get_range` makes an equal Range."""
        return {"name": self.name, **dataclasses.asdict(self)}


def named(name: str) -> Callable[[C], C]:
    """Class decorator that makes a Range known by a name."""

    def add(cls: C) -> C:
        cls.name = name
        _RANGES[name] = cls
        return cls

    return add


@named("last_value")
@dataclasses.dataclass(frozen=True)
class LastValue(Range):
    """The range of the last batch: right for weights."""

    def update(self, old: tf.Tensor, new: tf.Tensor, seen: tf.Tensor) -> tf.Tensor:
        return new


@named("moving_average")
@dataclasses.dataclass(frozen=True)
class MovingAverage(Range):
    """A moving average of the batches' ranges: right for activations.

        range += rate (batch's range - range),   rate = max(1 - decay, 1/(seen + 1))
    So the first batch sets it, the next ones are averaged evenly, and from 1/(1 - decay) batches on
    the average moves. (TFMOT's starts at [-6, 6] and takes thousands of steps to leave it.)

    Args:
        decay: 0 <= decay < 1.

    Raises:
        ValueError: if decay is outside of its interval.
        TypeError: if it is no number.
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        object.__setattr__(self, "decay", real(self.decay, self, "decay"))
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"MovingAverage: decay={self.decay} has to be in 0 <= decay < 1.")

    def update(self, old: tf.Tensor, new: tf.Tensor, seen: tf.Tensor) -> tf.Tensor:
        return old + tf.maximum(1.0 - self.decay, 1.0 / (seen + 1.0)) * (new - old)


@named("all_values")
@dataclasses.dataclass(frozen=True)
class AllValues(Range):
    """The smallest and the largest value of all batches so far."""

    def update(self, old: tf.Tensor, new: tf.Tensor, seen: tf.Tensor) -> tf.Tensor:
        wider = tf.stack([tf.minimum(old[0], new[0]), tf.maximum(old[1], new[1])])
        return tf.where(seen > 0.0, wider, new)


@named("fixed")
@dataclasses.dataclass(frozen=True)
class Fixed(Range):
    """A range that training does not move: as given, or as `qr.calibrate` found it.

    Args:
        lo, hi: ends, real units, lo <= 0 <= hi and lo < hi; both or neither.

    Raises:
        ValueError: if the ends do not enclose 0, are infinite, or only one is given.
        TypeError: if they are no numbers.
    """

    lo: float | None = None
    hi: float | None = None

    follows_data: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if (self.lo is None) != (self.hi is None):
            raise ValueError(f"Fixed: give both ends or neither, not lo={self.lo}, hi={self.hi}.")
        if self.lo is not None and self.hi is not None:
            for end in ("lo", "hi"):
                object.__setattr__(self, end, real(getattr(self, end), self, end))
            finite = math.isfinite(self.lo) and math.isfinite(self.hi)
            if not (finite and self.lo <= 0.0 <= self.hi and self.lo < self.hi):
                raise ValueError(
                    f"Fixed: lo={self.lo}, hi={self.hi} has to enclose 0 (lo <= 0 <= hi, lo < hi, "
                    "both finite), because TFLite's grids hold 0 exactly."
                )

    def update(self, old: tf.Tensor, new: tf.Tensor, seen: tf.Tensor) -> tf.Tensor:
        return old


def range_names() -> list[str]:
    """The names of all ranges."""
    return list(_RANGES)


def get_range(range_: str | Mapping[str, Any] | Range) -> Range:
    """A Range from its name, its config, or itself.

    Raises:
        ValueError: for an unknown name or setting.
        TypeError: if it is none of the three.

    Example:
        >>> get_range({"name": "fixed", "lo": 0.0, "hi": 6.0})
        Fixed(lo=0.0, hi=6.0)
    """
    if isinstance(range_, Range):
        return range_
    config = {"name": range_} if isinstance(range_, str) else range_
    if not isinstance(config, Mapping):
        raise TypeError(
            f"range={range_!r} is a {type(range_).__name__}; give a name out of {range_names()}, "
            "a dict with a 'name', or a qr.ranges.Range."
        )
    name = config.get("name")
    if name not in _RANGES:
        raise ValueError(
            f"Unknown range {name!r}; allowed are {range_names()}."
            f"{nearest(str(name), range_names())}"
        )
    settings = {k: v for k, v in config.items() if k != "name"}
    allowed = [f.name for f in dataclasses.fields(_RANGES[name])]
    for setting in settings:
        if setting not in allowed:
            raise ValueError(f"The range {name!r} has no setting {setting!r}; it has {allowed}.")
    return _RANGES[name](**settings)


def measure(
    x: tf.Tensor, axis: int | None, symmetric: bool, bits: int, narrow_range: bool
) -> tf.Tensor:
    """The ends [lo, hi] of a batch's values, holding 0, over all replicas; float32.

    Args:
        x: the values; reduced over every axis but `axis`.
        axis: the channels' axis, or None.
        symmetric: widen to the smallest range whose grid has 0 in its middle.
        bits, narrow_range: the grid's, which say where a symmetric grid's middle is.

    Returns:
        Shape (2,), or (2, channels); NaN if there are no values at all, in any replica.
    """
    x = tf.cast(x, tf.float32)
    over = None if axis is None else [i for i in range(x.shape.rank) if i != axis % x.shape.rank]
    lo, hi = _over_replicas(tf.reduce_min(x, axis=over), tf.reduce_max(x, axis=over))
    ratio = 0.0  # of the ends, hi / -lo
    if symmetric:
        ratio = 1.0 if narrow_range else (2**bits - 2) / 2**bits
    return one_call(_holding_zero, lo, hi, ratio=ratio, may_be_empty=not x.shape.num_elements())


def _holding_zero(lo: tf.Tensor, hi: tf.Tensor, ratio: float, may_be_empty: bool) -> tf.Tensor:
    """[lo, hi] moved to hold 0, and to a ratio of hi / -lo if that is not 0."""
    is_empty = lo > hi  # +inf and -inf, the ends of nothing
    lo, hi = tf.minimum(lo, 0.0), tf.maximum(hi, 0.0)
    if may_be_empty:
        lo, hi = tf.where(is_empty, math.nan, lo), tf.where(is_empty, math.nan, hi)
    if ratio:
        lo, hi = tf.minimum(lo, -hi / ratio), tf.maximum(hi, -lo * ratio)
    return tf.stack([lo, hi])


def replicas() -> int:
    """How many replicas take this step together; 1 outside of a strategy."""
    replica = tf.distribute.get_replica_context()
    return 1 if replica is None else int(replica.num_replicas_in_sync)


def _over_replicas(lo: tf.Tensor, hi: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The least and the greatest over all replicas of a distributed step."""
    if replicas() == 1:
        return lo, hi
    ends = tf.distribute.get_replica_context().all_gather(tf.stack([lo, -hi])[tf.newaxis], axis=0)
    least = tf.reduce_min(ends, axis=0)
    return least[0], -least[1]
