"""What to quantize and how, as plain frozen data: `TensorSpec`, `LayerSpec`.

`None` in a TensorSpec means "as the base scheme has it"; `None` in place of a TensorSpec means
"leave it in float".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from qat_round._validate import nearest
from qat_round.numerics.grid import check_bits
from qat_round.quantizers.ranges import Range, get_range
from qat_round.quantizers.weight_lr_scale import checked_rate
from qat_round.rounding import Rounder, get, names


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """How one kind of tensor is quantized; `None` leaves a setting as the base scheme has it.

    Args:
        bits: 2 to 16.
        rounder: what `qr.get` takes.
        range: what `qr.ranges.get_range` takes.
        symmetric: keep 0 in the middle of the grid.
        per_axis: one grid for each channel.
        narrow_range: leave out the lowest level.
        rate: of weights alone: how many steps of the optimizer one of its steps is to be for them,
            w <- w0 + rate (w1 - w0). At few bits the next level is far for a fine-tuning's rate.

    Raises:
        ValueError: for bits outside of 2..16, an unknown rounder or range, or a rate that is not
            positive and finite.
        TypeError: for a flag that is no bool.

    Example:
        >>> TensorSpec(bits=4, rounder="sine").rounder
        SineRound(forward='soft', iterations=1, identity=0.0)
    """

    bits: int | None = None
    rounder: Any = None
    range: Any = None
    symmetric: bool | None = None
    per_axis: bool | None = None
    narrow_range: bool | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.bits is not None:
            check_bits(self.bits)
        if self.rounder is not None:
            object.__setattr__(self, "rounder", get(self.rounder))
        if self.range is not None:
            object.__setattr__(self, "range", get_range(self.range))
        if self.rate is not None:
            object.__setattr__(self, "rate", checked_rate(self.rate, self))
        for flag in ("symmetric", "per_axis", "narrow_range"):
            if not isinstance(getattr(self, flag), bool | None):
                raise TypeError(
                    f"TensorSpec: {flag}={getattr(self, flag)!r} has to be True, False or None."
                )

    def over(self, base: TensorSpec) -> TensorSpec:
        """This spec, with `base` where this one says nothing."""
        return dataclasses.replace(base, **self.given())

    def given(self) -> dict[str, Any]:
        """The settings that are not None."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if value is not None}

    def get_config(self) -> dict[str, Any]:
        """Plain data: only what is given, so it fits TOML too (which has no null)."""
        return {
            name: _without_none(value.get_config())
            if isinstance(value, (Rounder, Range))
            else value
            for name, value in self.given().items()
        }


def tensor_spec(given: Any, what: str) -> TensorSpec | None:
    """A TensorSpec from one, from a dict of its fields, from a rounder, or None for float.

    Raises:
        TypeError: if it is none of these.
        ValueError: for an unknown field, rounder or range.
    """
    if given is None or isinstance(given, TensorSpec):
        return given
    fields = [f.name for f in dataclasses.fields(TensorSpec)]
    if isinstance(given, Mapping) and "name" not in given:
        only(given, fields, f"{what}: TensorSpec")
        return TensorSpec(**given)
    if isinstance(given, (str, Mapping, Rounder)):
        return TensorSpec(rounder=given)
    raise TypeError(
        f"{what}={given!r} is a {type(given).__name__}; give a rounder's name out of {names()}, "
        "a qr.Rounder, a qr.TensorSpec, or None for float."
    )


def _without_none(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that are given; None is the default of every one that takes it."""
    return {name: value for name, value in config.items() if value is not None}


def only(config: Mapping[str, Any], allowed: Iterable[str], owner: str) -> None:
    """Raises a ValueError for a key that is not allowed, with the nearest that is."""
    allowed = list(allowed)
    for key in config:
        if key not in allowed:
            raise ValueError(
                f"{owner} has no setting {key!r}; it has {allowed}.{nearest(key, allowed)}"
            )


_NOT_GIVEN: Any = object()
_STATE_BITS = (None, 8, 16)


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """How one layer is quantized: its weights, and what it gives.

    Args:
        weights: a TensorSpec, what `qr.get` takes (a rounder), or None for float weights; or one of
            these for each weight by its attribute, {"kernel": ..., "cell.kernel": ...}; those of a
            built-in layer that are not named are quantized as ever, of a custom layer not at all.
        activations: the same for the layer's output and activation.
        outputs: another word for `activations`; give one of the two.
        state_bits: of what a recurrent layer computes from step to step, where its activations have
            8: 16 (None), as TFLite's own LSTM has its state, or 8, for devices that have no more.

    Raises:
        TypeError: if both `activations` and `outputs` are given.
        ValueError: for other `state_bits` than 8 and 16.

    Example:
        >>> LayerSpec(weights=TensorSpec(bits=4), activations="ste").activations.rounder.name
        'ste'
        >>> LayerSpec(weights={"kernel": "sine"}, outputs=None).weight("kernel").rounder.name
        'sine'
    """

    weights: Any = TensorSpec()
    activations: Any = TensorSpec()
    outputs: dataclasses.InitVar[Any] = _NOT_GIVEN
    state_bits: int | None = None

    def __post_init__(self, outputs: Any) -> None:
        if self.state_bits not in _STATE_BITS:
            allowed = list(_STATE_BITS)
            raise ValueError(f"LayerSpec: state_bits={self.state_bits!r}; allowed are {allowed}.")
        if outputs is not _NOT_GIVEN:
            if self.activations != TensorSpec():
                raise TypeError("LayerSpec: activations and outputs are one thing; give one.")
            object.__setattr__(self, "activations", outputs)
        object.__setattr__(self, "weights", _weight_specs(self.weights))
        object.__setattr__(self, "activations", tensor_spec(self.activations, "activations"))
        if self.activations is not None and self.activations.rate is not None:
            raise ValueError("LayerSpec: activations have no rate; weights do.")

    @property
    def by_weight(self) -> dict[str, TensorSpec | None]:
        """The weights that have a spec of their own, by attribute."""
        return dict(self.weights) if isinstance(self.weights, tuple) else {}

    def weight(self, attribute: str) -> TensorSpec | None:
        """The spec of one weight."""
        if isinstance(self.weights, tuple):
            return self.by_weight.get(attribute, TensorSpec())
        return self.weights

    def over(self, base: LayerSpec) -> LayerSpec:
        """This spec, with `base` where this one says nothing."""
        weights: Any
        if isinstance(self.weights, tuple):
            weights = {name: _over(w, base.weight(name)) for name, w in self.weights}
        elif isinstance(base.weights, tuple) and self.weights is not None:
            weights = {name: _over(self.weights, w) for name, w in base.weights}
        else:
            weights = _over(self.weights, base.weights)
        activations = _over(self.activations, base.activations)
        asked = base.state_bits if self.state_bits is None else self.state_bits
        state_bits = None if activations is None else asked  # in float there is none
        return LayerSpec(weights, activations, state_bits=state_bits)

    def get_config(self) -> dict[str, Any]:
        """Plain data; False stands for "in float" (TOML has no null)."""
        if isinstance(self.weights, tuple):
            weights = {name: _plain(spec) for name, spec in self.weights}
        else:
            weights = _plain(self.weights)
        config = {"weights": weights, "activations": _plain(self.activations)}
        return config if self.state_bits is None else config | {"state_bits": self.state_bits}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LayerSpec:
        """The LayerSpec that `get_config` described."""
        only(config, ("weights", "activations", "state_bits"), "LayerSpec")
        parts = {name: _from_plain(part) for name, part in config.items()}
        return cls(**parts)


LayerSpec.outputs = property(lambda spec: spec.activations)  # type: ignore[attr-defined]


def _plain(spec: TensorSpec | None) -> Any:
    return False if spec is None else spec.get_config()


def _from_plain(part: Any) -> Any:
    if part is False:
        return None
    named = isinstance(part, Mapping) and _names_weights(part)
    return {k: _from_plain(v) for k, v in part.items()} if named else part


def _weight_specs(given: Any) -> Any:
    """A TensorSpec or None for all weights; or (attribute, one of these) for each that is named."""
    if isinstance(given, tuple):
        return given
    if isinstance(given, Mapping) and _names_weights(given):
        return tuple((k, tensor_spec(v, f"weights[{k!r}]")) for k, v in sorted(given.items()))
    return tensor_spec(given, "weights")


def _names_weights(given: Mapping[str, Any]) -> bool:
    """Whether the keys are attributes of a layer, not settings of a tensor or a rounder."""
    settings = {f.name for f in dataclasses.fields(TensorSpec)} | {"name"}
    return bool(given) and not settings & set(given) and all(map(_is_spec, given.values()))


def _is_spec(value: Any) -> bool:
    return value is None or value is False or isinstance(value, (TensorSpec, str, Mapping, Rounder))


FLOAT = LayerSpec(weights=None, activations=None)
"""Leaves a layer in float."""


def _over(spec: TensorSpec | None, base: TensorSpec | None) -> TensorSpec | None:
    if spec is None:
        return None
    if base is None:
        return spec if spec.given() else None
    return spec.over(base)
