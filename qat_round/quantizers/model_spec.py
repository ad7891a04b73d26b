"""How a whole model is quantized: a default, overrides by layer, and its edges."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

from qat_round._validate import nearest
from qat_round.quantizers.spec import LayerSpec, TensorSpec, only, tensor_spec

_CLASS = "class:"  # how an override by layer class is spelled in plain data


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
        >>> from qat_round.quantizers.spec import FLOAT
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
            base = LayerSpec(base.weights, self.edges, state_bits=base.state_bits)
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
        only(config, ("default", "overrides", "edges"), "ModelSpec")
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
    common = (TensorSpec(bits=bits, rounder=rounder) for bits in (weight_bits, activation_bits))
    asked = LayerSpec(weights, activations)
    base = LayerSpec(next(common), next(common))
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
