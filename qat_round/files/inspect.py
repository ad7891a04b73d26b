"""What is in a `.tflite`: operators, tensors, sizes; as data and as tables."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
from typing import Any

from qat_round._tables import as_text
from qat_round.files.metadata import read_metadata
from qat_round.files.tflite_file import TFLiteFile


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What was found in a file.

    Args:
        file_bytes, sha256: of the whole file.
        operators: operator -> how many.
        float_operators: the same of those that compute in float.
        tensor_types: tensor type -> how many.
        inputs, outputs, tensors: {name, type, shape, scale, zero_point} of each.
        metadata: what the file says of itself (`qr.add_metadata`), or nothing.
    """

    file_bytes: int
    sha256: str
    operators: dict[str, int]
    float_operators: dict[str, int]
    tensor_types: dict[str, int]
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    tensors: list[dict[str, Any]]
    metadata: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)

    def table(self, tensors: bool = False) -> str:
        """As text; with every tensor if asked."""
        rows = [
            (name, str(n), str(self.float_operators.get(name, 0)))
            for name, n in self.operators.items()
        ]
        text = as_text(f"{self.file_bytes:,} bytes", ("operator", "calls", "in float"), rows)
        groups = [("inputs", self.inputs), ("outputs", self.outputs)]
        for title, group in [*groups, *([("tensors", self.tensors)] if tensors else [])]:
            columns = ("name", "type", "shape", "scale", "zero point")
            text += as_text(title, columns, [_cells(tensor) for tensor in group])
        said = {key: value for key, value in self.metadata.items() if value}
        return text + "".join(f"{key}: {value}\n" for key, value in said.items())


def inspected(tflite: bytes | str | os.PathLike[str]) -> Inspection:
    """Looks into a file.

    Args:
        tflite: its bytes, or its path.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, or no TFLite model.
    """
    file = TFLiteFile(tflite)
    tensors = [_tensor(tensor) for tensor in file.tensors]
    return Inspection(
        file_bytes=len(file.content),
        sha256=hashlib.sha256(file.content).hexdigest(),
        operators=dict(collections.Counter(op.name for op in file.operators)),
        float_operators=file.float_operators(),
        tensor_types=file.tensor_types(),
        inputs=[tensors[i] for i in file.inputs],
        outputs=[tensors[i] for i in file.outputs],
        tensors=tensors,
        metadata=read_metadata(file.content),
    )


def _tensor(tensor: Any) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "type": tensor.type,
        "shape": list(tensor.shape),
        "scale": tensor.scales.tolist(),
        "zero_point": tensor.zero_points.tolist(),
    }


def _cells(tensor: dict[str, Any]) -> list[str]:
    shape = " x ".join(map(str, tensor["shape"]))
    scale, zero = tensor["scale"], tensor["zero_point"]
    shown = f"{len(scale)} channels" if len(scale) > 1 else "".join(f"{s:.6g}" for s in scale)
    return [tensor["name"], tensor["type"], shape, shown, "".join(map(str, zero[:1]))]
