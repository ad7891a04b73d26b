"""The verdict of a verification, and its table."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import qat_round as qr
from qat_round.files.interpreter import Runner
from qat_round.files.tflite_file import TFLiteFile
from tests.models import nets
from tests.models.quantized_nets import with_file

ROWS = nets.vectors(count=200)


@pytest.fixture(scope="module")
def dense():
    return with_file(nets.dense_net(), ROWS)


# The report


def parity_with(**changes) -> qr.Parity:
    output = qr.OutputParity("out", 0.1, 1.0, 0.1, 1.0, 0.9, 1.0)
    logits = changes.pop("logits", ())
    floats = changes.pop("float_operators", {})
    allow = changes.pop("allow_float", False)
    output = dataclasses.replace(output, **changes)
    return qr.Parity((output,), logits, floats, {"INT8": 3}, 100, 5, allow)


def test_ok_asks_for_99_percent_within_one_and_none_further_than_three():
    assert parity_with(within_one=0.99, max_steps=3.0).ok
    assert not parity_with(within_one=0.989).ok
    assert not parity_with(max_steps=3.1).ok
    assert not parity_with(max_steps=float("nan")).ok


def test_ok_asks_more_of_logits_and_nothing_of_what_is_behind_them():
    near = qr.OutputParity("out", 0.1, 2.0, 0.1, 0.999, 0.9, 1.0)
    assert parity_with(max_steps=20.0, within_one=0.5, logits=(near,)).ok
    assert not parity_with(logits=(dataclasses.replace(near, max_steps=2.1),)).ok
    assert not parity_with(logits=(dataclasses.replace(near, within_one=0.998),)).ok


def test_float_operators_are_ok_only_where_they_are_allowed():
    assert not parity_with(float_operators={"ADD": 1}).ok
    assert parity_with(float_operators={"ADD": 1}, allow_float=True).ok


def test_the_worst_output_speaks_for_all():
    good, bad = (
        qr.OutputParity("a", 0.1, 0.0, 0.0, 1.0, 1.0, 1.0),
        qr.OutputParity("b", 0.1, 4.0, 1.0, 0.5, 0.5, 0.7),
    )
    parity = qr.Parity((good, bad), (), {}, {}, 1, 1)
    assert (parity.max_steps, parity.mean_steps) == (4.0, 0.5)
    assert (parity.within_one, parity.top1_agreement) == (0.5, 0.7)


def test_a_parity_becomes_plain_data(dense):
    parity = qr.verify_tflite(*dense, ROWS)
    data = json.loads(json.dumps(parity.to_dict()))
    assert data["ok"] is True
    assert data["outputs"][0]["name"] == "quant_last"
    assert (data["file_bytes"], data["samples"]) == (len(dense[1]), 200)
    assert data["float_operator_count"] == 0
    for figure in ("max_steps", "mean_steps", "within_one", "top1_agreement", "tensor_types"):
        assert data[figure] == pytest.approx(getattr(parity, figure))


def test_the_table_shows_the_figures_and_the_verdict(dense):
    parity = qr.verify_tflite(*dense, ROWS)
    text = parity.table()
    assert "quant_last" in text
    assert f"{parity.file_bytes} bytes" in text
    assert text.rstrip().endswith("; ok")
    assert parity_with(within_one=0.5).table().rstrip().endswith("NOT ok")


def test_a_class_that_the_file_has_among_its_largest_agrees(dense):
    theirs = Runner(TFLiteFile(dense[1]))({"row": ROWS})[0]
    first = theirs.argmax(1)
    step = qr.verify_tflite(theirs, dense[1], ROWS).outputs[0].step
    other = theirs.copy()
    other[np.arange(50), first[:50]] -= 1000.0 * step  # another class in the first 50 rows
    _, middle, highest = np.sort(theirs[:50], axis=1).T
    assert (middle == highest).any()  # a row of equal scores has no class to disagree about
    expected = 1.0 - np.sum(middle < highest) / 200
    assert qr.verify_tflite(other, dense[1], ROWS).top1_agreement == pytest.approx(expected)
