"""Whole-model recipes: named, plain data, from which a `ModelSpec` is made.

Each is the best combination found by `benchmarks/accuracy/run.py`; see docs/choosing.md.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from qat_round._validate import nearest
from qat_round.quantizers.model_spec import ModelSpec
from qat_round.quantizers.spec import LayerSpec, TensorSpec

_STRAIGHT = {"name": "ste"}
_SCALED = {"name": "ewgs", "delta": 0.2}
_RATE = 8.0  # of weights of few bits
_EIGHT = {"bits": 8, "rounder": _STRAIGHT}


def _low(weight_bits: int, activation_bits: int, rounder: dict[str, Any]) -> dict[str, Any]:
    """Learned ranges for what has fewer than 8 bits; inputs and logits at 8.

    Two and three bits use all levels, -2..1 and -4..3. Four do not use -8: where a batch norm's
    factor is negative the file has the mirrored integers, and +8 is no INT4.

    Args:
        weight_bits, activation_bits: 2 to 8.
        rounder: a rounder's config.
    """
    weights = {"bits": weight_bits, "rounder": rounder, "range": {"name": "learned", "rate": 10.0}}
    weights["rate"] = _RATE
    few = {"bits": activation_bits, "rounder": rounder, "range": {"name": "learned", "rate": 2.0}}
    return {
        "weights": {**weights, "narrow_range": weight_bits >= 4},
        "activations": _EIGHT if activation_bits >= 8 else few,
        "edges": _EIGHT,
        "calibrate": "mse",
        "reestimate_batch_norm": True,
    }


RECIPES: dict[str, dict[str, Any]] = {
    "w8a8": {"weights": _EIGHT, "activations": _EIGHT, "edges": _EIGHT, "calibrate": "minmax"},
    "w8a16": {
        "weights": _EIGHT,
        "activations": {"bits": 16, "rounder": _STRAIGHT, "symmetric": True, "narrow_range": True},
        "edges": {"bits": 16, "rounder": _STRAIGHT, "symmetric": True, "narrow_range": True},
        "calibrate": "minmax",
    },
    "w4a8": _low(4, 8, _STRAIGHT),
    "w4a4": _low(4, 4, _STRAIGHT),
    "w3a3": _low(3, 3, _STRAIGHT),
    "w2a4": _low(2, 4, _SCALED),
    "w2a2": _low(2, 2, _SCALED),
}


def recipes() -> dict[str, dict[str, Any]]:
    """All recipes by name, as plain data: a copy, to be changed and given to `quantize_model`.

        weights, activations   settings of `qr.TensorSpec`
        edges                  those of the activations of the model's inputs and outputs
        calibrate              the method that it wants of `qr.calibrate`, which is its default
        batch_norm             "live" or "folded", see `qr.quantize_model`; live if not given
        reestimate_batch_norm  whether `qr.reestimate_batch_norm` is to follow training

    Example:
        >>> recipes()["w4a8"]["weights"]["bits"]
        4
    """
    return copy.deepcopy(RECIPES)


def recipe_spec(recipe: str | Mapping[str, Any], overrides: Any = ()) -> ModelSpec:
    """The ModelSpec of a recipe.

    Args:
        recipe: a name, or plain data as in `recipes()`.
        overrides: as in `qr.quantize_model`.

    Raises:
        ValueError: for an unknown name or a key that no recipe has.

    Example:
        >>> recipe_spec("w2a4").default.activations.bits
        4
    """
    found = _find(recipe)
    unknown = set(found) - _KEYS
    if unknown:
        raise ValueError(f"A recipe has no {sorted(unknown)}; it has {sorted(_KEYS)}.")
    weights, activations = TensorSpec(**found["weights"]), TensorSpec(**found["activations"])
    edges = TensorSpec(**found["edges"]) if "edges" in found else None
    return ModelSpec(LayerSpec(weights, activations), overrides, edges)


def batch_norm_of(word: str | None, recipe: str | Mapping[str, Any] | None) -> str:
    """What is done with batch norm: as said, else as the recipe says, else "live".

    Raises:
        ValueError: for another word than "live" and "folded".

    Example:
        >>> batch_norm_of(None, "w4a4")
        'live'
    """
    said = word if word is not None or recipe is None else _find(recipe).get("batch_norm")
    if said not in (None, "live", "folded"):
        raise ValueError(f'batch_norm={said!r} is unknown; allowed are "live" and "folded".')
    return said or "live"


_KEYS = {
    "weights",
    "activations",
    "edges",
    "calibrate",
    "batch_norm",
    "reestimate_batch_norm",
}


def _find(recipe: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(recipe, Mapping):
        return recipe
    if recipe not in RECIPES:
        raise ValueError(
            f"Unknown recipe {recipe!r}; allowed are {list(RECIPES)}."
            f"{nearest(str(recipe), list(RECIPES))} qr.recipes() shows what they say."
        )
    return RECIPES[recipe]
