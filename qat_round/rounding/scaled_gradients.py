"""Hard values whose gradient is the identity's, scaled: `ewgs`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from qat_round._lazy import tf
from qat_round._validate import require
from qat_round.rounding.base import Rounder, hard_round, tensor
from qat_round.rounding.registry import register
from qat_round.rounding.trig import nearest_and_rest


@register("ewgs")
@dataclasses.dataclass(frozen=True)
class ElementWiseScaling(Rounder):
    """Straight-through, but the gradient is scaled by how far rounding moved the value, and where.

    With d = delta, n the nearest integer (ties up) and g the incoming gradient dL/dy:
        y     = n
        dL/dx = g (1 + d sign(g) (x - n))
    So a value that the step is about to push away from its level gets a smaller gradient, one that
    is pushed back gets a larger one: values leave the thresholds between levels. d = 0 is
    straight-through. Integers are fixed points; the gradient jumps at ties.

    Unit of x and y: steps. Shape and dtype: as x.

    Args:
        delta: d, 0 <= d < 2, a knob; from 2 on gradients near a threshold would change their sign.
        forward: "soft" or "hard"; both are the hard value here.

    Raises:
        ValueError: if delta is outside its interval.

    Example:
        >>> x = tf.Variable([0.4, 0.6])
        >>> with tf.GradientTape() as tape:
        ...     y = ElementWiseScaling(delta=0.5)(x)
        >>> tape.gradient(y, x).numpy().astype(float).round(3).tolist()  # dL/dy is 1
        [1.2, 0.8]

    Source: Lee et al. 2021, arXiv:2104.00903, equation 3.
    """

    delta: float = 0.2

    knobs: ClassVar[tuple[str, ...]] = ("delta",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0.0 <= self.delta < 2.0,
            self,
            f"delta={self.delta} has to be in 0 <= delta < 2 (0 is straight-through, 0.2 usual).",
        )

    @property
    def exempt(self) -> Mapping[str, str]:
        return {
            "gradient": "it depends on the sign of the incoming gradient: no curve's derivative"
        }

    def soft(self, x: tf.Tensor) -> tf.Tensor:
        return hard_round(x)

    def pull_back(self, x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        _, rest = nearest_and_rest(x)
        return dy + tensor(self.delta, x.dtype) * tf.abs(dy) * rest
