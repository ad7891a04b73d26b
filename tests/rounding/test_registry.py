"""The registry of rounding methods."""

from __future__ import annotations

import pytest

import qat_round as qr
from tests.rounding.table import METHODS, Own

# The checker itself: what passes, and that each law can fail.


# The registry.


def test_get_takes_a_name_a_dict_and_a_rounder():
    wanted = qr.SigmoidRound(slope=10.0)
    assert qr.get("sigmoid", slope=10.0) == wanted
    assert qr.get({"name": "sigmoid", "slope": 10.0}) == wanted
    assert qr.get({"name": "sigmoid", "slope": 5.0}, slope=10.0) == wanted
    assert qr.get(qr.SigmoidRound(), slope=10.0) == wanted
    assert qr.get(wanted) == wanted


def test_an_unknown_name_lists_the_allowed_ones_and_the_nearest():
    with pytest.raises(ValueError, match="Unknown rounder 'sigmoyd'") as error:
        qr.get("sigmoyd")
    assert "Did you mean 'sigmoid'?" in str(error.value)
    assert all(name in str(error.value) for name in METHODS)
    with pytest.raises(ValueError, match="Unknown rounder 'nope'"):
        qr.get({"name": "nope"})


def test_what_is_no_rounder_is_refused():
    with pytest.raises(TypeError, match=r"rounder=3 is a int; give a name out of"):
        qr.get(3)
    with pytest.raises(ValueError, match="needs the key 'name'"):
        qr.get({"slope": 3.0})


def test_register_refuses_taken_names_and_other_classes(own_registry):
    with pytest.raises(ValueError, match="'sine' is taken by SineRound"):
        qr.register("sine")
    with pytest.raises(TypeError, match="subclasses of qr.Rounder"):
        qr.register("list")(list)
    with pytest.raises(TypeError, match="non-empty string"):
        qr.register("")
    assert "list" not in qr.names()


def test_a_registered_method_is_found_by_name(own_registry):
    qr.register("own")(Own)
    assert qr.names()[-1] == "own"
    assert qr.get("own", share=0.25) == Own(share=0.25)
    assert qr.get(Own(share=0.25).get_config()) == Own(share=0.25)
