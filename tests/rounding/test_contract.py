"""Every rounding method keeps the laws, and the checker finds those that do not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import qat_round as qr
from qat_round.rounding import Rounder
from qat_round.rounding.contract import LawBroken, check_rounder
from qat_round.rounding.laws import LAWS
from tests.rounding.table import METHODS, NEWER, TABLE, Own

# every registered method, in several settings


# The laws.


@pytest.mark.parametrize("rounder", TABLE, ids=repr)
def test_every_method_keeps_the_laws(rounder):
    check_rounder(rounder)


def test_the_table_has_every_registered_method():
    assert {rounder.name for rounder in TABLE} == set(METHODS) | set(NEWER)
    assert qr.names()[: len(METHODS)] == METHODS


@pytest.mark.parametrize("name", METHODS + NEWER)
def test_defaults_are_exempt_from_no_law_of_numbers(name):
    exempt = set(qr.get(name).exempt)
    assert exempt <= {"hard_limit", "cells", "graph", "repeatable", "gradient"}
    assert "gradient" not in exempt or name == "ewgs"
    assert all(qr.get(name).exempt.values()), "a law is left out without a reason"


# The checker itself: what passes, and that each law can fail.


class Shifted(Rounder):
    def soft(self, x):
        return x + 0.25


class Decaying(Rounder):
    def soft(self, x):
        return x - tf.sin(2 * np.pi * x) / (2 * np.pi) * tf.exp(-x * x)


@dataclasses.dataclass(frozen=True)
class Overflowing(Rounder):
    """The original snippet: NaN next to 1."""

    slope: float = 10.0
    knobs = ("slope",)
    hard_limits = {"slope": 160.0}
    exempt = {"integers": "passes beside them"}

    def soft(self, x):
        e = tf.exp(self.slope * (x - tf.floor(x) - 0.5))
        return tf.floor(x) + e / (e + 1)


class WrongGradient(qr.SineRound):
    def pull_back(self, x, dy):
        return 1.01 * super().pull_back(x, dy)


class DeafToUpstream(qr.StraightThrough):
    def pull_back(self, x, dy):
        return tf.ones_like(x)


class WrongInSingle(qr.SineRound):
    def pull_back(self, x, dy):
        return super().pull_back(x, dy) * (1.0 if x.dtype == tf.float64 else 1.01)


class NeverHard(Rounder):
    def soft(self, x):
        return tf.identity(x)


class Flattening(qr.SineRound):
    def soft(self, x):
        return tf.reshape(super().soft(x), [-1])


class OtherInSingle(qr.SineRound):
    def soft(self, x):
        return super().soft(x) * (1.0 if x.dtype == tf.float64 else 1.001)


class KnobOfPython(qr.SigmoidRound):
    def soft(self, x):
        return qr.SigmoidRound(slope=float(self.slope)).soft(x)


class Unregistered(qr.SineRound):
    name = ""


class Forgetful(qr.RampRound):
    def get_config(self):
        return {"name": self.name}


class AlwaysTraining(qr.SineRound):
    def __call__(self, x, training=True):
        return super().__call__(x, training=True)


class NeverForwardHard(qr.SineRound):
    is_hard = False


class Restless(qr.StochasticRound):
    exempt = {"hard_limit": "random"}


BROKEN = [
    (Shifted(), {"integers", "hard_limit"}),
    (Decaying(), {"cells", "hard_limit"}),
    (Overflowing(), {"finite"}),
    (WrongGradient(), {"gradient"}),
    (DeafToUpstream(), {"gradient"}),
    (WrongInSingle(), {"gradient"}),
    (NeverHard(), {"hard_limit"}),
    (Flattening(), {"shape_and_dtype"}),
    (OtherInSingle(), {"integers", "cells", "shape_and_dtype"}),
    (KnobOfPython(), {"graph"}),
    (Unregistered(), {"config"}),
    (Forgetful(gain=3.0), {"config"}),
    (AlwaysTraining(), {"inference"}),
    (NeverForwardHard(), {"hard_forward"}),
    (Restless(), {"cells", "graph", "repeatable"}),
]


def test_a_users_own_method_passes(own_registry):
    qr.register("own")(Own)
    check_rounder(Own())
    check_rounder("own", laws=["integers", "config"])
    check_rounder({"name": "own", "share": 0.9}, laws=["cells"])


@pytest.mark.parametrize(("rounder", "laws"), BROKEN, ids=[type(r).__name__ for r, _ in BROKEN])
def test_a_broken_method_fails_the_laws_it_breaks_and_no_other(own_registry, rounder, laws):
    if not isinstance(rounder, Unregistered):
        qr.register("broken")(type(rounder))
    with pytest.raises(LawBroken) as broken:
        check_rounder(rounder)
    assert set(broken.value.laws) == laws, str(broken.value)


def test_every_law_can_fail():
    assert set().union(*(laws for _, laws in BROKEN)) == set(LAWS)


def test_the_message_names_the_law_the_rounder_and_the_first_values(own_registry):
    qr.register("broken")(Shifted)
    with pytest.raises(LawBroken) as broken:
        check_rounder(Shifted(), laws=["integers"])
    message = str(broken.value)
    assert "Shifted(forward='soft') breaks 1 of the laws" in message
    assert "integers: value in float32: " in message
    assert "x=-8.0: -7.75, not -8.0" in message
    assert "`exempt`" in message


def test_an_error_inside_a_method_is_reported_with_its_cause(own_registry):
    class Unwritten(Rounder):
        pass

    qr.register("broken")(Unwritten)
    with pytest.raises(LawBroken, match=r"Unwritten has to define soft\(x\)") as broken:
        check_rounder(Unwritten())
    assert isinstance(broken.value.__cause__, TypeError)


def test_an_exempt_law_is_left_out(own_registry):
    exempt = {"hard_limit": "it never rounds"}
    qr.register("broken")(type("Excused", (NeverHard,), {"exempt": exempt}))
    check_rounder("broken")


def test_unknown_laws_are_refused(own_registry):
    with pytest.raises(ValueError, match=r"laws names 'speed', which is no law; .*'integers'"):
        check_rounder("sine", laws=["speed"])
    qr.register("broken")(type("Odd", (NeverHard,), {"exempt": {"speed": "slow"}}))
    with pytest.raises(ValueError, match="Odd.exempt names 'speed'"):
        check_rounder("broken")
