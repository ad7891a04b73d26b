"""What a file says of itself, and that it computes as before."""

from __future__ import annotations

import json

import numpy as np
import pytest

import qat_round as qr
from qat_round._compat import read_flatbuffer
from qat_round.cli.main import main
from qat_round.files.interpreter import Runner
from qat_round.files.metadata import read_metadata
from qat_round.files.tflite_file import TFLiteFile

TOLD = {"name": "Patterns", "description": "Ten patterns, äöü", "version": "1.2", "license": "MIT"}


@pytest.fixture(scope="module")
def told(converted) -> bytes:
    return qr.add_metadata(converted("ste"), **TOLD, tensors={"image": "12x12 values"})


def test_what_is_written_is_read(told, converted):
    assert read_metadata(converted("ste")) == {}
    found = read_metadata(told)
    assert {key: found[key] for key in TOLD} == TOLD
    assert found["author"] == ""
    assert found["tensors"] == {"image": "12x12 values", "quant_classes": ""}


def test_the_file_computes_as_before(told, converted, pictures):
    answers = [Runner(TFLiteFile(f))({"image": pictures[0][:8]}) for f in (told, converted("ste"))]
    assert np.array_equal(*answers)


def test_it_is_the_flatbuffer_that_other_tools_look_for(told):
    model = read_flatbuffer(told)
    (entry,) = [e for e in model.metadata if e.name == b"TFLITE_METADATA"]
    content = bytes(model.buffers[entry.buffer].data)
    assert content[4:8] == b"M001"
    for text in (*TOLD.values(), "image", "quant_classes"):
        assert text.encode() + b"\0" in content


def test_saying_something_else_replaces_it(told, tmp_path):
    again = qr.add_metadata(told, tmp_path / "net.tflite", name="Other")
    assert (tmp_path / "net.tflite").read_bytes() == again
    assert read_metadata(again)["name"] == "Other"
    assert read_metadata(again)["version"] == ""
    names = [entry.name for entry in read_flatbuffer(again).metadata]
    assert names.count(b"TFLITE_METADATA") == 1


def test_a_tensor_that_is_not_there_is_named(converted):
    with pytest.raises(ValueError, match=r"'imgae' is no input.*mean 'image'"):
        qr.add_metadata(converted("ste"), name="x", tensors={"imgae": "?"})


def test_inspect_shows_it(told, tmp_path, capsys):
    (tmp_path / "net.tflite").write_bytes(told)
    assert main(["inspect", str(tmp_path / "net.tflite"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metadata"]["name"] == "Patterns"
    assert main(["inspect", str(tmp_path / "net.tflite")]) == 0
    assert "Ten patterns" in capsys.readouterr().out
