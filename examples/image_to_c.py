"""Images to firmware: float training, QAT, a verified int8 file, a C array that is compiled.

    python examples/image_to_c.py

Writes artifacts/image_to_c/digits.tflite, digits.c and digits.h. Status 1 if the file differs from
the model, or the array from the file.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys

from mnist import float_model, load_images, tflite_accuracy, train

import qat_round as qr

import tf_keras as keras  # isort: skip

OUT = pathlib.Path("artifacts/image_to_c")

READ_BACK = """
#include <stdio.h>
#include "digits.h"
int main(void) { return fwrite(digits, 1, DIGITS_SIZE, stdout) == DIGITS_SIZE ? 0 : 1; }
"""


def read_back(compiler: str) -> bytes:
    """The array's bytes, as a compiled program has them."""
    (OUT / "main.c").write_text(READ_BACK)
    sources = [str(OUT / "main.c"), str(OUT / "digits.c")]
    subprocess.run([compiler, "-std=c11", *sources, "-o", str(OUT / "main")], check=True)
    return subprocess.run([str(OUT / "main")], check=True, capture_output=True).stdout


def main() -> int:
    """Trains, exports, checks."""
    OUT.mkdir(parents=True, exist_ok=True)
    images = load_images()
    keras.utils.set_random_seed(0)
    model = train(float_model(), images, epochs=8, rate=5e-3)

    q = qr.quantize_model(model, rounder="sine")
    qr.calibrate(q, images.train[:512])
    train(q, images, epochs=2, rate=3e-4)

    tflite = qr.export_tflite(q, OUT / "digits.tflite", io="int8", batch_size=1)
    parity = qr.verify_tflite(q, tflite, images.test)
    print(parity.table())
    print(f"{tflite_accuracy(tflite, images):.1%} of 1,000 test images in the file")

    qr.export_c(tflite, OUT / "digits")
    compiler = shutil.which("cc")
    same = read_back(compiler) == tflite if compiler else None
    words = {True: "yes", False: "NO", None: "not tried: no C compiler"}
    print(f"the compiled C array is the file: {words[same]}")
    return int(not parity.ok or same is False)


if __name__ == "__main__":
    sys.exit(main())
