"""C source and header: what a compiler makes of them is the file."""

from __future__ import annotations

import hashlib
import shutil
import subprocess

import pytest

import qat_round as qr
from qat_round.export.c_source import identifier

READER = """
#include <stdio.h>
#include <stdint.h>
#include "model.h"
int main(void) {
  fwrite(my_net, 1, MY_NET_SIZE, stdout);
  fprintf(stderr, "%d %s %u %u %.9g %d", (int)((uintptr_t)my_net % 16), MY_NET_SHA256,
          MY_NET_INPUT_ELEMENTS, MY_NET_OUTPUT_ELEMENTS, MY_NET_INPUT_SCALE,
          MY_NET_INPUT_ZERO_POINT);
  return 0;
}
"""


@pytest.mark.parametrize("compiler", ["cc", "c++"])
def test_the_compiled_array_is_the_file_byte_for_byte(compiler, converted, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    tflite = converted("ste")
    qr.export_c(tflite, tmp_path / "model", name="my_net")
    (tmp_path / "main.c").write_text(READER)
    command = [compiler, "-Wall", "-Werror", "-x", "c" if compiler == "cc" else "c++"]
    files = [str(tmp_path / name) for name in ("main.c", "model.c")]
    built = subprocess.run([*command, *files, "-o", str(tmp_path / "reader")], capture_output=True)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(tmp_path / "reader")], capture_output=True, check=True)
    assert done.stdout == tflite
    offset, sha256, inputs, outputs, scale, zero_point = done.stderr.decode().split()
    assert offset == "0"
    assert sha256 == hashlib.sha256(tflite).hexdigest()
    assert (inputs, outputs) == ("144", "10")
    from qat_round.files.tflite_file import TFLiteFile

    file = TFLiteFile(tflite)
    tensor = file.tensors[file.inputs[0]]
    assert float(scale) == pytest.approx(tensor.scales[0], rel=1e-7)
    assert int(zero_point) == tensor.zero_points[0]


def test_a_path_becomes_an_identifier():
    assert identifier("my-net.v2") == "my_net_v2"
    assert identifier("2fast") == "_2fast"
    assert identifier("int") == "_int"
    assert identifier("") == "model"


@pytest.mark.parametrize(
    ("settings", "word"), [({"name": "a b"}, "a_b"), ({"alignment": 12}, "power of two")]
)
def test_what_is_no_c_is_refused(settings, word, converted, tmp_path):
    with pytest.raises(ValueError, match=word):
        qr.export_c(converted("ste"), tmp_path / "model", **settings)
    assert list(tmp_path.iterdir()) == []
