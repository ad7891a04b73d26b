"""`qat-round run`: from a float model to checked files, taken up where it was interrupted."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ._compat import keras
from .batch_norm import reestimate_batch_norm
from .calibrate import calibrate
from .coverage import coverage
from .data_files import Data, file_hash, read_data
from .export import check_writable, export_tflite, write_file
from .firmware import export_c
from .intake.load import open_model
from .manifest import versions, write_manifest
from .model import quantize_model
from .parity import Parity
from .recipe_file import quantize_settings
from .recipe_parts import Recipe
from .recipes import recipes
from .tensors import quantized_tensors
from .tflite_file import Runner, TFLiteFile, sliced
from .training import check_labels, gives_probabilities, train_epochs
from .verify import verify_tflite

_BATCH = 64


class Run:
    """One recipe, from reading to files.

    Args:
        recipe: what to do.
        told: is called with a line for each stage.
        moved: is called after each training step with how many are done, and of how many.

    Raises:
        ValueError, TypeError, OSError: for what the recipe asks that cannot be; before anything is
            trained as far as it can be known.
    """

    def __init__(
        self,
        recipe: Recipe,
        told: Callable[[str], None] = lambda message: None,
        moved: Callable[[int, int], None] = lambda done, total: None,
    ):
        self.recipe, self.told, self.moved = recipe, told, moved
        self.folder = pathlib.Path(recipe.export.folder)
        keras.utils.set_random_seed(recipe.seed)

    def __call__(self) -> dict[str, Any]:
        """Does it all.

        Returns:
            {"ok", "figures", "parity", "files", ...}, as the manifest has it.
        """
        recipe, export = self.recipe, self.recipe.export
        self.folder.mkdir(parents=True, exist_ok=True)
        check_writable(self.path(".tflite"))
        self._remove_leftovers()
        self.told("reading model and data")
        self.train, self.test = self._data()
        model, history = self._trained()
        self.told("exporting")
        tflite = export_tflite(model, io=export.io, batch_size=export.batch_size or None)
        self.told("checking the file against the model")
        test = self.test.part(0, recipe.check.samples)
        parity = verify_tflite(model, tflite, test.inputs, allow_float=recipe.check.allow_float)
        figures = self._figures(model, tflite, test)
        files = self._write(model, tflite)
        facts = {
            "ok": parity.ok and self._accurate(figures),
            "recipe": recipe.to_dict(),
            "sources": self.sources(),
            "figures": figures,
            "parity": parity.to_dict(),
            "history": history,
            "layers": self._layers(),
        }
        files |= self._report(model, tflite, test, parity, facts)
        return write_manifest(self.path(".json"), files, **facts)

    def path(self, ending: str) -> pathlib.Path:
        """A file of this run."""
        return self.folder / f"{self.recipe.export.name}{ending}"

    def sources(self) -> dict[str, str]:
        """Hashes of the model and of the data."""
        model = file_hash(self.recipe.model.path)
        return {"model": model, "train": self.train.hash, "test": self.test.hash}

    def _data(self) -> tuple[Data, Data]:
        part = self.recipe.data
        model = open_model(self.recipe.model.path, safe_mode=self.recipe.model.safe_mode).model
        shape = model.inputs[0].shape[1:] if len(model.inputs) == 1 else None
        names = (part.inputs or None, part.labels or None, shape, model.input_names)
        train = read_data(part.train, *names)
        if part.test:
            return train, read_data(part.test, *names)
        held = max(1, train.samples // 10)
        return train.part(0, train.samples - held), train.part(train.samples - held)

    def _trained(self) -> tuple[Any, list[dict[str, Any]]]:
        recipe = self.recipe

        def make() -> Any:
            keras.utils.set_random_seed(recipe.seed)
            self.told(f"quantizing {recipe.model.path}")
            settings = quantize_settings(recipe.quantize)
            model = quantize_model(recipe.model.path, safe_mode=recipe.model.safe_mode, **settings)
            samples = self.train.part(0, recipe.data.calibration).inputs
            self.told(f"calibrating {_on_grids(model)}")
            return calibrate(model, samples, method=recipe.data.method or self._asks("calibrate"))

        model, history = train_epochs(
            make,
            self.train,
            **{key: getattr(recipe.train, key) for key in _TRAINED_WITH},
            seed=recipe.seed,
            state=self.folder / f".{recipe.export.name}.training",
            fingerprint=self._fingerprint(),
            told=self.told,
            moved=self.moved,
        )
        if recipe.train.exact_statistics or self._asks("reestimate_batch_norm"):
            self.told("exact statistics for batch norm")
            reestimate_batch_norm(model, self.train.inputs)
        return model, history

    def _asks(self, key: str) -> Any:
        """What the named recipe of `[quantize]` asks for; without one, what "w8a8" does."""
        return recipes()[self.recipe.quantize.get("recipe", "w8a8")].get(key)

    def _fingerprint(self) -> str:
        """Of all that decides what is trained; another one starts over."""
        parts = self.recipe.to_dict()
        chosen = {key: parts[key] for key in ("seed", "model", "data", "quantize", "train")}
        told = json.dumps([chosen, self.sources(), versions()], sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()

    def _figures(self, model: Any, tflite: bytes, test: Data) -> dict[str, Any]:
        """Accuracy, or mean squared error, of the float model, the quantized one and the file."""
        named = (
            test.inputs if isinstance(test.inputs, dict) else {model.input_names[0]: test.inputs}
        )
        before = open_model(self.recipe.model.path, safe_mode=self.recipe.model.safe_mode)
        figures: dict[str, Any] = {"samples": test.samples, "file_bytes": len(tflite)}
        if test.labels is None or len(model.outputs) != 1:
            return figures
        loss = check_labels(model, test, self.recipe.train.loss)
        runs = {
            "float": lambda batch: before.reference(_given(batch)),
            "quantized": lambda batch: model(_given(batch), training=False),
            "device": _device(tflite, model),
        }
        threshold = 0.5 if gives_probabilities(model) else 0.0
        kind = "mean_squared_error" if loss == "mean_squared_error" else "accuracy"
        for name, run in runs.items():
            found = np.concatenate(
                [np.asarray(_first(run(batch))) for batch in sliced(named, _batch(tflite))]
            )
            figures[f"{kind}_{name}"] = _score(kind, found, test.labels, threshold)
        return figures

    def _accurate(self, figures: dict[str, Any]) -> bool:
        drop = figures.get("accuracy_float", 0.0) - figures.get("accuracy_device", 0.0)
        return 100.0 * drop <= self.recipe.check.max_accuracy_drop

    def _write(self, model: Any, tflite: bytes) -> dict[str, pathlib.Path]:
        files = {"keras": self.path(".keras"), "tflite": self.path(".tflite")}
        save_model(model, files["keras"])
        write_file(files["tflite"], tflite)
        if self.recipe.export.c_array:
            export_c(tflite, self.path(""))
            files |= {"c": self.path(".c"), "h": self.path(".h")}
        return files

    def _layers(self) -> list[dict[str, Any]]:
        settings = quantize_settings(self.recipe.quantize)
        for key in ("unsupported", "preserve"):
            settings.pop(key, None)
        found = coverage(self.recipe.model.path, safe_mode=self.recipe.model.safe_mode, **settings)
        return [vars(row) for row in found.layers]

    def _report(
        self, model: Any, tflite: bytes, test: Data, parity: Parity, facts: dict[str, Any]
    ) -> dict[str, pathlib.Path]:
        asked = self.recipe.report
        if not asked.html:
            return {}
        from .report import write_report

        self.told("writing the report")
        samples = test.part(0, 256).inputs
        path = self.path(".html")
        write_report(
            path,
            model=model,
            tflite=tflite,
            inputs=samples,
            parity=parity,
            facts=facts,
            vela=asked.vela or None,
            micro=asked.micro,
        )
        return {"report": path}

    def _remove_leftovers(self) -> None:
        """What a killed run left beside its files: never a file, only what became none."""
        name = self.recipe.export.name
        for pattern in (f".{name}.*.*", f"..{name}.training.*"):
            for left in self.folder.glob(pattern):
                left.unlink(missing_ok=True)


_TRAINED_WITH = (
    "epochs",
    "batch_size",
    "learning_rate",
    "loss",
    "knob",
    "knob_start",
    "knob_stop",
    "knob_schedule",
)


def _on_grids(model: Any) -> str:
    """What is quantized, in a line."""
    found = [
        ("weights" if t.variable is not None else "activations", t.bits)
        for t in quantized_tensors(model)
    ]
    counts = collections.Counter(found).items()
    return ", ".join(f"{count} {kind} of {bits} bits" for (kind, bits), count in counts)


def run_recipe(recipe: Recipe, **progress: Any) -> dict[str, Any]:
    """Does what a recipe says; arguments and result are those of `Run`."""
    return Run(recipe, **progress)()


def save_model(model: Any, path: pathlib.Path | str) -> None:
    """Saves a model as `.keras`, beside its place first, then renamed."""
    target = pathlib.Path(path)
    check_writable(target)
    beside = target.parent / f".{target.stem}.saving.keras"
    optimizer, is_compiled = getattr(model, "optimizer", None), model._is_compiled
    try:
        model.optimizer, model._is_compiled = None, False  # their state is no part of what ships
        model.save(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(target)
    finally:
        model.optimizer, model._is_compiled = optimizer, is_compiled
        beside.unlink(missing_ok=True)


def _batch(tflite: bytes) -> int:
    return Runner(TFLiteFile(tflite)).fixed_batch() or _BATCH


def _device(tflite: bytes, model: Any) -> Callable[[Any], Any]:
    runner = Runner(TFLiteFile(tflite))
    names = list(runner.inputs)

    def run(batch: dict[str, np.ndarray]) -> Any:
        known = batch if set(batch) == set(names) else dict(zip(names, batch.values(), strict=True))
        return runner(known)

    return run


def _given(batch: dict[str, np.ndarray]) -> Any:
    return next(iter(batch.values())) if len(batch) == 1 else list(batch.values())


def _first(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, (list, tuple)) else outputs


def _score(kind: str, found: np.ndarray, labels: np.ndarray, threshold: float) -> float:
    if kind != "accuracy":
        return float(np.mean((found.reshape(labels.shape) - labels) ** 2))
    if found.shape[-1] == 1:
        return float(np.mean((found.reshape(len(found), -1)[:, 0] > threshold) == labels.ravel()))
    return float(np.mean(found.argmax(-1) == labels))
