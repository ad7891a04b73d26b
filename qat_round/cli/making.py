"""Commands that make: quantize, calibrate, train, export."""

from __future__ import annotations

import pathlib
from typing import Any

import click

from . import qat_round
from .frame import common_options, emit
from .options import data_options, quantize_options, read_samples, settings_of
from .progress import working

_METHODS = ["minmax", "percentile", "mse", "entropy"]
_LOSSES = ["auto", "crossentropy", "binary_crossentropy", "mean_squared_error"]
_OUTPUT = click.option("-o", "--output", required=True, type=click.Path(), help="File to write.")


@qat_round.command()
@click.argument("model", type=click.Path())
@_OUTPUT
@quantize_options
@common_options
def quantize(model: str, output: str, **given: Any) -> None:
    """Quantize the float MODEL: a .keras file that is ready to be calibrated and trained."""
    from .. import api

    with working("quantizing"):
        quantized = api.quantize_model(model, **settings_of(given))
    _save(quantized, output)
    emit({"output": output, "layers": len(quantized.layers)}, f"wrote {output}")


@qat_round.command()
@click.argument("model", type=click.Path())
@_OUTPUT
@data_options
@click.option(
    "--method", type=click.Choice(_METHODS), help="By default mse below 8 bits, else minmax."
)
@common_options
def calibrate(model: str, output: str, method: str | None, **given: Any) -> None:
    """Find every range of the quantized MODEL from data."""
    from .. import api

    quantized = api.load_model(model, compile=False)
    data = read_samples(quantized, given)
    with working(f"calibrating with {data.samples} samples"):
        api.calibrate(quantized, data.inputs, method=method, verbose=0)
    _save(quantized, output)
    emit({"output": output, "samples": data.samples}, f"wrote {output}")


@qat_round.command()
@click.argument("model", type=click.Path())
@_OUTPUT
@data_options
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--learning-rate", type=float, default=3e-4, show_default=True)
@click.option("--loss", type=click.Choice(_LOSSES), default="auto")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@common_options
def train(model: str, output: str, **given: Any) -> None:
    """Train the quantized MODEL; interrupted, the same command goes on where it was."""
    from .. import api
    from ..data_files import file_hash
    from ..training import train_epochs

    loaded = api.load_model(model, compile=False)
    data = read_samples(loaded, given)
    keys = ("epochs", "batch_size", "learning_rate", "loss", "seed")
    settings = {key: given[key] for key in keys}
    target = pathlib.Path(output)
    state = target.parent / f".{target.stem}.training"
    mark = f"{file_hash(model)} {data.hash} {sorted(settings.items())}"
    with working("training") as progress:
        trained, history = train_epochs(
            lambda: api.load_model(model, compile=False),
            data,
            **settings,
            state=state,
            fingerprint=mark,
            told=progress.told,
            moved=progress.moved,
        )
    _save(trained, output)
    state.unlink(missing_ok=True)
    losses = [round(epoch["loss"], 6) for epoch in history]
    emit({"output": output, "losses": losses}, f"wrote {output}; losses {losses}")


@qat_round.command()
@click.argument("model", type=click.Path())
@_OUTPUT
@click.option("--io", type=click.Choice(["float32", "int8", "uint8", "int16"]), default="int8")
@click.option("--batch-size", type=click.IntRange(1), help="Fix the batch size.")
@click.option("--c-array", is_flag=True, help="Write C source and header beside it.")
@click.option("--float16", is_flag=True, help="Weights in float16, no integers; float models too.")
@common_options
def export(
    model: str, output: str, io: str, batch_size: int | None, c_array: bool, float16: bool
) -> None:
    """Export the quantized MODEL: .tflite, or by the ending .onnx (extra [onnx])."""
    from .. import api

    if output.endswith(".onnx"):
        _refuse_for_onnx({"--float16": float16, "--c-array": c_array, "--batch-size": batch_size})
    with working("converting"):
        if float16:
            content = api.export_float16(model, output, batch_size)
        elif output.endswith(".onnx"):
            content = api.export_onnx(api.load_model(model, compile=False), output)
        else:
            loaded = api.load_model(model, compile=False)
            content = api.export_tflite(loaded, output, io=io, batch_size=batch_size)
    result: dict[str, Any] = {"output": output, "bytes": len(content)}
    if c_array:
        stem = str(pathlib.Path(output).with_suffix(""))
        api.export_c(content, stem)
        result["c"] = [f"{stem}.c", f"{stem}.h"]
    emit(result, f"wrote {output}: {len(content):,} bytes")


def _refuse_for_onnx(given: dict[str, Any]) -> None:
    wrong = [option for option, value in given.items() if value]
    if wrong:
        raise click.UsageError(f"{', '.join(wrong)} is for .tflite files, the output is .onnx.")


def _save(model: Any, output: str) -> None:
    from ..recipe_run import save_model

    if not output.endswith(".keras"):
        raise click.UsageError(f"the output {output!r} has to end in .keras.")
    save_model(model, output)
