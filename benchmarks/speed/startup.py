"""How long one waits: import, quantize, calibrate, predict, export, load, verify.

    python -m benchmarks.speed.startup                          the small net and MobileNetV2 0.35
    python -m benchmarks.speed.startup --nets small --samples 64

Import and the program are timed in new processes; stock TFMOT's figures stand beside ours where it
has the verb.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from benchmarks.nets import NETS, images
from benchmarks.timing import interleaved, save

THEIRS = "import tensorflow, tf_keras, tensorflow_model_optimization"


def main() -> None:
    arguments = _arguments()
    rows = _imports(arguments.rounds)
    for net in arguments.nets:
        rows += _verbs(net, arguments)
        print(rows[-1], flush=True)
    print(save(arguments.name, "Starting up: seconds", rows))


def _imports(rounds: int) -> list[dict[str, Any]]:
    commands = {
        "theirs": ["-c", THEIRS],
        "import": ["-c", f"{THEIRS}, qat_round"],
        "rounding.names()": ["-c", "from qat_round import rounding; rounding.names()"],
        "qat-round --help": ["-m", "qat_round", "--help"],
        "qat-round methods": ["-m", "qat_round", "methods"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    environment = dict(os.environ, TF_USE_LEGACY_KERAS="1")
    for _ in range(rounds):
        for name, command in commands.items():
            begin = time.perf_counter()
            started = [sys.executable, *command]
            subprocess.run(started, capture_output=True, check=True, env=environment)
            times[name].append(time.perf_counter() - begin)
    stock = statistics.median(times.pop("theirs"))
    rows = [_waited(name, spent) for name, spent in times.items()]
    rows[0] |= {"stock": stock, "ratio": rows[0]["ours"] / stock}
    return rows


def _waited(verb: str, spent: list[float]) -> dict[str, Any]:
    ends = f"{min(spent):.2f} to {max(spent):.2f}"
    return {"net": "", "verb": verb, "ours": statistics.median(spent), "ours, least to most": ends}


def _verbs(net: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot

    import qat_round as qr

    float_model, (x, _) = NETS[net](), images(arguments.samples)
    ours, stock = qr.quantize_model, tfmot.quantization.keras.quantize_model
    rows = [_row(net, "quantize", lambda: ours(float_model), lambda: stock(float_model), arguments)]
    q, s = ours(float_model), stock(float_model)
    rows.append(_row(net, "calibrate", lambda: qr.calibrate(q, x), None, arguments))
    rows.append(_row(net, "predict", *(_prediction(m, x) for m in (q, s)), arguments))
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "model")
        convert = lambda: _converted(tf.lite.TFLiteConverter.from_keras_model(s))  # noqa: E731
        export = lambda: qr.export_tflite(q, f"{path}.tflite", io="int8")  # noqa: E731
        rows.append(_row(net, "export", export, convert, arguments))
        rows.append(_row(net, "save", lambda: q.save(f"{path}.keras"), None, arguments))
        rows.append(_row(net, "load", lambda: qr.load_model(f"{path}.keras"), None, arguments))
        rows += _verification(net, q, f"{path}.tflite", x, arguments)
    return rows


def _verification(net: str, q: Any, path: str, x: Any, arguments: argparse.Namespace) -> list[dict]:
    """Beside the least that it takes: the interpreter's loop, and Keras's own prediction."""
    import qat_round as qr

    predict = _prediction(q, x)
    outputs = predict()
    given = lambda: qr.verify_tflite(outputs, path, x)  # noqa: E731
    whole = lambda: qr.verify_tflite(q, path, x)  # noqa: E731
    loop = lambda: _bare_loop(path, x)  # noqa: E731
    both = lambda: (predict(), _bare_loop(path, x))  # noqa: E731
    return [
        _row(net, "verify, outputs given (stock: interpreter loop)", given, loop, arguments),
        _row(net, "verify (stock: predict, interpreter loop)", whole, both, arguments),
    ]


def _row(net: str, verb: str, ours: Callable, stock: Callable | None, arguments: Any) -> dict:
    functions = {"ours": ours} | ({"stock": stock} if stock else {})
    times = interleaved(functions, arguments.rounds, seconds=0.0)
    row: dict[str, Any] = {"net": net, "verb": verb}
    row |= {name: spent.median for name, spent in times.items()}
    row["ours, least to most"] = f"{times['ours'].least:.2f} to {times['ours'].most:.2f}"
    return row | ({"ratio": row["ours"] / row["stock"]} if stock else {})


def _prediction(model: Any, x: Any) -> Callable[[], Any]:
    return lambda: model.predict(x, batch_size=32, verbose=0)


def _converted(converter: Any) -> bytes:
    import tensorflow as tf

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter.convert()


def _bare_loop(path: str, x: Any, batch: int = 64) -> None:
    """The interpreter on all samples, in batches, and nothing else."""
    import numpy as np

    from qat_round import _compat

    interpreter = _compat.interpreter(pathlib.Path(path).read_bytes())
    put, get = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    for begin in range(0, len(x), batch):
        part = np.clip(x[begin : begin + batch] * 32.0, -128, 127).astype(np.int8)
        interpreter.resize_tensor_input(put["index"], part.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(put["index"], part)
        interpreter.invoke()
        interpreter.get_tensor(get["index"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    nets = ["small", "mobilenet_v2_0.35"]
    parser.add_argument("--nets", nargs="+", default=nets, choices=list(NETS))
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--name", default="startup", help="of the files in results/")
    return parser.parse_args()


if __name__ == "__main__":
    main()
