"""`mix`: a weighted mean of two methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from qat_round._lazy import tf
from qat_round._validate import require
from qat_round.rounding.base import Rounder, tensor
from qat_round.rounding.registry import get, register


@register("mix")
@dataclasses.dataclass(frozen=True)
class MixRound(Rounder):
    """A weighted mean of two methods, in value and in gradient.

    With w = weight:
        y     = w a(x) + (1 - w) b(x)
        dL/dx = w a.pull_back(x, dL/dy) + (1 - w) b.pull_back(x, dL/dy)
    Anneal `weight` to go from one method to the other. The knobs of a and b stay as they are given.

    Unit of x and y: steps. Shape and dtype: as x.

    Args:
        a, b: what `qr.get` takes; neither may draw random numbers.
        weight: w, 0 <= weight <= 1, a knob.
        forward: "soft" or "hard".

    Raises:
        ValueError: if weight is outside its interval, or a method draws random numbers.

    Example:
        >>> MixRound("ste", "expected", weight=0.5)(tf.constant([0.2, 0.5])).numpy().tolist()
        [0.10000000149011612, 0.75]

    Source: ours.
    """

    a: Any = "ste"
    b: Any = "expected"
    weight: float = 0.5

    knobs: ClassVar[tuple[str, ...]] = ("weight",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for side in ("a", "b"):
            object.__setattr__(self, side, get(getattr(self, side)))
            require(
                not getattr(self, side).needs_key,
                self,
                f"{side}={getattr(self, side).name!r} draws random numbers, which a mix has not.",
            )
        require(0.0 <= self.weight <= 1.0, self, f"weight={self.weight} has to be in 0..1.")

    @property
    def exempt(self) -> Mapping[str, str]:
        return {**self.a.exempt, **self.b.exempt}

    @property
    def hard_limits(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Both methods at their limits."""
        sides = {"a": self.a, "b": self.b}
        return {k: dataclasses.replace(r, **r.hard_limits) for k, r in sides.items()}

    def soft(self, x: tf.Tensor) -> tf.Tensor:
        return self._mean(x.dtype, self.a.value(x), self.b.value(x))

    def surrogate(self, x: tf.Tensor) -> tf.Tensor:
        return self._mean(x.dtype, self.a.surrogate(x), self.b.surrogate(x))

    def pull_back(self, x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        return self._mean(x.dtype, self.a.pull_back(x, dy), self.b.pull_back(x, dy))

    def _mean(self, dtype: tf.DType, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        return b + tensor(self.weight, dtype) * (a - b)


def mix(a: Any, b: Any, weight: float = 0.5) -> MixRound:
    """`MixRound(a, b, weight)`.

    Example:
        >>> mix("ste", "sine", 0.25).weight
        0.25
    """
    return MixRound(a, b, weight)
