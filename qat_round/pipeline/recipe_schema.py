"""What a recipe may say: every key with its default, its meaning and its limits."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from qat_round.edge.npu import ACCELERATORS
from qat_round.files.data_files import SCALE

LOSSES = ("auto", "crossentropy", "binary_crossentropy", "mean_squared_error")
METHODS = ("", "minmax", "percentile", "mse", "entropy")
IO = ("float32", "int8", "uint8", "int16")
ALIGNMENTS = tuple(2**n for n in range(13))
ANY_DROP = 100.0  # points; no file can lose more
SCHEDULES = ("linear", "cosine", "exponential")


def _key(default: Any, about: str, **limits: Any) -> Any:
    return dataclasses.field(default=default, metadata={"about": about, **limits})


@dataclasses.dataclass(frozen=True)
class ModelPart:
    """`[model]`: the float model."""

    path: str = _key("", "float model: .keras, .h5 or SavedModel", needed=True)
    safe_mode: bool = _key(True, "refuse Lambda layers in files, as Keras does")


@dataclasses.dataclass(frozen=True)
class DataPart:
    """`[data]`: what is calibrated, trained and checked with."""

    train: str = _key("", ".npz, .npy, folder of images, or module:function", needed=True)
    test: str = _key("", "the same for the checks; empty: the last tenth of train")
    inputs: str = _key("", "name of the inputs in an .npz; empty: x or inputs")
    labels: str = _key("", "name of the labels in an .npz, or an .npy; empty: y or labels")
    calibration: int = _key(512, "samples that ranges are found with", least=1)
    method: str = _key("", "how; empty: mse below 8 bits, else minmax", choices=METHODS)
    scale: float = _key(SCALE, "pixels of image folders, 0 to 255, become pixel * scale + offset")
    offset: float = _key(0.0, "see scale; 1/255 and 0 give 0..1, 1/127.5 and -1 give -1..1")


@dataclasses.dataclass(frozen=True)
class TrainPart:
    """`[train]`: training with quantization."""

    epochs: int = _key(3, "0 leaves it at calibration", least=0)
    batch_size: int = _key(64, "samples in a batch", least=1)
    learning_rate: float = _key(3e-4, "of Adam, falling to 0 along half a cosine", above=0.0)
    loss: str = _key("auto", "auto: cross-entropy for whole-number labels", choices=LOSSES)
    exact_statistics: bool = _key(False, "batch norm's; also where [quantize] recipe asks")
    knob: str = _key("", "knob of the rounder to anneal, such as slope; empty: none")
    knob_start: float = _key(0.0, "its first value")
    knob_stop: float = _key(0.0, "its last value")
    knob_schedule: str = _key("exponential", "how it moves", choices=SCHEDULES)


@dataclasses.dataclass(frozen=True)
class ExportPart:
    """`[export]`: files for the device."""

    folder: str = _key("out", "where everything is written")
    name: str = _key("model", "of the files, and of the array in C", pattern=r"[\w-]+")
    io: str = _key("int8", "type of inputs and outputs", choices=IO)
    batch_size: int = _key(1, "fixed batch size; 0 leaves it open", least=0)
    c_array: bool = _key(True, "C source and header")
    c_name: str = _key("", "of the array; empty: as the file")
    alignment: int = _key(16, "of the array, bytes, a power of two", choices=ALIGNMENTS)
    lift_activations: bool = _key(False, "write activations below 8 bits with 8, on their ranges")
    float16: bool = _key(False, "the float model too, with weights in float16")
    onnx: bool = _key(False, "the quantized model as ONNX too (extra [onnx])")


@dataclasses.dataclass(frozen=True)
class MetadataPart:
    """`[metadata]`: what the file says of itself; none if all is empty."""

    name: str = _key("", "of the model; empty: the file's")
    description: str = _key("", "what it does, what it takes and gives")
    version: str = _key("", "of the model")
    author: str = _key("", "who made it")
    license: str = _key("", "under which it is given")

    def texts(self) -> dict[str, Any]:
        """What is not empty."""
        return {key: text for key, text in dataclasses.asdict(self).items() if text}


@dataclasses.dataclass(frozen=True)
class CheckPart:
    """`[check]`: what has to hold, or the exit status is 1."""

    samples: int = _key(1000, "test samples that are compared", least=1)
    allow_float: bool = _key(False, "tolerate operators in float")
    max_accuracy_drop: float = _key(
        ANY_DROP, "points the file may lose against float; 100: any", least=0.0
    )
    flash_bytes: int = _key(0, "the file's size at most; 0: any", least=0)
    arena_bytes: int = _key(0, "TFLite-Micro's arena at most (extra [edge]); 0: any", least=0)
    macs: int = _key(0, "multiply-accumulates of one inference at most; 0: any", least=0)


@dataclasses.dataclass(frozen=True)
class ReportPart:
    """`[report]`: the HTML page (extra [report])."""

    html: bool = _key(True, "write <name>.html")
    vela: str = _key("", "NPU to compile for (extra [edge])", choices=("", *ACCELERATORS))
    micro: bool = _key(False, "run the file on TFLite-Micro (extra [edge])")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All of a recipe.

    Args:
        seed: of everything random.
        quantize: the arguments of `qr.quantize_model`, as plain data.
        written: "part.key" of every key that is in the file.
    """

    model: ModelPart
    data: DataPart
    quantize: dict[str, Any]
    train: TrainPart = TrainPart()
    export: ExportPart = ExportPart()
    metadata: MetadataPart = MetadataPart()
    check: CheckPart = CheckPart()
    report: ReportPart = ReportPart()
    seed: int = 0
    written: frozenset[str] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what it says, wherever that comes from."""
        found = dataclasses.asdict(self)
        found.pop("written")
        return found


PARTS = {
    "model": ModelPart,
    "data": DataPart,
    "train": TrainPart,
    "export": ExportPart,
    "metadata": MetadataPart,
    "check": CheckPart,
    "report": ReportPart,
}
QUANTIZE_KEYS = {
    "recipe": (str,),
    "rounder": (str, dict),
    "weight_bits": (int,),
    "activation_bits": (int,),
    "weights": (str, dict, bool),
    "activations": (str, dict, bool),
    "overrides": (list,),
    "unsupported": (str,),
    "preserve": (str, list),
}


def written(recipe_parts: Mapping[str, Mapping[str, Any]], quantize: str) -> str:
    """A commented recipe.

    Args:
        recipe_parts: values that differ from the defaults, by part; None leaves a key in a comment.
        quantize: the lines of `[quantize]`.
    """
    blocks = ["seed = 0  # of everything random\n"]
    for name, cls in PARTS.items():
        if name == "train":
            blocks.append(quantize)
        lines = [f"[{name}]  # {(cls.__doc__ or '').split(': ')[1].rstrip('.')}"]
        for field in dataclasses.fields(cls):
            value = recipe_parts.get(name, {}).get(field.name, field.default)
            choices = ", ".join(
                str(choice) for choice in field.metadata.get("choices", ()) if choice
            )
            about = field.metadata["about"] + (f": {choices}" if choices else "")
            left_out = "# " if value is None else ""
            value = field.default if value is None else value
            lines.append(f"{left_out}{field.name} = {as_toml(value)}  # {about}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def as_toml(value: Any) -> str:
    """A string, number or truth value as TOML has it."""
    return str(value).lower() if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)
