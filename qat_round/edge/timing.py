"""How long a file takes in LiteRT, as a whole and for each operator."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any

import numpy as np

from qat_round._compat import interpreter, read_flatbuffer, tflite_schema, write_flatbuffer
from qat_round._tables import as_text
from qat_round.edge.operators import constants, layer_of, macs
from qat_round.files.tflite_file import TFLiteFile


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Times of one inference, milliseconds.

    Args:
        threads, runs: how it was measured.
        median, p90, p99, least: over the runs.
        operators: for each operator {"layer", "operator", "median", "macs"}, each alone in a file
            of its own, so that the sum is not the whole.
    """

    threads: int
    runs: int
    median: float
    p90: float
    p99: float
    least: float
    operators: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """As text, the slowest operators first."""
        ordered = sorted(self.operators, key=lambda row: -row["median"])
        rows = [
            (o["layer"], o["operator"], f"{o['median']:.4f}", f"{o['macs']:,}") for o in ordered
        ]
        title = (
            f"{self.median:.3f} ms (p90 {self.p90:.3f}, p99 {self.p99:.3f}), {self.threads} threads"
        )
        return as_text(title, ("layer", "operator", "ms alone", "MACs"), rows)


def benchmark(
    tflite: bytes | str | os.PathLike[str],
    threads: int = 1,
    runs: int = 50,
    per_operator: bool = True,
) -> Benchmark:
    """Times a file in LiteRT on this machine, on zeros, a few runs to warm up left out.

    Args:
        tflite: the file; open sizes are run as 1.
        threads: of the interpreter.
        runs: how many inferences are timed.
        per_operator: whether each operator is timed too.

    Returns:
        A Benchmark.

    Raises:
        ValueError: for a damaged file, or numbers below 1.
    """
    for name, value in (("threads", threads), ("runs", runs)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"benchmark: {name}={value!r} has to be a whole number >= 1.")
    file = TFLiteFile(tflite)
    times = 1e3 * _times(file.content, threads, runs)
    return Benchmark(
        threads=threads,
        runs=runs,
        median=float(np.median(times)),
        p90=float(np.percentile(times, 90)),
        p99=float(np.percentile(times, 99)),
        least=float(times.min()),
        operators=tuple(_operators(file, threads, min(runs, 20))) if per_operator else (),
    )


def _times(tflite: bytes, threads: int, runs: int) -> np.ndarray:
    lite = interpreter(tflite, num_threads=threads)
    lite.allocate_tensors()
    for details in lite.get_input_details():
        lite.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
    found = []
    for _ in range(runs + max(2, runs // 10)):
        began = time.perf_counter()
        lite.invoke()
        found.append(time.perf_counter() - began)
    return np.array(found[-runs:])


def _operators(file: TFLiteFile, threads: int, runs: int) -> Any:
    fixed = constants(file)
    for at, operator in enumerate(file.operators):
        alone = _alone(file, at, fixed)
        yield {
            "layer": layer_of(file, operator),
            "operator": operator.name,
            "median": 1e3 * float(np.median(_times(alone, threads, runs))),
            "macs": macs(file, operator),
        }


def _alone(file: TFLiteFile, at: int, fixed: set[int]) -> bytes:
    """A file with one operator of the given one, its constants kept."""
    model = read_flatbuffer(file.content)
    graph, operator = model.subgraphs[0], file.operators[at]
    graph.operators = [graph.operators[at]]
    fed = dict.fromkeys(i for i in operator.inputs if i >= 0 and i not in fixed)
    graph.inputs, graph.outputs = list(fed), list(operator.outputs)
    model.subgraphs, model.signatureDefs = [graph], []
    model.metadata = []
    used = {*operator.inputs, *operator.outputs}
    for i, tensor in enumerate(graph.tensors):
        if i not in used:  # its content would be carried along
            tensor.buffer = 0
            tensor.type = tflite_schema().TensorType.INT8
            tensor.shape, tensor.shapeSignature, tensor.quantization = [1], None, None
            tensor.sparsity = None
    return write_flatbuffer(model)
