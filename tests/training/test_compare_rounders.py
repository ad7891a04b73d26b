"""Rounders compared over paired seeds."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import qat_round as qr


def test_intervals_are_students():
    interval = qr.paired_difference([1.0, 2.0, 3.0, 4.0])
    assert interval.mean == 2.5
    assert interval.high - interval.mean == pytest.approx(3.182 * np.std([1, 2, 3, 4], ddof=1) / 2)
    assert interval.verdict == "better"
    assert qr.paired_difference([-1.0, 1.0]).verdict == "no difference beyond the seeds"
    with pytest.raises(ValueError, match="two or more"):
        qr.paired_difference([1.0])


@pytest.mark.slow
def test_a_bake_off_says_what_differs(float_net, pictures):
    data = (*pictures, pictures[0][:100], pictures[1][:100])
    found = qr.compare_rounders(float_net, data, ["ewgs"], bits=(4, 4), seeds=2, epochs=1)
    assert list(found.accuracies) == ["ste", "ewgs"]
    assert all(len(a) == 2 for a in found.accuracies.values())
    assert found.difference("ewgs").seeds == 2
    assert "ewgs" in found.table()


# A bake-off's data.


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (lambda y: np.eye(10)[y], r"one-hot rows, labels.argmax"),
        (lambda y: y.astype(float), "dtype float64"),
        (lambda y: y[:-1], "but 383 labels"),
    ],
)
def test_a_bake_off_refuses_labels_that_are_no_class_numbers(float_net, pictures, labels, says):
    x, y = pictures
    with pytest.raises(ValueError, match=says):
        qr.compare_rounders(float_net, (x, labels(y), x[:9], y[:9]), seeds=2)


def test_a_bake_off_holds_out_a_tenth_of_every_class(float_net, pictures, monkeypatch):
    room, runs = importlib.import_module("qat_round.training.compare_rounders"), []

    def run(model, data, rounder, rate, seed, **settings):
        runs.append(data[1][: len(data[1]) // 10])
        return 50.0, 50.0 + seed

    monkeypatch.setattr(room, "_run", run)
    x, y = pictures
    order = np.argsort(y, kind="stable")
    data = (x[order], y[order][:, None], x[:9], y[:9])
    found = qr.compare_rounders(float_net, data, ["ewgs"], seeds=3)
    assert len(set(runs[0])) > 5
    assert all(np.array_equal(runs[0], other) for other in runs)
    assert found.verdict == "No difference beyond the seeds."
