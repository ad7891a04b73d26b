"""What to quantize and how, as plain frozen data: `TensorSpec`, `LayerSpec`, `ModelSpec`.

`None` in a TensorSpec means "as the base scheme has it"; `None` in place of a TensorSpec means
"leave it in float". A ModelSpec is a LayerSpec for every layer and overrides for some.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

from .affine import check_bits
from .ranges import Range, get_range
from .rounding import Rounder, get, names, nearest

_CLASS = "class:"  # how an override by layer class is spelled in plain data


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

    Raises:
        ValueError: for bits outside of 2..16, an unknown rounder or range.
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

    def __post_init__(self) -> None:
        if self.bits is not None:
            check_bits(self.bits)
        if self.rounder is not None:
            object.__setattr__(self, "rounder", get(self.rounder))
        if self.range is not None:
            object.__setattr__(self, "range", get_range(self.range))
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
        _only(given, fields, f"{what}: TensorSpec")
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


def _only(config: Mapping[str, Any], allowed: Iterable[str], owner: str) -> None:
    allowed = list(allowed)
    for key in config:
        if key not in allowed:
            raise ValueError(
                f"{owner} has no setting {key!r}; it has {allowed}.{nearest(key, allowed)}"
            )


_NOT_GIVEN: Any = object()


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """How one layer is quantized: its weights, and what it gives.

    Args:
        weights: a TensorSpec, what `qr.get` takes (a rounder), or None for float weights; or one of
            these for each weight by its attribute, {"kernel": ..., "cell.kernel": ...}; those of a
            built-in layer that are not named are quantized as ever, of a custom layer not at all.
        activations: the same for the layer's output and activation.
        outputs: another word for `activations`; give one of the two.

    Raises:
        TypeError: if both `activations` and `outputs` are given.

    Example:
        >>> LayerSpec(weights=TensorSpec(bits=4), activations="ste").activations.rounder.name
        'ste'
        >>> LayerSpec(weights={"kernel": "sine"}, outputs=None).weight("kernel").rounder.name
        'sine'
    """

    weights: Any = TensorSpec()
    activations: Any = TensorSpec()
    outputs: dataclasses.InitVar[Any] = _NOT_GIVEN

    def __post_init__(self, outputs: Any) -> None:
        if outputs is not _NOT_GIVEN:
            if self.activations != TensorSpec():
                raise TypeError("LayerSpec: activations and outputs are one thing; give one.")
            object.__setattr__(self, "activations", outputs)
        object.__setattr__(self, "weights", _weight_specs(self.weights))
        object.__setattr__(self, "activations", tensor_spec(self.activations, "activations"))

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
        return LayerSpec(weights, _over(self.activations, base.activations))

    def get_config(self) -> dict[str, Any]:
        """Plain data; False stands for "in float" (TOML has no null)."""
        if isinstance(self.weights, tuple):
            weights = {name: _plain(spec) for name, spec in self.weights}
        else:
            weights = _plain(self.weights)
        return {"weights": weights, "activations": _plain(self.activations)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LayerSpec:
        """The LayerSpec that `get_config` described."""
        _only(config, ("weights", "activations"), "LayerSpec")
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


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """How a whole model is quantized.

    Args:
        default: the LayerSpec of every layer.
        overrides: {layer name pattern or layer class: LayerSpec}; the last that matches a layer
            wins, and what it leaves open is taken from `default`.
        edges: a TensorSpec for the activations of the model's inputs and outputs, over `default`;
            None for nothing special.

    Raises:
        TypeError: if edges is no TensorSpec, an override is no LayerSpec, or its key neither
            a string nor a class.

    Example:
        >>> spec = ModelSpec(LayerSpec(weights="sine"), {"dense_*": FLOAT})
        >>> ModelSpec.from_config(spec.get_config()) == spec
        True
    """

    default: LayerSpec = LayerSpec()
    overrides: Any = ()
    edges: TensorSpec | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.default, LayerSpec):
            raise TypeError(f"ModelSpec: default is {self.default!r}; give a qr.LayerSpec.")
        if not isinstance(self.edges, TensorSpec | None):
            raise TypeError(f"ModelSpec: edges is {self.edges!r}; give a qr.TensorSpec or None.")
        items = self.overrides
        items = items.items() if isinstance(items, Mapping) else items
        object.__setattr__(self, "overrides", tuple(_override(key, spec) for key, spec in items))

    def for_layer(self, name: str, class_names: Iterable[str], at_edge: bool = False) -> LayerSpec:
        """The spec of one layer, from its name, its classes' names, and where it is."""
        base = self.default
        if at_edge and self.edges is not None:
            base = LayerSpec(base.weights, self.edges)
        spec = base
        for key, override in self.overrides:
            if _matches(key, name, class_names):
                spec = override.over(base)
        return spec

    def check_matches(self, layers: Iterable[Any]) -> None:
        """Raises a ValueError for overrides that match none of the layers.

        Args:
            layers: (name, class names) of every layer.
        """
        layers = list(layers)
        for key, _ in self.overrides:
            if not any(_matches(key, name, classes) for name, classes in layers):
                every = [name for name, _ in layers]
                raise ValueError(
                    f"overrides: {_shown(key)} matches no layer.{nearest(key, every)} "
                    f"The model's layers are {every}."
                )

    def get_config(self) -> dict[str, Any]:
        """Plain data, fit for JSON and TOML."""
        return {
            "default": self.default.get_config(),
            "overrides": [{"layers": key, **spec.get_config()} for key, spec in self.overrides],
            **({} if self.edges is None else {"edges": self.edges.get_config()}),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelSpec:
        """The ModelSpec that `get_config` described."""
        _only(config, ("default", "overrides", "edges"), "ModelSpec")
        pairs = []
        for entry in config.get("overrides", ()):
            if "layers" not in entry:
                raise ValueError(
                    f"ModelSpec: the override {dict(entry)} needs the key 'layers': a layer name "
                    "pattern such as 'dense_*', or 'class:Dense'."
                )
            rest = {k: v for k, v in entry.items() if k != "layers"}
            pairs.append((entry["layers"], LayerSpec.from_config(rest)))
        edges = tensor_spec(config.get("edges"), "edges")
        return cls(LayerSpec.from_config(config.get("default", {})), tuple(pairs), edges)


def _over(spec: TensorSpec | None, base: TensorSpec | None) -> TensorSpec | None:
    if spec is None:
        return None
    if base is None:
        return spec if spec.given() else None
    return spec.over(base)


def _override(key: Any, spec: Any) -> tuple[str, LayerSpec]:
    if isinstance(key, type):
        key = _CLASS + key.__name__
    if not isinstance(key, str):
        raise TypeError(
            f"overrides: the key {key!r} is neither a layer name pattern such as 'dense_*' nor a "
            "layer class such as tf_keras.layers.Dense."
        )
    if not isinstance(spec, LayerSpec):
        raise TypeError(
            f"overrides[{_shown(key)}] is {spec!r}; give a qr.LayerSpec, or qr.FLOAT to leave the "
            "layer in float."
        )
    return key, spec


def _matches(key: str, name: str, class_names: Iterable[str]) -> bool:
    if key.startswith(_CLASS):
        return key[len(_CLASS) :] in class_names
    return fnmatch.fnmatchcase(name, key)


def _shown(key: str) -> str:
    return f"the class {key[len(_CLASS) :]}" if key.startswith(_CLASS) else repr(key)


def model_spec(
    rounder: Any = "ste",
    weight_bits: int | None = None,
    activation_bits: int | None = None,
    weights: Any = TensorSpec(),  # noqa: B008
    activations: Any = TensorSpec(),  # noqa: B008
    overrides: Any = (),
) -> ModelSpec:
    """A ModelSpec from the arguments of `qr.quantize_model`.

    Args:
        rounder: for weights and activations, unless `weights` or `activations` say otherwise.
        weight_bits, activation_bits: 2 to 16; None as the base scheme has it.
        weights, activations: what `qr.LayerSpec` takes.
        overrides: {layer name pattern or class: LayerSpec}.
    """
    common = {"weights": weight_bits, "activations": activation_bits}
    asked = LayerSpec(weights, activations)
    base = LayerSpec(*(TensorSpec(bits=bits, rounder=rounder) for bits in common.values()))
    return ModelSpec(asked.over(base), overrides)


def as_model_spec(spec: Any = None, **settings: Any) -> ModelSpec:
    """A ModelSpec from a ModelSpec, a LayerSpec, or the arguments of `model_spec`.

    Raises:
        TypeError: if both a spec and arguments are given, or the spec is neither.
    """
    if spec is None:
        return model_spec(**settings)
    if settings:
        raise TypeError(f"Give either spec or {sorted(settings)}, not both.")
    if isinstance(spec, LayerSpec):
        return ModelSpec(spec.over(model_spec().default))
    if isinstance(spec, ModelSpec):
        return ModelSpec(spec.default.over(model_spec().default), spec.overrides, spec.edges)
    raise TypeError(f"spec={spec!r} is neither a qr.ModelSpec nor a qr.LayerSpec.")
