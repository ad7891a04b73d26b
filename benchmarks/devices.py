"""Every kind of file on every runtime: Keras against LiteRT, TFLite-Micro, onnxruntime; and Vela.

python benchmarks/devices.py                 # the demo's net, MobileNetV2 0.35, a 1-D net
python benchmarks/devices.py --nets demo

Distances are in steps of the output's grid, of the logits; weights of MobileNetV2 and of the 1-D
net are random. Writes a Markdown table to standard output.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

import qat_round as qr  # before TensorFlow

import tensorflow as tf  # isort: skip
import tf_keras as keras  # isort: skip

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))

from qat_round.tflite_file import Runner, TFLiteFile  # noqa: E402

KINDS = {  # name -> (settings of quantize_model, io)
    "int8": ({}, "int8"),
    "uint8": ({}, "uint8"),
    "INT4 weights": ({"weight_bits": 4}, "int8"),
    "int16x8": ({"activation_bits": 16}, "int16"),
}
SAMPLES, CALIBRATION = 64, 64


def demo() -> tuple[Any, np.ndarray]:
    """The demo's net, trained for two epochs on MNIST."""
    import mnist

    images = mnist.load_images()
    keras.utils.set_random_seed(0)
    return mnist.train(mnist.float_model(), images, 2, 5e-3), images.test


def mobilenet() -> tuple[Any, np.ndarray]:
    """MobileNetV2 0.35 at 96x96 without its softmax; random weights, settled statistics."""
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(
        (96, 96, 3), alpha=0.35, weights=None, classes=10, classifier_activation=None
    )
    images = np.random.default_rng(0).uniform(-1, 1, (160, 96, 96, 3)).astype(np.float32)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.5
    for _ in range(6):  # so that batch norm knows the data
        model(images[:32], training=True)
    return model, images


def one_dimensional() -> tuple[Any, np.ndarray]:
    """Convolutions over time, for sensors."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((128, 6))
    for filters in (16, 24, 32):
        x = keras.layers.Conv1D(filters, 5, strides=2, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    rows = np.random.default_rng(0).normal(size=(160, 128, 6)).astype(np.float32)
    return keras.Model(inputs, keras.layers.Dense(6)(x)), rows


NETS = {"demo": demo, "mobilenet": mobilenet, "one_dimensional": one_dimensional}


def litert_steps(model: Any, tflite: bytes, inputs: np.ndarray, **options: Any) -> float:
    """Furthest from Keras, steps."""
    file = TFLiteFile(tflite)
    runner = Runner(file, **options)
    step = float(file.tensors[file.outputs[0]].scales[0])
    ours = np.asarray(model(inputs, training=False))
    name = next(iter(runner.inputs))
    theirs = np.concatenate([runner({name: inputs[i : i + 1]})[0] for i in range(len(inputs))])
    return float(np.abs(ours - theirs).max() / step)


def resolvers() -> dict[str, dict[str, Any]]:
    """Options of the interpreter, by which kernels run."""
    try:
        from ai_edge_litert.interpreter import OpResolverType
    except ImportError:
        OpResolverType = tf.lite.experimental.OpResolverType  # noqa: N806
    key = "experimental_op_resolver_type"
    return {
        "default": {},
        "no XNNPACK": {key: OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES},
        "reference": {key: OpResolverType.BUILTIN_REF},
    }


def cells(original: Any, inputs: np.ndarray, kind: str) -> list[str]:
    """One row: distances on each runtime, arena, and what Vela says of int8."""
    settings, io = KINDS[kind]
    model = qr.calibrate(qr.quantize_model(original, **settings), inputs[:CALIBRATION])
    tflite = qr.export_tflite(model, io=io, batch_size=1)
    test = inputs[-SAMPLES:]
    row = [f"{litert_steps(model, tflite, test, **o):.2f}" for o in resolvers().values()]
    row += [*micro_cells(model, tflite, test), onnx_cell(model, test) if kind == "int8" else "-"]
    found = qr.edge.vela(tflite) if kind in ("int8", "int16x8") else None
    row.append(f"{found.npu_share:.0%}" if found else "-")
    row.append(f"{found.sram_bytes:,} / {found.flash_bytes:,}" if found else "-")
    return [*row, f"{found.cycles:,}" if found else "-", f"{len(tflite):,}"]


def micro_cells(model: Any, tflite: bytes, test: np.ndarray) -> list[str]:
    """Furthest from Keras on TFLite-Micro, and its arena."""
    try:
        run = qr.edge.run_micro(tflite, test[:16])
    except ValueError as error:
        return [f"refused: {str(error)[:80]}", "-"]
    file = TFLiteFile(tflite)
    step = float(file.tensors[file.outputs[0]].scales[0])
    ours = np.asarray(model(test[:16], training=False))
    apart = np.abs(next(iter(run.outputs.values())) - ours).max() / step
    return [f"{apart:.2f}", f"{run.arena_bytes:,}"]


def onnx_cell(model: Any, test: np.ndarray) -> str:
    """Furthest from Keras in onnxruntime, and the share within one step."""
    found = qr.verify_onnx(model, qr.export_onnx(model), test)
    return f"{found.max_steps:.2f} ({found.outputs[0].within_one:.1%})"


COLUMNS = "net file default no-XNNPACK reference micro arena onnx NPU SRAM/flash cycles bytes"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    args = parser.parse_args(argv)
    heads = COLUMNS.split()
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for name in args.nets:
        original, inputs = NETS[name]()
        for kind in args.kinds:
            row = cells(original, inputs, kind)
            print("| " + " | ".join([name, kind, *row]) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
