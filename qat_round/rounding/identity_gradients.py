"""Methods whose gradient is 1 everywhere: `expected`, `stochastic` and `ste`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from qat_round._lazy import tf
from qat_round._validate import require, whole
from qat_round.rounding.base import Rounder, hard_round
from qat_round.rounding.draws import even_draws
from qat_round.rounding.registry import register


class _IdentityGradient(Rounder):
    """dy/dx = 1."""

    @property
    def is_native(self) -> bool:
        return self.is_hard and type(self).pull_back is _IdentityGradient.pull_back

    def surrogate(self, x: tf.Tensor) -> tf.Tensor:
        return tf.identity(x)

    def pull_back(self, x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        return dy


@register("expected")
@dataclasses.dataclass(frozen=True)
class ExpectedRound(_IdentityGradient):
    """Does not round while training; rounds hard outside of it.

    With r = x - floor(x), stochastic rounding goes up with probability r, so its mean is
        y     = floor(x) + r = x
        dy/dx = 1

    Unit of x and y: steps. Shape and dtype: as x.

    Args:
        forward: "soft", or "hard" which makes it the straight-through estimator.

    Example:
        >>> x = tf.constant([0.2, 0.5, 1.7])
        >>> ExpectedRound()(x).numpy().tolist() == x.numpy().tolist()
        True
        >>> ExpectedRound()(x, training=False).numpy().tolist()
        [0.0, 1.0, 2.0]

    Source: the expectation answer to "a differentiable round in TensorFlow?".
    """

    @property
    def exempt(self) -> Mapping[str, str]:
        return {"hard_limit": "its training value is x itself; only training=False rounds"}

    def soft(self, x: tf.Tensor) -> tf.Tensor:
        return tf.identity(x)


@register("stochastic")
@dataclasses.dataclass(frozen=True)
class StochasticRound(_IdentityGradient):
    """Rounds up or down by chance while training, right on average; hard outside of it.

    With r = x - floor(x) and u drawn evenly from [0, 1) for each value:
        y     = floor(x) + [u < r],   E[y] = x
        dy/dx = 1
    Integers are fixed points. As a function, a seed gives the same draw for the same shape, call
    after call; in a quantizer the draws of each training step differ, and repeat from run to run.

    Unit of x and y: steps. Shape and dtype: as x.

    Args:
        seed: a whole number, or None for TensorFlow's global seed.
        forward: "soft", or "hard" which makes it the straight-through estimator.

    Raises:
        ValueError: if seed is neither, or does not fit into 64 bits.

    Example:
        >>> up = StochasticRound(seed=1)(tf.fill([10_000], 0.3))
        >>> 0.28 < float(tf.reduce_mean(up)) < 0.32
        True

    Source: Gupta et al. 2015, arXiv:1502.02551, section 3.1.
    """

    seed: int | None = None

    needs_key: ClassVar[bool] = True
    key: ClassVar[Any] = None  # set on a bound copy

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed is not None:
            object.__setattr__(self, "seed", whole(self.seed, self, "seed", least=-(2**63)))
            require(self.seed < 2**63, self, f"seed={self.seed} does not fit into 64 bits.")

    @property
    def exempt(self) -> Mapping[str, str]:
        reasons = {"hard_limit": "it rounds by chance, not to the nearest"}
        if self.seed is None:
            reasons |= dict.fromkeys(
                ("cells", "graph", "repeatable"), "without a seed each call draws anew"
            )
        return reasons

    def soft(self, x: tf.Tensor) -> tf.Tensor:
        below = tf.floor(x)
        key = self.draw_key() if self.key is None else self.key
        return below + tf.cast(even_draws(key, x) < x - below, x.dtype)


@register("ste")
@dataclasses.dataclass(frozen=True)
class StraightThrough(_IdentityGradient):
    """Rounds hard; its gradient is that of the identity (straight-through estimator).

        y     = x - (stop_gradient(x) - round(x)) = floor(x + 1/2)
        dy/dx = 1
    Ties go up. It is hard by nature: `forward` changes nothing.

    Unit of x and y: steps. Shape and dtype: as x.

    Args:
        forward: "soft" and "hard" are the same here.

    Example:
        >>> StraightThrough()(tf.constant([0.2, 0.5, -0.5])).numpy().tolist()
        [0.0, 1.0, 0.0]

    Source: Bengio et al. 2013, arXiv:1308.3432, section 3.1.
    """

    @property
    def is_hard(self) -> bool:
        return True

    def soft(self, x: tf.Tensor) -> tf.Tensor:
        return hard_round(x)
