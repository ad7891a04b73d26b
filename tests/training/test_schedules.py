"""Schedules: plain functions of the step."""

import json
import math

import numpy as np
import pytest

from qat_round.training import schedules
from qat_round.training.schedules import cosine, exponential, linear, piecewise

RAMPS = [linear, cosine, exponential]
ALL = [
    linear(1.0, 3.0, 10),
    cosine(5.0, 1000.0, 100),
    exponential(1e-3, 1e6, 7),
    piecewise((2, 4), (1.0, 5.0, 9.0)),
    piecewise((), (1.0,)),
]


@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        (linear(5.0, 1000.0, 40), lambda t: 5 + 995 * t),
        (cosine(5.0, 1000.0, 40), lambda t: 5 + 995 * (1 - math.cos(math.pi * t)) / 2),
        (exponential(5.0, 1000.0, 40), lambda t: math.exp(math.log(5) + t * math.log(200))),
        (linear(3.0, -1.0, 40), lambda t: 3 - 4 * t),
    ],
    ids=["linear", "cosine", "exponential", "falling"],
)
def test_a_schedule_is_its_formula(schedule, formula):
    right = [formula(step / 40) for step in range(41)]
    np.testing.assert_allclose([schedule(step) for step in range(41)], right, rtol=1e-12)


@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize(("start", "stop"), [(0.1, 0.3), (5.0, 1e6), (1e6, 1e-6), (0.7, 0.7)])
def test_ends_are_met_exactly_and_held(ramp, start, stop):
    schedule = ramp(start, stop, 7)
    assert [schedule(step) for step in (-5, 0)] == [start, start]
    assert [schedule(step) for step in (7, 8, 10**9)] == [stop, stop, stop]


@pytest.mark.parametrize("ramp", RAMPS)
def test_ramps_never_turn_back(ramp):
    up = [ramp(1.0, 1000.0, 50)(step) for step in range(60)]
    down = [ramp(1000.0, 1.0, 50)(step) for step in range(60)]
    assert up == sorted(up)
    assert down == sorted(down, reverse=True)


def test_piecewise_changes_at_its_boundaries():
    schedule = piecewise([2, 4], [1, 5, 9])
    assert [schedule(step) for step in (-1, 0, 1, 2, 3, 4, 100)] == [1, 1, 1, 5, 5, 9, 9]


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_values_are_plain_floats(schedule):
    assert all(type(schedule(step)) is float for step in (0, 3, np.int64(3), 1000))


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_a_config_survives_json(schedule):
    read = schedules.get(json.loads(json.dumps(schedule.get_config())))
    assert read == schedule
    assert [read(step) for step in range(12)] == [schedule(step) for step in range(12)]
    assert hash(read) == hash(schedule)


def test_schedules_of_different_kinds_differ():
    assert linear(1.0, 2.0, 3) != cosine(1.0, 2.0, 3)
    assert repr(linear(1, 2, 3)) == "linear(start=1.0, stop=2.0, steps=3)"


def test_any_function_is_a_schedule():
    double = lambda step: 2.0 * step  # noqa: E731
    assert schedules.get(double) is double


@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "9", None])
def test_steps_are_a_whole_number(ramp, steps):
    with pytest.raises(
        ValueError, match=f"{ramp.__name__}: steps=.* has to be a whole number >= 1"
    ):
        ramp(1.0, 2.0, steps)


def test_numbers_of_numpy_are_taken():
    schedule = linear(np.float32(1), np.float64(2), np.int64(3))
    assert json.loads(json.dumps(schedule.get_config()))["steps"] == 3


@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize("end", [math.inf, -math.inf, math.nan])
def test_ends_are_finite(ramp, end):
    with pytest.raises(ValueError, match="have to be finite; a knob near its limit"):
        ramp(1.0, end, 5)


def test_what_cannot_be_a_schedule_is_refused():
    with pytest.raises(ValueError, match=r"exponential: start=0.0, stop=1.0 must be positive"):
        exponential(0.0, 1.0, 5)
    with pytest.raises(ValueError, match="2 boundaries need 3 values, not 2"):
        piecewise((1, 2), (0.0, 1.0))
    for boundaries in ((2, 1), (1, 1)):
        with pytest.raises(ValueError, match=r"boundaries=.* have to rise"):
            piecewise(boundaries, (0.0, 1.0, 2.0))
    with pytest.raises(TypeError, match=r"boundaries=\(1.5,\) have to be whole numbers"):
        piecewise((1.5,), (0.0, 1.0))
    with pytest.raises(TypeError, match="linear: start='1' has to be a number"):
        linear("1", 2.0, 5)
    with pytest.raises(ValueError, match=r"Unknown schedule 'cosin'; allowed are .*'cosine'"):
        schedules.get({"name": "cosin"})
    with pytest.raises(
        ValueError, match=r"'cosine' takes \['start', 'stop', 'steps'\], not \['stop'"
    ):
        schedules.get({"name": "cosine", "stop": 1.0})
    with pytest.raises(TypeError, match=r"A schedule is a function of the step.* not 'cosine'"):
        schedules.get("cosine")
