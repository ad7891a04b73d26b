"""Every rounding method in the settings that the tests run it with: a new one is a row here."""

from __future__ import annotations

import dataclasses

import qat_round as qr
from qat_round.rounding import Rounder

METHODS = ["sigmoid", "ramp", "fourier", "sine", "expected", "stochastic", "ste"]


NEWER = ["tanh", "dsq", "ewgs", "expected_threshold", "mix"]


TABLE = [
    qr.SigmoidRound(),
    qr.SigmoidRound(slope=5.0),
    qr.SigmoidRound(slope=20.0, center=0.3),
    qr.SigmoidRound(slope=10.0, normalize=False),
    qr.SigmoidRound(slope=1e6),
    qr.RampRound(),
    qr.RampRound(threshold=0.0, gain=1.0),
    qr.RampRound(threshold=0.3, gain=5.0, forward="hard"),
    qr.RampRound.centered(0.25),
    qr.FourierRound(),
    qr.FourierRound(terms=1),
    qr.FourierRound(terms=16, sigma=True),
    qr.FourierRound(terms=17),
    qr.ExpectedRound(),
    qr.ExpectedRound(forward="hard"),
    qr.StochasticRound(),
    qr.StochasticRound(seed=7),
    qr.SineRound(),
    qr.SineRound(iterations=3),
    qr.SineRound(iterations=2, forward="hard"),
    qr.SineRound(iterations=2, identity=0.5),
    qr.StraightThrough(),
    qr.TanhRound(),
    qr.TanhRound(sharpness=0.1),
    qr.TanhRound(sharpness=50.0, forward="hard"),
    qr.LearnedTanhRound(),
    qr.LearnedTanhRound(alpha=0.9),
    qr.ElementWiseScaling(),
    qr.ElementWiseScaling(delta=1.0, forward="hard"),
    qr.ExpectedThresholdRound(),
    qr.ExpectedThresholdRound(width=1.6),
    qr.mix("ste", "sine", 0.3),
    qr.mix("ramp", "tanh", 0.7),
    qr.mix("ewgs", qr.TanhRound(forward="hard")),
]


@dataclasses.dataclass(frozen=True)
class Own(Rounder):
    """A user's own method: half the identity, half the sine staircase."""

    share: float = 0.5
    knobs = ("share",)
    hard_limits = {"iterations": 12, "share": 1.0}
    iterations: int = 1

    def soft(self, x):
        y = qr.SineRound(iterations=self.iterations).soft(x)
        return x + self.share * (y - x)
