"""A recipe: from a float model to a device in one TOML file, every key checked with its line."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from ._compat import read_toml
from .rounding import nearest

LOSSES = ("auto", "crossentropy", "binary_crossentropy", "mean_squared_error")
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


@dataclasses.dataclass(frozen=True)
class TrainPart:
    """`[train]`: training with quantization."""

    epochs: int = _key(3, "0 leaves it at calibration", least=0)
    batch_size: int = _key(64, "samples in a batch", least=1)
    learning_rate: float = _key(3e-4, "of Adam, falling to 0 along half a cosine", above=0.0)
    loss: str = _key("auto", "auto: cross-entropy for whole-number labels", choices=LOSSES)
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
    "rounder": (str, dict),
    "weight_bits": (int,),
    "activation_bits": (int,),
    "weights": (str, dict, bool),
    "activations": (str, dict, bool),
    "overrides": (list,),
    "unsupported": (str,),
    "preserve": (str, list),
}


class RecipeError(ValueError):
    """A recipe that cannot be used: file, line, what is wrong, the nearest right name."""


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Reads and checks a recipe.

    Args:
        path: a TOML file.

    Returns:
        The Recipe; paths in it are as written, and count from the working folder.

    Raises:
        FileNotFoundError: if there is none.
        RecipeError: for broken TOML, an unknown or missing key, a wrong type or value; with its
            line.

    Example:
        >>> import tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "recipe.toml"
        >>> _ = file.write_text("[model]\\npth = 'net.keras'\\n")
        >>> read_recipe(file)
        Traceback (most recent call last):
        qat_round.recipe_file.RecipeError: ...recipe.toml, line 2: [model] has no key 'pth'; ...
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no recipe {str(path)!r}; qat-round init writes one.")
    try:
        text = file.read_text(encoding="utf-8")
        given = read_toml(text)
    except ValueError as error:
        raise RecipeError(f"{path}: this is no TOML: {error}") from error
    return _Checker(str(path), text).recipe(given)


class _Checker:
    """Knows the file, so that every complaint has a line."""

    def __init__(self, path: str, text: str):
        self.path, self.lines = path, text.splitlines()

    def recipe(self, given: Mapping[str, Any]) -> Recipe:
        allowed = ["seed", "quantize", *PARTS]
        for key in given:
            if key not in allowed:
                self._fail("", key, f"there is no {key!r}; there are {allowed}", key, allowed)
        seed = given.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
            self._fail("", "seed", f"seed = {seed!r} has to be a whole number from 0 to 2^31 - 1")
        parts = {name: self._part(name, cls, given.get(name, {})) for name, cls in PARTS.items()}
        return Recipe(**parts, quantize=self._quantize(given.get("quantize", {})), seed=seed)

    def _part(self, name: str, cls: Any, given: Any) -> Any:
        if not isinstance(given, Mapping):
            self._fail("", name, f"{name} has to be a table: [{name}]")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key, value in given.items():
            if key not in fields:
                allowed = list(fields)
                message = f"[{name}] has no key {key!r}; it has {allowed}"
                self._fail(name, key, message, key, allowed)
            self._check(name, fields[key], value)
        for key, field in fields.items():
            if field.metadata.get("needed") and not given.get(key):
                self._fail(name, "", f"[{name}] needs {key} = ... ({field.metadata['about']})")
        return cls(**{key: _as_type(fields[key], value) for key, value in given.items()})

    def _check(self, part: str, field: Any, value: Any) -> None:
        key, kind, limits = field.name, type(field.default), field.metadata
        said = f"[{part}] {key} = {value!r}"
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not fits or (isinstance(value, bool) and kind is not bool):
            self._fail(part, key, f"{said} has to be {_WORDS[kind]}")
        if "choices" in limits and value not in limits["choices"]:
            choices = list(limits["choices"])
            self._fail(part, key, f"{said} is unknown; allowed are {choices}", value, choices)
        if "pattern" in limits and not re.fullmatch(limits["pattern"], value):
            self._fail(part, key, f"{said} may have letters, digits, '_' and '-' only")
        if "least" in limits and not value >= limits["least"]:
            self._fail(part, key, f"{said} has to be at least {limits['least']}")
        if "above" in limits and not value > limits["above"]:
            self._fail(part, key, f"{said} has to be above {limits['above']}")

    def _quantize(self, given: Any) -> dict[str, Any]:
        if not isinstance(given, Mapping):
            self._fail("", "quantize", "quantize has to be a table: [quantize]")
        for key, value in given.items():
            if key not in QUANTIZE_KEYS:
                allowed = list(QUANTIZE_KEYS)
                message = f"[quantize] has no key {key!r}; it has {allowed}"
                self._fail("quantize", key, message, key, allowed)
            kinds = QUANTIZE_KEYS[key]
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                words = " or ".join(_WORDS[kind] for kind in kinds)
                self._fail("quantize", key, f"[quantize] {key} = {value!r} has to be {words}")
        try:
            quantize_settings(given)
        except (ValueError, TypeError) as error:
            self._fail("quantize", _named_in(str(error), given), str(error))
        return dict(given)

    def _fail(self, part: str, key: str, message: str, word: Any = None, allowed: Any = ()) -> None:
        line = self._line(part, key)
        hint = nearest(str(word), list(allowed)) if word is not None else ""
        where = f"{self.path}, line {line}: " if line else f"{self.path}: "
        ends = "" if message.endswith(".") else "."
        raise RecipeError(f"{where}{message}{ends}{hint}")

    def _line(self, part: str, key: str) -> int:
        """The line of a key of a table, or else of the table; 0 if neither is written."""
        table, header = "", 0
        for number, line in enumerate(self.lines, 1):
            found = re.match(r"\s*\[+\s*([\w.\-\"]+)\s*\]+", line)
            if found:
                table = found[1]
                if table == part or table == f"{part}.{key}" or (not part and table == key):
                    header = header or number
            inside = table == part or table.startswith(f"{part}.")
            if key and inside and re.match(rf"\s*\"?{re.escape(key)}\"?\s*[=.]", line):
                return number
        return header


_WORDS = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
    list: "a list",
}


def _as_type(field: Any, value: Any) -> Any:
    return float(value) if isinstance(field.default, float) else value


def _named_in(message: str, given: Mapping[str, Any]) -> str:
    """The key that an error is about, as far as its words tell."""
    return next((key for key in given if key in message), next(iter(given), ""))


def quantize_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """`[quantize]` as arguments of `qr.quantize_model`; checked by making the spec once.

    Raises:
        ValueError, TypeError: for what `qr.TensorSpec` and `qr.LayerSpec` refuse.
    """
    from .model import check_unsupported
    from .spec import ModelSpec, model_spec

    settings = {key: _without_false(value) for key, value in given.items()}
    if "overrides" in settings:
        overrides = ModelSpec.from_config({"overrides": settings["overrides"]}).overrides
        settings["overrides"] = dict(overrides)
    beside = ("unsupported", "preserve")
    model_spec(**{key: value for key, value in settings.items() if key not in beside})
    check_unsupported(settings.get("unsupported", "error"))
    if isinstance(settings.get("preserve"), list):
        settings["preserve"] = tuple(settings["preserve"])
    return settings


def _without_false(value: Any) -> Any:
    """False stands for "in float": TOML has no null."""
    return None if value is False else value


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
            choices = field.metadata.get("choices")
            about = field.metadata["about"] + (f": {', '.join(choices)}" if choices else "")
            lines.append(f"{field.name} = {_toml(value)}  # {about}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _toml(value: Any) -> str:
    import json

    return str(value).lower() if isinstance(value, bool) else json.dumps(value)
