"""Export and verification refuse what does not fit, and name it."""

from __future__ import annotations

import numpy as np
import pytest

import qat_round as qr
from tests.models import nets

# Calibration

ROWS = nets.vectors()


def with_value(value):
    rows = ROWS.copy()
    rows[40, 3] = value
    return rows


# Export


def test_export_names_the_tensors_that_were_never_calibrated(quantized, tmp_path):
    with pytest.raises(ValueError, match=r"quantize_row/input, .*Run qr\.calibrate") as error:
        qr.export_tflite(quantized, tmp_path / "model.tflite")
    assert "quant_last/output" in str(error.value)
    assert "kernel" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("io", ["int4", "INT8", None, np.int8])
def test_an_unknown_io_type_is_refused(calibrated, io):
    with pytest.raises(ValueError, match=r"io=.* is unknown; allowed are \['float32', 'int8'"):
        qr.export_tflite(calibrated, io=io)


def test_activations_that_tflite_cannot_hold_are_named():
    model = qr.quantize_model(nets.dense_net(), activation_bits=4)
    qr.calibrate(model, ROWS)
    with pytest.raises(ValueError, match=r"quant_last/output \(4 bits\)"):
        qr.export_tflite(model)


def test_a_path_that_cannot_be_written_is_refused_before_converting(calibrated, tmp_path):
    (tmp_path / "file").write_text("mine")
    for path, error, message in (
        (tmp_path, IsADirectoryError, "is a folder"),
        (tmp_path / "missing" / "model.tflite", FileNotFoundError, "does not exist"),
        (tmp_path / "file" / "model.tflite", OSError, "Nothing can be written in"),
        ("/proc/model.tflite", OSError, "Nothing can be written in '/proc'"),
    ):
        with pytest.raises(error, match=message):
            qr.export_tflite(calibrated, path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


# Verification


@pytest.fixture(scope="module")
def tflite(calibrated):
    return qr.export_tflite(calibrated)


@pytest.mark.parametrize("kept", [0, 4, 8, 40, 0.5, 0.99])
def test_a_cut_off_file_is_called_damaged(calibrated, tflite, kept):
    end = kept if isinstance(kept, int) else int(kept * len(tflite))
    with pytest.raises(ValueError, match=r"is damaged|no \.tflite"):
        qr.verify_tflite(calibrated, tflite[:end], ROWS)


def test_a_corrupted_file_is_called_damaged(calibrated, tflite):
    rng = np.random.default_rng(0)
    spoilt = bytearray(tflite)
    for at in rng.integers(8, len(tflite), 200):
        spoilt[at] ^= 0xFF
    with pytest.raises(ValueError, match="damaged"):
        qr.verify_tflite(calibrated, bytes(spoilt), ROWS)


def test_some_other_file_is_no_tflite(calibrated, tmp_path):
    (tmp_path / "notes.txt").write_text("these are my notes")
    with pytest.raises(ValueError, match=r"This is no \.tflite"):
        qr.verify_tflite(calibrated, tmp_path / "notes.txt", ROWS)
    with pytest.raises(FileNotFoundError, match=r"There is no \.tflite file at"):
        qr.verify_tflite(calibrated, tmp_path / "missing.tflite", ROWS)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (ROWS[:, :5], "does not fit the input"),
        (ROWS[:0], "empty"),
        (with_value(np.nan), "NaN or infinity"),
        ([ROWS, ROWS], "2 inputs|inputs, the data 2"),
        ({"column": ROWS}, "lacks? the inputs|inputs lack"),
    ],
)
@pytest.mark.parametrize("from_outputs", [False, True])
def test_verification_refuses_inputs_that_do_not_fit(
    calibrated, tflite, inputs, message, from_outputs
):
    given = np.zeros((64, 3), np.float32) if from_outputs else calibrated
    with pytest.raises(ValueError, match=message):
        qr.verify_tflite(given, tflite, inputs)


def test_outputs_for_other_inputs_are_refused(tflite):
    with pytest.raises(ValueError, match="not outputs for the same inputs"):
        qr.verify_tflite(np.zeros((10, 3), np.float32), tflite, ROWS)


def test_outputs_under_a_wrong_name_are_refused(tflite):
    with pytest.raises(ValueError, match=r"outputs lack \['quant_last'\]"):
        qr.verify_tflite({"first": np.zeros((64, 3))}, tflite, ROWS)


def test_loading_from_nowhere_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        qr.load_model(tmp_path / "missing.keras")
