"""Every kind of file on every runtime: Keras against LiteRT, TFLite-Micro, onnxruntime; and Vela.

    python -m benchmarks.devices.run                 the demo's net, MobileNetV2 0.35, a 1-D net
    python -m benchmarks.devices.run --nets demo     these rows alone; the others stay as they were

The nets are trained (nets.py); the float ones are kept in artifacts/devices.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

import qat_round as qr  # before TensorFlow
from benchmarks.timing import RESULTS, machine, save, table

import tf_keras as keras  # isort: skip
from benchmarks.devices.nets import KEPT, NETS, Data, accuracy, float_net, quantized  # isort: skip

from qat_round.files.interpreter import Runner
from qat_round.files.tflite_file import TFLiteFile
from qat_round.verify.parity import compare

EIGHT_BITS = qr.LayerSpec(weights=qr.TensorSpec(bits=8))
MODELS: dict[str, dict[str, Any]] = {  # name -> settings of quantize_model
    "8 bits": {},
    "4-bit weights": {"weight_bits": 4, "overrides": {keras.layers.Dense: EIGHT_BITS}},
    "16-bit activations": {"activation_bits": 16},
}
KINDS = {  # kind of file -> (model, io)
    "int8": ("8 bits", "int8"),
    "uint8": ("8 bits", "uint8"),
    "INT4 weights": ("4-bit weights", "int8"),
    "int16x8": ("16-bit activations", "int16"),
}
KERNELS = {
    "default": "default",
    "no XNNPACK": "builtin",
    "reference": "reference",
    "micro": "micro",
}
VELA = ("int8", "int16x8")
SAMPLES = 128
TITLE = "Every kind of file on every runtime, against Keras"
NOTES = f"""\
Nets trained on real data (`benchmarks/devices/nets.py`), quantized, fine-tuned. The logits of
{SAMPLES} test samples: furthest distance from Keras, computing as these kernels do
(`qr.computed_by`), in steps of the output's grid, and in brackets the share that is the very same
integer. *default*: LiteRT with XNNPACK; *no XNNPACK*: its built-in kernels; *reference*: its
reference kernels; *micro*: TFLite-Micro's own interpreter (x86); *onnx*: the model's `export_onnx`
in onnxruntime. *uncomputed*: the furthest that these are from Keras when it computes as by default.
*logits span*: how many steps they span. The dense layer of INT4 files has 8 bits: TFLite-Micro
refuses INT4 dense layers with a step for each channel.
Cycles, SRAM and flash are Vela's estimates for Ethos-U55-128."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures rows and saves each in results/devices.json and .md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    args = parser.parse_args(argv)
    for name in args.nets:
        for row in rows_of(name, args.kinds):
            rows = kept_rows() | {(name, row["file"]): row}  # another run may have added some
            save("devices", TITLE, [rows[k] for k in product(NETS, KINDS) if k in rows], NOTES)
            print(table([row]), flush=True)
    return 0


def kept_rows() -> dict[tuple[str, str], dict[str, Any]]:
    """The rows that are saved, by net and kind of file."""
    path = RESULTS / "devices.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return {(row["net"], row["file"]): row for row in rows}


def rows_of(name: str, kinds: Sequence[str]) -> Any:
    """One net's rows, one for each kind of file."""
    data = NETS[name].data()
    original = float_net(name, data)
    floating = accuracy(original.predict(data.x_test, verbose=0), data.y_test)
    models: dict[str, Any] = {}
    for kind in kinds:
        of, io = KINDS[kind]
        if of not in models:
            models[of] = quantized(name, original, data, MODELS[of])
        model = models[of]
        tflite = qr.export_tflite(model, KEPT / f"{name}_{kind}.tflite", io=io, batch_size=1)
        kept = accuracy(model.predict(data.x_test, verbose=0), data.y_test)
        figures = {"net": name, "file": kind, "float %": floating, "Keras %": kept}
        figures |= parities(model, tflite, data) | compiled(tflite, kind)
        yield figures | {"commit": machine()["commit"]}


def parities(model: Any, tflite: bytes, data: Data) -> dict[str, Any]:
    """Distances from Keras on each runtime, and TFLite-Micro's arena."""
    file, inputs = TFLiteFile(tflite), data.x_test[:SAMPLES]
    step = float(file.tensors[file.outputs[0]].scales[0])
    default = np.asarray(model(inputs, training=False))
    found: dict[str, Any] = {"logits span": round(float(np.ptp(default)) / step)}
    apart = 0.0
    for column, kernels in KERNELS.items():
        try:
            theirs, arena = answers(file, inputs, kernels)
        except ValueError as error:
            found[column] = f"refused: {str(error).split(': ', 1)[-1][:80]}"
            continue
        with qr.computed_by(model, kernels):
            found[column] = cell(np.asarray(model(inputs, training=False)), theirs, step)
        found |= arena
        apart = max(apart, compare("logits", default, theirs, step).max_steps)
    return found | {"onnx": onnx(model, inputs, step), "uncomputed": f"{apart:.2f}"}


def answers(
    file: TFLiteFile, inputs: np.ndarray, kernels: str
) -> tuple[np.ndarray, dict[str, str]]:
    """What a runtime answers, and TFLite-Micro's arena."""
    if kernels != "micro":
        return litert(file, inputs, kernels), {}
    micro = qr.edge.run_micro(file.content, inputs)
    return next(iter(micro.outputs.values())), {"arena": f"{micro.arena_bytes:,}"}


def cell(ours: np.ndarray, theirs: np.ndarray, step: float) -> str:
    """Furthest, and the share that is the same."""
    found = compare("logits", ours, theirs, step)
    return f"{found.max_steps:.2f} ({found.same:.2%})"


def litert(file: TFLiteFile, inputs: np.ndarray, kernels: str) -> np.ndarray:
    """What LiteRT answers, sample by sample."""
    runner = Runner(file, kernels=kernels)
    name = next(iter(runner.inputs))
    return np.concatenate([runner({name: inputs[i : i + 1]})[0] for i in range(len(inputs))])


def onnx(model: Any, inputs: np.ndarray, step: float) -> str:
    """Furthest from Keras in onnxruntime, or why there is no file."""
    try:
        found = qr.verify_onnx(model, qr.export_onnx(model), inputs).outputs[0]
    except ValueError as error:
        return f"refused: {str(error)[:80]}"
    return f"{found.max_steps * found.step / step:.2f} ({found.same:.2%})"


def compiled(tflite: bytes, kind: str) -> dict[str, Any]:
    """What Vela says, and the file's size."""
    size = {"file bytes": f"{len(tflite):,}"}
    if kind not in VELA:
        return size
    found = qr.edge.vela(tflite)
    memory = {"SRAM": f"{found.sram_bytes:,}", "flash": f"{found.flash_bytes:,}"}
    return {"NPU": f"{found.npu_share:.0%}", "cycles": f"{found.cycles:,}", **memory, **size}


if __name__ == "__main__":
    sys.exit(main())
