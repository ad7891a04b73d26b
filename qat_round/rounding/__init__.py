"""Rounding methods: pure maths, in units of grid steps.

Each method is one frozen dataclass: one docstring, one registry name, one row in the tests' table.
The order of the imports is the order of `names()`.
"""
# ruff: noqa: I001

from qat_round.rounding.base import Rounder, hard_round
from qat_round._validate import nearest  # noqa: A004
from qat_round.rounding.registry import get, names, register, round  # noqa: A004
from qat_round.rounding.step_curves import RampRound, SigmoidRound
from qat_round.rounding.wave_curves import FourierRound, SineRound
from qat_round.rounding.identity_gradients import ExpectedRound, StochasticRound, StraightThrough
from qat_round.rounding.tanh_curves import LearnedTanhRound, TanhRound
from qat_round.rounding.scaled_gradients import ElementWiseScaling
from qat_round.rounding.expected_threshold import ExpectedThresholdRound
from qat_round.rounding.mixtures import MixRound, mix

__all__ = [
    "ElementWiseScaling",
    "ExpectedRound",
    "ExpectedThresholdRound",
    "FourierRound",
    "LearnedTanhRound",
    "MixRound",
    "RampRound",
    "Rounder",
    "SigmoidRound",
    "SineRound",
    "StochasticRound",
    "StraightThrough",
    "TanhRound",
    "get",
    "hard_round",
    "mix",
    "names",
    "nearest",
    "register",
    "round",
]
