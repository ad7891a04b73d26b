"""Devices: TFLite-Micro and Vela on real files, times, budgets, and what is refused."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import tf_keras as keras

import qat_round as qr
from qat_round.edge.operators import macs, peak
from qat_round.files.tflite_file import Operator, TensorInfo, TFLiteFile
from tests.models import nets

needs_micro = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="the extra [edge] is not installed"
)
needs_vela = pytest.mark.skipif(
    importlib.util.find_spec("ethosu") is None, reason="the extra [edge] is not installed"
)


@pytest.fixture(scope="module")
def fixed(tuned):
    return qr.export_tflite(tuned("ste"), io="int8", batch_size=1)


@needs_micro
def test_tflite_micro_answers_as_keras_within_one_step(fixed, tuned, pictures):
    images = pictures[0][:64]
    run = qr.edge.run_micro(fixed, images)
    ours = tuned("ste").predict(images, verbose=0)
    found = run.outputs["quant_classes"]
    file = TFLiteFile(fixed)
    step = float(file.tensors[file.outputs[0]].scales[0])
    assert np.abs(found - ours).max() / step <= 1.001
    assert run.furthest <= 1.001
    assert np.ptp(found) > 10 * step  # it is no constant that agrees
    assert run.arena_bytes == run.head_bytes + run.tail_bytes > 1000


@needs_micro
def test_an_arena_that_is_too_small_is_refused(fixed, pictures):
    with pytest.raises(ValueError, match="1000 bytes is too small"):
        qr.edge.run_micro(fixed, pictures[0][:1], arena_size=1000)


@needs_micro
def test_a_file_that_its_kernels_refuse_is_no_matter_of_the_arena(float_net, pictures):
    model = qr.quantize_model(float_net, weight_bits=4)  # INT4 in a dense layer, by channel
    qr.calibrate(model, pictures[0][:32])
    tflite = qr.export_tflite(model, io="int8", batch_size=1)
    with pytest.raises(ValueError, match=r"refuses the file .*kTfLiteInt4"):
        qr.edge.run_micro(tflite, pictures[0][:1])


@needs_micro
def test_several_inputs_and_outputs_keep_their_names():
    rows = {"right_first": nets.vectors(4), "left_second": nets.vectors(4, seed=1)}
    model = qr.calibrate(qr.quantize_model(nets.twin_net()), rows)
    run = qr.edge.run_micro(qr.export_tflite(model, io="int8", batch_size=1), rows)
    assert sorted(run.outputs) == ["quant_a_scores", "quant_z_scores"]
    assert run.furthest <= 1.001


@needs_vela
def test_every_operator_runs_on_an_ethos_u55(fixed):
    found = qr.edge.vela(fixed)
    assert found.npu_share == 1.0
    assert found.cpu_operators == 0
    assert found.cycles > 0
    assert found.sram_bytes > 0
    assert found.flash_bytes > 0
    assert sum(layer["macs"] for layer in found.layers) == sum(
        macs(TFLiteFile(fixed), op) for op in TFLiteFile(fixed).operators
    )
    assert found.tflite[4:8] == b"TFL3"
    assert "ethos-u55-128" in found.table()


@needs_vela
def test_an_operator_in_float_is_left_to_the_cpu(float_net, pictures):
    model = qr.quantize_model(float_net, overrides={"classes": qr.FLOAT})
    qr.calibrate(model, pictures[0][:32])
    found = qr.edge.vela(qr.export_tflite(model, batch_size=1))
    assert found.npu_share < 1.0
    assert found.cpu_operators >= 1


def test_an_unknown_accelerator_is_refused_with_the_nearest(fixed):
    pytest.importorskip("ethosu")
    with pytest.raises(ValueError, match="mean 'ethos-u55-128'"):
        qr.edge.vela(fixed, "ethos-u55-12")


def test_the_extra_is_named_where_it_is_missing(fixed, pictures, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    for call in (lambda: qr.edge.run_micro(fixed, pictures[0]), lambda: qr.edge.vela(fixed)):
        with pytest.raises(ImportError, match=r"qat_round\[edge\]"):
            call()


def test_a_benchmark_times_the_whole_and_each_operator(fixed):
    found = qr.edge.benchmark(fixed, runs=5)
    assert 0.0 < found.least <= found.median <= found.p90 <= found.p99
    assert [row["operator"] for row in found.operators] == [
        op.name for op in TFLiteFile(fixed).operators
    ]
    assert all(row["median"] > 0.0 for row in found.operators)


@pytest.mark.parametrize("setting", [{"threads": 0}, {"runs": 0}, {"runs": 2.5}])
def test_a_benchmark_refuses_numbers_below_one(setting, fixed):
    with pytest.raises(ValueError, match="whole number >= 1"):
        qr.edge.benchmark(fixed, **setting)


def test_macs_are_counted_as_by_hand(fixed):
    file = TFLiteFile(fixed)
    by_hand = 10 * 10 * 8 * 9 + 4 * 4 * 12 * 9 * 8 + 4 * 4 * 12 * 10
    assert sum(macs(file, op) for op in file.operators) == by_hand


class Drawn:
    """Shapes and operators as a TFLiteFile has them."""

    def __init__(self, *shapes):
        none = np.zeros(0)
        self.tensors = [TensorInfo(str(i), "INT8", s, none, none) for i, s in enumerate(shapes)]


@pytest.mark.parametrize(
    ("name", "shapes", "inputs", "by_hand"),
    [
        ("BATCH_MATMUL", [(2, 3, 5), (2, 5, 7), (2, 3, 7)], (0, 1), 2 * 3 * 5 * 7),
        ("BATCH_MATMUL", [(2, 5, 3), (2, 5, 7), (2, 3, 7)], (0, 1), 2 * 3 * 5 * 7),  # transposed
        ("BATCH_MATMUL", [(1, 3, 5), (4, 5, 7), (4, 3, 7)], (0, 1), 4 * 3 * 5 * 7),  # spread
        ("SVDF", [(2, 6), (8, 6), (8, 10), (2, 4)], (0, 1, 2), 2 * (8 * 6 + 8 * 10)),
        (
            "UNIDIRECTIONAL_SEQUENCE_LSTM",
            [(1, 9, 6), (4, 6), (4, 4), (1, 9, 4)],
            (0, 1, 1, 1, 1, 2, 2, 2, 2),
            9 * 4 * (4 * 6 + 4 * 4),
        ),
        (
            "UNIDIRECTIONAL_SEQUENCE_LSTM",  # without an input gate
            [(1, 9, 6), (4, 6), (4, 4), (1, 9, 4)],
            (0, -1, 1, 1, 1, -1, 2, 2, 2),
            9 * 3 * (4 * 6 + 4 * 4),
        ),
        ("ADD", [(1, 4), (1, 4), (1, 4)], (0, 1), 0),
    ],
)
def test_macs_of_what_has_two_factors_or_a_state(name, shapes, inputs, by_hand):
    operator = Operator(name, inputs, (len(shapes) - 1,))
    assert macs(Drawn(*shapes), operator) == by_hand


def test_attention_counts_in_a_budget():
    given = keras.Input((4, 6))
    net = keras.Model(given, keras.layers.Attention()([given, given]))
    rows = np.random.default_rng(0).normal(size=(32, 4, 6)).astype(np.float32)
    model = qr.calibrate(qr.quantize_model(net), rows)
    assert qr.edge.budget(qr.export_tflite(model, batch_size=1)).macs == 2 * 4 * 4 * 6


def test_the_peak_of_activations_is_that_of_the_first_convolution(fixed):
    total, alive = peak(TFLiteFile(fixed))
    assert total == 10 * 10 * 8 + 4 * 4 * 12  # its output and the next one's
    assert len(alive) == 2


def test_a_budget_that_is_kept_says_so(fixed):
    found = qr.edge.budget(fixed, flash=1_000_000, sram=1_000_000, ops=10**9)
    assert found.ok
    assert "It fits" in found.table()


def test_a_budget_that_is_broken_names_the_layers(fixed):
    found = qr.edge.budget(fixed, flash=1000, sram=500, ops=1000)
    assert not found.ok
    assert [advice.split(":")[0] for advice in found.advice] == ["Flash", "SRAM", "MACs"]
    assert "classes" in found.advice[0]
    assert "act2" in found.advice[2]


def test_operators_that_a_target_lacks_are_listed(fixed):
    assert qr.edge.missing_operators(fixed) == {}
    assert qr.edge.missing_operators(fixed, {"CONV_2D"}) == {"RESHAPE": 1, "FULLY_CONNECTED": 1}
