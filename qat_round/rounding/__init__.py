"""Rounding methods: pure maths, in units of grid steps.

Each method is one frozen dataclass: one docstring, one registry name, one row in the tests' table.
The order of the imports is the order of `names()`.
"""
# ruff: noqa: I001

from .base import Rounder, hard_round
from .registry import get, names, nearest, register, round  # noqa: A004
from .step_curves import RampRound, SigmoidRound
from .wave_curves import FourierRound, SineRound
from .identity_gradients import ExpectedRound, StochasticRound, StraightThrough
from .tanh_curves import LearnedTanhRound, TanhRound
from .scaled_gradients import ElementWiseScaling
from .expected_threshold import ExpectedThresholdRound
from .mixtures import MixRound, mix

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
