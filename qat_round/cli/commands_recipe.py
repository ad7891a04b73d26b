"""Commands for recipes: init writes one, run does what it says."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import click

from qat_round.cli.frame import CheckFailed, common_options, emit, qat_round
from qat_round.cli.progress import working


@qat_round.command()
@click.argument("model", type=click.Path())
@click.option("--data", default="data.npz", show_default=True, help="Where the samples are.")
@click.option("-o", "--output", default="recipe.toml", show_default=True, type=click.Path())
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@common_options
def init(model: str, data: str, output: str, force: bool) -> None:
    """Write a commented recipe for the float MODEL."""
    from qat_round import api  # noqa: F401
    from qat_round.files.atomic_write import write_file
    from qat_round.pipeline.recipe_init import recipe_for

    if pathlib.Path(output).exists() and not force:
        raise click.UsageError(f"{output!r} is there already; --force writes over it.")
    text = recipe_for(model, data)
    write_file(output, text.encode())
    emit({"output": output}, f"wrote {output}; next: qat-round run {output}")


@qat_round.command()
@click.argument("recipe", type=click.Path())
@common_options
def run(recipe: str) -> None:
    """Do all that RECIPE says; interrupted, the same command goes on where it was."""
    from qat_round import api  # noqa: F401
    from qat_round.pipeline.recipe_file import read_recipe
    from qat_round.pipeline.recipe_run import run_recipe

    read = read_recipe(recipe)
    with working("starting") as progress:
        manifest = run_recipe(read, told=progress.told, moved=progress.moved)
    figures, parity = manifest["figures"], manifest["parity"]
    lines = [f"{name}: {value}" for name, value in figures.items()]
    lines += [f"furthest from Keras: {parity['max_steps']:.3g} steps"]
    lines += [_device(name, found) for name, found in manifest["devices"].items()]
    lines += manifest["notes"]
    lines += [
        f"wrote {file['name']}: {file['bytes']:,} bytes" for file in manifest["files"].values()
    ]
    emit(manifest, "\n".join(lines))
    if not manifest["ok"]:
        raise CheckFailed(f"the file did not pass the checks. {' '.join(manifest['failed'])}")


def _device(name: str, found: Mapping[str, Any]) -> str:
    """The figures of a device in a line."""
    shown = ("arena_bytes", "furthest", "npu_share", "cycles", "sram_bytes", "flash_bytes")
    told = [f"{key.replace('_', ' ')} {_number(found[key])}" for key in shown if key in found]
    return f"{name}: {', '.join(told) or found['refused']}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
