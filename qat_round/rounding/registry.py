"""Rounding methods by name: one table, filled by `@register`, read by `get` and `names`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from qat_round._lazy import tf
from qat_round._validate import nearest
from qat_round.rounding.base import Rounder

_METHODS: dict[str, type[Rounder]] = {}

R = TypeVar("R", bound=type[Rounder])


def register(name: str) -> Callable[[R], R]:
    """Class decorator that makes a Rounder known by a name.

    Args:
        name: the name, unused so far.

    Raises:
        ValueError: if the name is taken.
        TypeError: if the class is no Rounder.

    Example:
        >>> @register("floor_half")
        ... @dataclasses.dataclass(frozen=True)
        ... class FloorHalf(Rounder):
        ...     def soft(self, x):
        ...         return 0.5 * (x + tf.floor(x))
        >>> float(get("floor_half")(1.5))
        1.25
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"A rounder's name is a non-empty string, not {name!r}.")
    if name in _METHODS:
        raise ValueError(
            f"The rounder name {name!r} is taken by {_METHODS[name].__name__}. "
            f"Choose another; taken are {list(_METHODS)}."
        )

    def add(cls: R) -> R:
        if not (isinstance(cls, type) and issubclass(cls, Rounder)):
            raise TypeError(f"@register({name!r}) decorates subclasses of qr.Rounder, not {cls!r}.")
        cls.name = name
        _METHODS[name] = cls
        return cls

    return add


def names() -> list[str]:
    """The names of all rounding methods, in the order in which they were registered.

    Example:
        >>> names()[:6]
        ['sigmoid', 'ramp', 'fourier', 'sine', 'expected', 'stochastic']
    """
    return list(_METHODS)


def get(rounder: str | Mapping[str, Any] | Rounder, **knobs: Any) -> Rounder:
    """A Rounder from its name, its config, or itself, with settings changed as given.

    Args:
        rounder: a name of `names()`, a dict as from `Rounder.get_config()`, or a Rounder.
        **knobs: settings to change, such as `slope=10.0` or `forward="hard"`.

    Returns:
        The Rounder.

    Raises:
        ValueError: for an unknown name or setting, or a setting out of range.
        TypeError: if `rounder` is none of the three.

    Example:
        >>> get("sigmoid", slope=10.0)
        SigmoidRound(forward='soft', slope=10.0, center=0.5, normalize=True)
        >>> get(get("ramp").get_config()) == get("ramp")
        True
    """
    if isinstance(rounder, Rounder):
        return _with_settings(type(rounder), _fields(rounder) | knobs)
    if isinstance(rounder, str):
        return _with_settings(_find(rounder), knobs)
    if isinstance(rounder, Mapping):
        if "name" not in rounder:
            raise ValueError(
                f"A rounder's dict needs the key 'name', one of {names()}; got {dict(rounder)}."
            )
        settings = {k: v for k, v in rounder.items() if k != "name"}
        return _with_settings(_find(rounder["name"]), settings | knobs)
    raise TypeError(
        f"rounder={rounder!r} is a {type(rounder).__name__}; give a name out of {names()}, "
        "a dict from get_config(), or a qr.Rounder."
    )


def round(x: Any, rounder: Any = "ste", training: Any = True) -> tf.Tensor:  # noqa: A001
    """Rounds a tensor or array to whole numbers, differentiably.

    Args:
        x: any float tensor, array or number, in steps.
        rounder: what `get` takes.
        training: whether the method decides (True) or the hard value is given (False).

    Returns:
        A tensor of x's shape and dtype.

    Example:
        >>> round([0.1, 0.5, 0.7], "ramp").numpy().tolist()
        [0.0, 1.0, 1.0]
    """
    return get(rounder)(x, training=training)


def _find(name: Any) -> type[Rounder]:
    if name not in _METHODS:
        raise ValueError(
            f"Unknown rounder {name!r}; allowed are {names()}.{nearest(name, names())} "
            "Your own methods are added with @qr.register(name)."
        )
    return _METHODS[name]


def _fields(rounder: Rounder) -> dict[str, Any]:
    return {f.name: getattr(rounder, f.name) for f in dataclasses.fields(rounder)}


def _with_settings(cls: type[Rounder], settings: Mapping[str, Any]) -> Rounder:
    allowed = [f.name for f in dataclasses.fields(cls)]
    for name in settings:
        if name not in allowed:
            raise ValueError(
                f"{cls.__name__} has no setting {name!r}; it has {allowed}.{nearest(name, allowed)}"
            )
    return cls(**settings)
