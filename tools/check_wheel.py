"""Builds the wheel, and follows README in an empty environment that holds nothing else.

    python tools/check_wheel.py                # build, contents, README's commands and Python
    python tools/check_wheel.py --contents     # build and contents only: seconds

Looks that the wheel holds the package alone, installs it with its extras, saves a small trained net
and its data, and runs README's `qat-round` lines and its Python as they are written. Status 1 if
something fails.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import venv
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXTRAS = "[edge,onnx,report]"

PREPARE = """
import os
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np, tf_keras as keras
rng = np.random.default_rng(0)
patterns = rng.normal(size=(10, 12, 12, 1))
labels = rng.integers(0, 10, 640)
images = (patterns[labels] + 0.7 * rng.normal(size=(640, 12, 12, 1))).astype(np.float32)
layers = keras.layers
model = keras.Sequential([
    keras.Input((12, 12, 1)), layers.Conv2D(8, 3, use_bias=False), layers.BatchNormalization(),
    layers.ReLU(), layers.Flatten(), layers.Dense(10)])
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(images, labels, epochs=3, verbose=0)
model.save("net.keras")
np.savez("data.npz", x=images, y=labels)
"""

GIVEN = """
import numpy as np, qat_round, tf_keras
assert "site-packages" in qat_round.__file__, qat_round.__file__
data = np.load("data.npz")
x_train, y_train, x_test = data["x"][:512], data["y"][:512], data["x"][512:]
model = tf_keras.models.load_model("net.keras", compile=False)
"""


def build(folder: pathlib.Path) -> pathlib.Path:
    """The wheel, built from a copy of what git tracks."""
    source = folder / "source"
    source.mkdir()
    files = subprocess.check_output(["git", "archive", "HEAD"], cwd=ROOT)
    subprocess.run(["tar", "-x", "-C", str(source)], input=files, check=True)
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.whl"))


def strangers(wheel: pathlib.Path) -> list[str]:
    """What is in the wheel, and neither the package nor its metadata."""
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    allowed = re.compile(r"qat_round/.*\.(py|typed|html|css|j2)$|qat_round-[\d.]+\.dist-info/")
    return [name for name in names if not allowed.match(name)]


def blocks(language: str) -> list[str]:
    """README's blocks of a language."""
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def follow(wheel: pathlib.Path, folder: pathlib.Path) -> None:
    """Installs the wheel and does what README says."""
    venv.create(folder / "env", with_pip=True)
    bins = folder / "env" / "bin"
    place = folder / "place"
    place.mkdir()
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"PATH": f"{bins}:{env['PATH']}", "TF_CPP_MIN_LOG_LEVEL": "3"}

    def run(*command: str) -> None:
        print("$", command[-1] if "-c" not in command else "python, as prepared", flush=True)
        subprocess.run(command, cwd=place, env=env, check=True)

    run(str(bins / "pip"), "install", "--quiet", f"{wheel}{EXTRAS}")
    run(str(bins / "python"), "-c", PREPARE)
    for block in blocks("sh"):
        for line in block.splitlines():
            if line.startswith("qat-round"):
                run("sh", "-c", line.split("  #")[0])
    run(str(bins / "python"), "-c", GIVEN + "\n".join(blocks("python")))


def main() -> int:
    """Builds, looks, follows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contents", action="store_true", help="build and contents only")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        wheel = build(folder)
        found = strangers(wheel)
        print(
            f"{wheel.name}: {wheel.stat().st_size:,} bytes; not of the package: {found or 'none'}"
        )
        if not found and not args.contents:
            follow(wheel, folder)
            print("README's commands and Python ran on the wheel.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
