"""`qat-round run`: from a float model to checked files, taken up where it was interrupted."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

from qat_round._compat import keras
from qat_round.edge.device_metrics import device_figures
from qat_round.export.c_source import export_c
from qat_round.export.float16 import export_float16
from qat_round.export.onnx_qdq import export_onnx
from qat_round.export.tflite import check_exportable, export_tflite
from qat_round.files.atomic_write import check_writable, write_file
from qat_round.files.data_files import Data, file_hash
from qat_round.files.keras_file import save_model
from qat_round.files.manifest import noted, versions, write_manifest
from qat_round.files.metadata import add_metadata
from qat_round.frontend.load import ReferenceMissingError, Source, open_model
from qat_round.models.coverage import coverage
from qat_round.models.int8_activations import lifted
from qat_round.models.quantize import quantize_model
from qat_round.pipeline.recipe_checks import check_extras, data_of, failures
from qat_round.pipeline.recipe_file import quantize_settings
from qat_round.pipeline.recipe_schema import Recipe
from qat_round.quantizers.quantized_tensors import quantized_tensors
from qat_round.quantizers.recipes import recipes
from qat_round.report.write_report import can_report, write_report
from qat_round.training.batch_norm import reestimate_batch_norm
from qat_round.training.calibrate import calibrate
from qat_round.training.epochs import train_epochs
from qat_round.verify.metrics import figures
from qat_round.verify.parity import Parity
from qat_round.verify.verify_onnx import verify_onnx
from qat_round.verify.verify_tflite import verify_tflite


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
        self.notes: list[str] = []
        keras.utils.set_random_seed(recipe.seed)

    def __call__(self) -> dict[str, Any]:
        """Does it all.

        Returns:
            {"ok", "failed", "figures", "parity", "devices", "files", ...}, as the manifest has it.
        """
        recipe = self.recipe
        self._prepare()
        self.told("reading model and data")
        source = open_model(recipe.model.path, safe_mode=recipe.model.safe_mode)
        self.train, self.test = data_of(recipe, source.model)
        files = self._float16()
        model, history = self._trained()
        self.told("exporting")
        tflite = self._exported(model)
        self.told("checking the file against the model")
        test = self.test.part(0, recipe.check.samples)
        with self._as_written(model):
            parity = verify_tflite(model, tflite, test.inputs, allow_float=recipe.check.allow_float)
        found = figures(model, tflite, test, recipe.train.loss, _running(source))
        files |= self._write(model, tflite)
        micro = recipe.report.micro or recipe.check.arena_bytes > 0
        devices = device_figures(tflite, test.inputs, recipe.report.vela, micro)
        failed = failures(recipe, parity, found, devices, tflite)
        onnx = self._onnx(model, test, files, failed)
        facts = {"figures": found, "parity": parity.to_dict(), "devices": devices, **onnx}
        facts = self._about(failed) | facts | {"history": history, "layers": self._layers()}
        files |= self._report(model, tflite, test, parity, facts)
        return write_manifest(self.path(".json"), files, **facts)

    def _about(self, failed: list[str]) -> dict[str, Any]:
        """What the manifest begins with."""
        about = {"ok": not failed, "failed": failed, "notes": self.notes}
        return {**about, "recipe": self.recipe.to_dict(), "sources": self.sources()}

    def _prepare(self) -> None:
        """All that can be refused before anything is read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        check_writable(self.path(".tflite"))
        self._remove_leftovers()
        self._note(check_extras(self.recipe))

    def _note(self, text: str) -> None:
        """Tells something that is no failure, and keeps it for the manifest."""
        if text:
            self.told(text)
            self.notes.append(text)

    def path(self, ending: str) -> pathlib.Path:
        """A file of this run."""
        return self.folder / f"{self.recipe.export.name}{ending}"

    def sources(self) -> dict[str, str]:
        """Hashes of the model and of the data."""
        model = file_hash(self.recipe.model.path)
        return {"model": model, "train": self.train.hash, "test": self.test.hash}

    def _as_written(self, model: Any) -> contextlib.AbstractContextManager[Any]:
        """While open, the model has the grids of the file."""
        lift = self.recipe.export.lift_activations
        return lifted(model) if lift else contextlib.nullcontext()

    def _trained(self) -> tuple[Any, list[dict[str, Any]]]:
        recipe = self.recipe

        def make() -> Any:
            keras.utils.set_random_seed(recipe.seed)
            self.told(f"quantizing {recipe.model.path}")
            settings = quantize_settings(recipe.quantize)
            model = quantize_model(recipe.model.path, safe_mode=recipe.model.safe_mode, **settings)
            check_exportable(model, recipe.export.io, recipe.export.lift_activations)
            samples = self.train.part(0, recipe.data.calibration).inputs
            self.told(f"calibrating {_on_grids(model)}")
            return calibrate(model, samples, method=recipe.data.method or None)

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
        named = recipes().get(recipe.quantize.get("recipe", ""), {})
        if recipe.train.exact_statistics or named.get("reestimate_batch_norm"):
            self.told("exact statistics for batch norm")
            reestimate_batch_norm(model, self.train.inputs)
        return model, history

    def _fingerprint(self) -> str:
        """Of all that decides what is trained; another one starts over."""
        parts = self.recipe.to_dict()
        chosen = {key: parts[key] for key in ("seed", "model", "data", "quantize", "train")}
        told = json.dumps([chosen, self.sources(), versions()], sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()

    def _exported(self, model: Any) -> bytes:
        export, texts = self.recipe.export, self.recipe.metadata.texts()
        with noted() as notes:
            tflite = export_tflite(
                model,
                io=export.io,
                lift_activations=export.lift_activations,
                batch_size=export.batch_size or None,
            )
        for note in notes:
            self._note(note)
        return add_metadata(tflite, **{"name": export.name, **texts}) if texts else tflite

    def _float16(self) -> dict[str, pathlib.Path]:
        """The float model in float16; before anything is trained, as it may be refused."""
        part = self.recipe.model
        if not self.recipe.export.float16:
            return {}
        self.told("exporting in float16")
        path, batch_size = self.path("_float16.tflite"), self.recipe.export.batch_size or None
        export_float16(part.path, path, batch_size, safe_mode=part.safe_mode)
        return {"float16": path}

    def _onnx(
        self, model: Any, test: Data, files: dict[str, pathlib.Path], failed: list[str]
    ) -> dict[str, Any]:
        """Writes the ONNX file and compares it; what is wrong with it is added to `failed`."""
        if not self.recipe.export.onnx:
            return {}
        self.told("exporting as ONNX")
        try:
            with self._as_written(model):
                content = export_onnx(model)
                parity = verify_onnx(model, content, test.inputs)
        except ValueError as error:
            failed.append(str(error))
            return {}
        files["onnx"] = self.path(".onnx")
        write_file(files["onnx"], content)
        return {"onnx": {"max_steps": parity.max_steps, "operators": parity.operators}}

    def _write(self, model: Any, tflite: bytes) -> dict[str, pathlib.Path]:
        export = self.recipe.export
        files = {"keras": self.path(".keras"), "tflite": self.path(".tflite")}
        save_model(model, files["keras"])
        write_file(files["tflite"], tflite)
        if export.c_array:
            export_c(tflite, self.path(""), export.c_name or None, export.alignment)
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
        if not self.recipe.report.html or not can_report():
            return {}
        self.told("writing the report")
        path, inputs = self.path(".html"), test.part(0, 256).inputs
        with self._as_written(model):
            write_report(
                path, model=model, tflite=tflite, inputs=inputs, parity=parity, facts=facts
            )
        return {"report": path}

    def _remove_leftovers(self) -> None:
        """What a killed run left beside its files: never a file, only what became none."""
        name = self.recipe.export.name
        for pattern in (f".{name}.*.*", f".{name}_float16.*.*", f"..{name}.training.*"):
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


def _running(source: Source) -> Callable[[Any], Any]:
    """Runs the float model: the original if it can be run here, else as it was taken in."""

    def run(batch: Any) -> Any:
        try:
            return source.reference(batch)
        except ReferenceMissingError:
            return source.model(batch, training=False)

    return run
