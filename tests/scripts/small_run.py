"""A small float model, its data and a recipe in a folder: for tests that kill and fill disks."""

from __future__ import annotations

import pathlib
import zipfile

import numpy as np

import qat_round as qr
from tests.models import nets

RECIPE = """[model]
path = "{folder}/net.keras"

[data]
train = "{folder}/data.npz"

[quantize]
rounder = "stochastic"

[train]
epochs = 2

[export]
folder = "{out}"
name = "net"
c_array = true

[report]
html = false
"""


def make(folder: pathlib.Path, out: pathlib.Path) -> None:
    """Writes net.keras, data.npz, quantized.keras, calibrated.keras and recipe.toml."""
    rows = nets.vectors(128)
    np.savez(folder / "data.npz", x=rows, y=rows[:, :3].argmax(-1))
    nets.dense_net().save(folder / "net.keras")
    model = qr.quantize_model(nets.dense_net(), "sine")
    model.save(folder / "quantized.keras")
    qr.calibrate(model, rows).save(folder / "calibrated.keras")
    write_recipe(folder, out)


def write_recipe(folder: pathlib.Path, out: pathlib.Path) -> None:
    (folder / "recipe.toml").write_text(RECIPE.format(folder=folder, out=out))


def content(path: pathlib.Path) -> bytes:
    """What a file says, without the date at which it was saved."""
    if path.suffix != ".keras":
        return path.read_bytes()
    with zipfile.ZipFile(path) as file:
        names = sorted(set(file.namelist()) - {"metadata.json"})
        return b"".join(file.read(name) for name in names)
