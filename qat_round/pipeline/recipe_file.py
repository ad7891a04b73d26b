"""A recipe: from a float model to a device in one TOML file, every key checked with its line."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from qat_round._compat import read_toml
from qat_round._validate import nearest
from qat_round.export.c_source import identifier
from qat_round.pipeline.recipe_schema import (
    PARTS,
    QUANTIZE_KEYS,
    ExportPart,
    Recipe,
    ReportPart,
    TrainPart,
)
from qat_round.rounding import Rounder, get
from qat_round.training import schedules


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
        qat_round.pipeline.recipe_file.RecipeError: ...toml, line 2: [model] has no key 'pth'; ...
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
        quantize = self._quantize(given.get("quantize", {}))
        self._annealing(parts["train"], quantize)
        self._array(parts["export"])
        self._devices(parts["report"], parts["export"], parts["check"].arena_bytes)
        written = frozenset(f"{part}.{key}" for part in PARTS for key in given.get(part, {}))
        return Recipe(**parts, quantize=quantize, seed=seed, written=written)

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
            self._check_settings({key: value}, key)
        self._check_settings(given, "")
        return dict(given)

    def _check_settings(self, given: Mapping[str, Any], key: str) -> None:
        """Makes the spec of some keys; each override alone first, so that its line is known."""
        tries: list[tuple[Mapping[str, Any], int]] = [(given, 0)]
        if key == "overrides":
            tries = [
                ({key: [entry]}, self._header("quantize.overrides", number))
                for number, entry in enumerate(given[key])
            ]
        for settings, line in tries:
            try:
                quantize_settings(settings)
            except (ValueError, TypeError, AttributeError) as error:
                named = key or _named_in(str(error), given)
                self._fail("quantize", named, str(error), line=line)

    def _annealing(self, train: TrainPart, quantize: Mapping[str, Any]) -> None:
        """Refuses a knob that no rounder has, and values that it cannot take."""
        if not train.knob:
            for key in ("knob_start", "knob_stop"):
                if getattr(train, key):
                    self._fail("train", key, f"[train] {key} is of a knob; name it: knob = ...")
            return
        rounders = _rounders(quantize)
        present = sorted({knob for rounder in rounders for knob in rounder.knobs})
        if train.knob not in present:
            message = (
                f"[train] knob = {train.knob!r}: no rounder of [quantize] has this knob; they have "
                f"{present or 'none'}"
            )
            self._fail("train", "knob", message, train.knob, present)
        for key in ("knob_start", "knob_stop"):
            value = getattr(train, key)
            for rounder in (r for r in rounders if train.knob in r.knobs):
                self._tried("train", key, dataclasses.replace, rounder, **{train.knob: value})
        ramp = {"name": train.knob_schedule, "start": train.knob_start, "stop": train.knob_stop}
        self._tried("train", "knob_start", schedules.get, {**ramp, "steps": 1})

    def _tried(self, part: str, key: str, make: Any, *given: Any, **settings: Any) -> None:
        try:
            make(*given, **settings)
        except (ValueError, TypeError) as error:
            self._fail(part, key, f"[{part}] {key}: {error}")

    def _array(self, export: ExportPart) -> None:
        near = identifier(export.c_name) if export.c_name else ""
        if export.c_name != near:
            message = (
                f"[export] c_name = {export.c_name!r} is no C identifier; {near!r} would be one"
            )
            self._fail("export", "c_name", message)

    def _devices(self, report: ReportPart, export: ExportPart, arena_bytes: int) -> None:
        if export.batch_size > 1 and (report.micro or arena_bytes):
            part, key = ("report", "micro") if report.micro else ("check", "arena_bytes")
            message = (
                f"[{part}] {key}: TFLite-Micro runs one sample at once, but [export] batch_size is "
                f"{export.batch_size}; make it 1"
            )
            self._fail(part, key, message)

    def _fail(
        self,
        part: str,
        key: str,
        message: str,
        word: Any = None,
        allowed: Any = (),
        line: int = 0,
    ) -> None:
        line = line or self._line(part, key)
        hint = nearest(str(word), [str(a) for a in allowed]) if word is not None else ""
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

    def _header(self, array: str, number: int) -> int:
        """The line of the n-th table of an array of tables; 0 if it is not written as one."""
        pattern = rf"\s*\[\[\s*{re.escape(array)}\s*\]\]"
        found = [at for at, line in enumerate(self.lines, 1) if re.match(pattern, line)]
        return found[number] if number < len(found) else 0


_BESIDE = ("unsupported", "preserve", "batch_norm")
"""Keys of `[quantize]` that are no part of the spec."""
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


def _rounders(quantize: Mapping[str, Any]) -> list[Rounder]:
    """Every rounding method that `[quantize]` asks for."""
    from qat_round.quantizers.model_spec import model_spec

    settings = quantize_settings(quantize)
    said = {key: value for key, value in settings.items() if key not in _BESIDE}
    spec = said["spec"] if "spec" in said else model_spec(**said)
    left, found = [spec.get_config()], []
    while left:
        part = left.pop()
        if isinstance(part, Mapping) and "rounder" in part:
            found.append(get(part["rounder"]))
        elif isinstance(part, Mapping):
            left.extend(part.values())
        elif isinstance(part, list):
            left.extend(part)
    return found


def quantize_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """`[quantize]` as arguments of `qr.quantize_model`; checked by making the spec once.

    Raises:
        ValueError, TypeError: for what `qr.TensorSpec` and `qr.LayerSpec` refuse.
    """
    from qat_round.models.quantize import check_unsupported
    from qat_round.quantizers.model_spec import ModelSpec, model_spec
    from qat_round.quantizers.sparsity import patterns

    settings = {key: _without_false(value) for key, value in given.items()}
    if "overrides" in settings:
        overrides = ModelSpec.from_config({"overrides": settings["overrides"]}).overrides
        settings["overrides"] = dict(overrides)
    said = {key: value for key, value in settings.items() if key not in _BESIDE}
    if "recipe" in said:
        settings = {key: settings[key] for key in _BESIDE if key in settings}
        settings["spec"] = _spec_of(**said)
    else:
        model_spec(**said)
    check_unsupported(settings.get("unsupported", "error"))
    patterns(settings.get("preserve"))
    if isinstance(settings.get("preserve"), list):
        settings["preserve"] = tuple(settings["preserve"])
    return settings


def _spec_of(recipe: str, overrides: Any = (), **others: Any) -> Any:
    from qat_round.quantizers.recipes import recipe_spec

    if others:
        raise ValueError(f"[quantize] recipe says it all; leave {sorted(others)} out.")
    return recipe_spec(recipe, overrides)


def _without_false(value: Any) -> Any:
    """False stands for "in float": TOML has no null."""
    return None if value is False else value
