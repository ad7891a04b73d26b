"""Schedules: training step -> value, in plain Python floats.

Each is a frozen dataclass, so that it can be printed, compared and written to a file; call it with
a step. Steps before 0 count as 0, steps past the end keep the last value.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class _Ramp:
    """From `start` to `stop` in `steps` steps.

    Args:
        start, stop: values at the first step and from the last on.
        steps: how many steps it takes, >= 1.

    Raises:
        ValueError: if steps is less than 1 or an end is not finite.
        TypeError: if an end is no number.
    """

    start: float
    stop: float
    steps: int

    def __post_init__(self) -> None:
        whole = isinstance(self.steps, numbers.Integral) and not isinstance(self.steps, bool)
        if not whole or self.steps < 1:
            raise ValueError(
                f"{type(self).__name__}: steps={self.steps!r} has to be a whole number >= 1."
            )
        object.__setattr__(self, "steps", int(self.steps))
        for end in ("start", "stop"):
            object.__setattr__(self, end, _number(getattr(self, end), type(self).__name__, end))
        if not (math.isfinite(self.start) and math.isfinite(self.stop)):
            raise ValueError(
                f"{type(self).__name__}: start={self.start}, stop={self.stop} have to be finite; "
                "a knob near its limit (1e6, say) is as good as infinity."
            )

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return self.stop  # exactly, which start + (stop - start) need not be
        return self._between(max(int(step), 0) / self.steps)

    def _between(self, share: float) -> float:
        raise TypeError(f"{type(self).__name__} has to define _between(share).")

    def get_config(self) -> dict[str, Any]:
        """Plain data from which `get` makes an equal schedule."""
        return {"name": type(self).__name__, **dataclasses.asdict(self)}


class linear(_Ramp):  # noqa: N801
    """A straight line: start + (stop - start) t, t = step/steps.

    Example:
        >>> linear(1.0, 3.0, steps=4)(1)
        1.5
    """

    def _between(self, share: float) -> float:
        return self.start + (self.stop - self.start) * share


class cosine(_Ramp):  # noqa: N801
    """Half a cosine wave: start + (stop - start) (1 - cos(pi t))/2, t = step/steps.

    Example:
        >>> cosine(1.0, 3.0, steps=4)(2)
        2.0
    """

    def _between(self, share: float) -> float:
        return self.start + (self.stop - self.start) * 0.5 * (1.0 - math.cos(math.pi * share))


class exponential(_Ramp):  # noqa: N801
    """An even ratio from step to step: start (stop/start)^t, t = step/steps.

    Both ends have to be positive; right for slopes and gains, which span decades.

    Example:
        >>> round(exponential(1.0, 100.0, steps=4)(2), 6)
        10.0
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start <= 0.0 or self.stop <= 0.0:
            raise ValueError(f"exponential: start={self.start}, stop={self.stop} must be positive.")

    def _between(self, share: float) -> float:
        return self.start * (self.stop / self.start) ** share


@dataclasses.dataclass(frozen=True)
class piecewise:  # noqa: N801
    """Constant between boundaries: values[i] from boundaries[i-1] on.

    Args:
        boundaries: steps, rising.
        values: one more than boundaries.

    Raises:
        ValueError: if the numbers do not fit or the boundaries do not rise.
        TypeError: if a boundary is no whole number or a value no number.

    Example:
        >>> [piecewise((2, 4), (1.0, 5.0, 9.0))(step) for step in (0, 2, 7)]
        [1.0, 5.0, 9.0]
    """

    boundaries: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(isinstance(step, numbers.Integral) for step in self.boundaries):
            raise TypeError(f"piecewise: boundaries={self.boundaries} have to be whole numbers.")
        object.__setattr__(self, "boundaries", tuple(int(step) for step in self.boundaries))
        values = tuple(_number(value, "piecewise", "values") for value in self.values)
        object.__setattr__(self, "values", values)
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"piecewise: {len(self.boundaries)} boundaries need {len(self.boundaries) + 1} "
                f"values, not {len(self.values)}."
            )
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"piecewise: boundaries={self.boundaries} have to rise.")

    def __call__(self, step: int) -> float:
        return self.values[sum(step >= boundary for boundary in self.boundaries)]

    def get_config(self) -> dict[str, Any]:
        """Plain data from which `get` makes an equal schedule."""
        return {
            "name": "piecewise",
            "boundaries": list(self.boundaries),
            "values": list(self.values),
        }


def _number(value: Any, owner: str, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{owner}: {what}={value!r} has to be a number.")
    return float(value)


_SCHEDULES = {cls.__name__: cls for cls in (linear, cosine, exponential, piecewise)}


def get(config: Mapping[str, Any] | Any) -> Any:
    """A schedule from its config, or the callable itself.

    Raises:
        ValueError: for an unknown name or setting.
        TypeError: for what is neither.

    Example:
        >>> get(linear(0.0, 1.0, 10).get_config())
        linear(start=0.0, stop=1.0, steps=10)
    """
    if callable(config):
        return config
    if not isinstance(config, Mapping):
        raise TypeError(
            f"A schedule is a function of the step, or a dict with a 'name' out of "
            f"{sorted(_SCHEDULES)}, not {config!r}."
        )
    settings = dict(config)
    name = settings.pop("name", None)
    if name not in _SCHEDULES:
        raise ValueError(f"Unknown schedule {name!r}; allowed are {sorted(_SCHEDULES)}.")
    allowed = [field.name for field in dataclasses.fields(_SCHEDULES[name])]
    if sorted(settings) != sorted(allowed):
        raise ValueError(f"The schedule {name!r} takes {allowed}, not {sorted(settings)}.")
    return _SCHEDULES[name](**settings)
