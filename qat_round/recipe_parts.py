"""What a recipe may say: every key with its default, its meaning and its limits."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

LOSSES = ("auto", "crossentropy", "binary_crossentropy", "mean_squared_error")
METHODS = ("", "minmax", "percentile", "mse", "entropy")
IO = ("float32", "int8", "uint8", "int16")
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
    method: str = _key("", "how; empty: as the recipe of [quantize] asks", choices=METHODS)


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


@dataclasses.dataclass(frozen=True)
class CheckPart:
    """`[check]`: what has to hold, or the exit status is 1."""

    samples: int = _key(1000, "test samples that are compared", least=1)
    allow_float: bool = _key(False, "tolerate operators in float")
    max_accuracy_drop: float = _key(100.0, "points the file may lose against float", least=0.0)


@dataclasses.dataclass(frozen=True)
class ReportPart:
    """`[report]`: the HTML page (extra [report])."""

    html: bool = _key(True, "write <name>.html")
    vela: str = _key("", "NPU to compile for, such as ethos-u55-128; empty: none")
    micro: bool = _key(False, "run the file on TFLite-Micro")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All of a recipe.

    Args:
        seed: of everything random.
        quantize: the arguments of `qr.quantize_model`, as plain data.
    """

    model: ModelPart
    data: DataPart
    quantize: dict[str, Any]
    train: TrainPart = TrainPart()
    export: ExportPart = ExportPart()
    check: CheckPart = CheckPart()
    report: ReportPart = ReportPart()
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)


PARTS = {
    "model": ModelPart,
    "data": DataPart,
    "train": TrainPart,
    "export": ExportPart,
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
        recipe_parts: values that differ from the defaults, by part.
        quantize: the lines of `[quantize]`.
    """
    blocks = ["seed = 0  # of everything random\n"]
    for name, cls in PARTS.items():
        if name == "train":
            blocks.append(quantize)
        lines = [f"[{name}]  # {(cls.__doc__ or '').split(': ')[1].rstrip('.')}"]
        for field in dataclasses.fields(cls):
            value = recipe_parts.get(name, {}).get(field.name, field.default)
            choices = ", ".join(filter(None, field.metadata.get("choices", ())))
            about = field.metadata["about"] + (f": {choices}" if choices else "")
            lines.append(f"{field.name} = {_toml(value)}  # {about}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else json.dumps(value)
