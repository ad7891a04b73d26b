"""What the accuracy benchmark compares: methods as plain data, in suites."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import qat_round as qr


class Method(NamedTuple):
    """One way to quantize and train.

    Args:
        recipe: as in `qr.recipes()`.
        distil: arguments of `qr.Distiller`, or empty for none.
        extra: gives callbacks from (model, data, number of steps), or None.
    """

    recipe: dict[str, Any]
    distil: dict[str, Any]
    extra: Callable[..., list[Any]] | None = None

    def callbacks(self, model: Any, data: Any, steps: int) -> list[Any]:
        """The callbacks of one training."""
        return [] if self.extra is None else self.extra(model, data, steps)


DISTIL = {"share": 0.9, "temperature": 2.0}


def recipe(name: str, distil: bool = False, extra: Any = None, **changes: Any) -> Method:
    """A recipe of the package, with changes.

    Args:
        name: the recipe's.
        distil: whether the float net teaches.
        extra: see `Method`.
        **changes: `rounder` and `rate` (how fast learned ranges move) for all that is not at 8
            bits; `pace` (how fast weights learn); `weights`, `activations` (dicts) and `calibrate`.
    """
    found = copy.deepcopy(qr.recipes()[name])
    rounder, rate = changes.pop("rounder", None), changes.pop("rate", None)
    if "pace" in changes:
        found["weights"]["rate"] = changes.pop("pace")
    for part in ("weights", "activations"):
        if rounder is not None and found[part].get("bits", 8) < 8:
            found[part]["rounder"] = qr.get(rounder).get_config()
        if rate is not None and found[part].get("bits", 8) < 8:
            found[part]["range"] = {"name": "learned", "rate": rate}
        found[part] |= changes.pop(part, {})
    return Method(found | changes, DISTIL if distil else {}, extra)


BITS = ("w8a8", "w4a8", "w4a4", "w3a3", "w2a4", "w2a2")
HARD = {"forward": "hard"}


def _rounders(name: str, label: str = "", **changes: Any) -> dict[str, Method]:
    tried = {
        "ste": "ste",
        "tanh 3": qr.TanhRound(sharpness=3.0, **HARD),
        "ewgs 0.2": qr.ElementWiseScaling(delta=0.2),
    }
    label = label or name
    return {f"{label} {r}": recipe(name, rounder=tried[r], **changes) for r in tried}


def _annealed(knob: str, start: float, stop: float) -> Callable[..., list[Any]]:
    def make(model: Any, data: Any, steps: int) -> list[Any]:
        return [qr.Anneal(knob, qr.schedules.exponential(start, stop, steps))]

    return make


def _frozen(model: Any, data: Any, steps: int) -> list[Any]:
    """Ever more of the weights that change level too often are held."""
    return [qr.FreezeOscillating(threshold=qr.schedules.cosine(0.04, 0.01, steps))]


def _dampened(model: Any, data: Any, steps: int) -> list[Any]:
    """Weights are drawn to their levels, ever more strongly."""
    return [qr.Dampening(model, qr.schedules.linear(0.0, 1e-3, steps))]


def _lowered(model: Any, data: Any, steps: int) -> list[Any]:
    """Four bits for two epochs, then the recipe's."""
    return [qr.LowerBits({0: (4, 4), 2: (2, 2)}, data.train[:512])]


def _seed_methods(name: str) -> dict[str, Method]:
    """The seven methods of the start, each with its setting for training."""
    soft = {
        "ste": qr.StraightThrough(),
        "sigmoid": qr.SigmoidRound(slope=4.0, **HARD),
        "ramp": qr.RampRound.centered(0.8, "hard"),
        "fourier": qr.FourierRound(terms=3, sigma=True, **HARD),
        "sine": qr.SineRound(identity=0.5, **HARD),
        "expected": qr.ExpectedRound(**HARD),
        "stochastic": qr.StochasticRound(seed=0),
    }
    return {f"{name} {label}": recipe(name, rounder=r) for label, r in soft.items()}


def _ablation(name: str, label: str = "", **changes: Any) -> dict[str, Method]:
    """One thing changed at a time."""
    follow = {"range": "moving_average"}
    changed: dict[str, dict[str, Any]] = {
        "recipe": {},
        "from min-max": {"calibrate": "minmax"},
        "ranges follow data": {
            "weights": {"range": "last_value"},
            "activations": follow,
            "calibrate": "minmax",
        },
        "narrow weights": {"weights": {"narrow_range": True}},
        "ste": {"rounder": "ste"},
        "distilled": {"distil": True},
        "batch norm folded": {"batch_norm": "folded"},
        "frozen": {"extra": _frozen},
        "dampened": {"extra": _dampened},
    }
    if "pace" not in changes:
        changed |= {f"weights at rate {rate}": {"pace": float(rate)} for rate in (1, 4, 16)}
    if name == "w2a2":
        changed["from 4 bits"] = {"extra": _lowered}
    return {f"{label or name} {what}": recipe(name, **changes, **c) for what, c in changed.items()}


SUITES: dict[str, dict[str, Method]] = {
    "recipes": {name: recipe(name) for name in BITS}
    | {f"{name} distilled": recipe(name, distil=True) for name in ("w2a4", "w2a2")},
    "rounders": _rounders("w2a2"),
    "w2a4_rounders": _rounders("w2a4"),
    "seed_methods": _seed_methods("w4a4"),
    "ablation": _ablation("w4a4") | _ablation("w2a2"),
    "slow": {f"{name}/slow": recipe(name, pace=1.0) for name in BITS if name != "w8a8"}
    | _rounders("w2a2", "w2a2/slow", pace=1.0)
    | _ablation("w4a4", "w4a4/slow", pace=1.0)
    | _ablation("w2a2", "w2a2/slow", pace=1.0),
    "slow_ranges": _rounders("w2a2", "w2a2/1", rate=1.0, pace=1.0)
    | _ablation("w2a2", "w2a2/1", rate=1.0, pace=1.0)
    | {
        "w2a4/1 recipe": recipe("w2a4", rate=1.0, pace=1.0),
        "w2a4/1 ste": recipe("w2a4", rounder="ste", rate=1.0, pace=1.0),
    },
}
