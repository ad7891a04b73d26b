"""Runs every example, each in a process of its own, and tells its time (`make examples`).

    python examples/run_all.py            # all
    python examples/run_all.py keras3     # one

The notebook is run in a kernel of this Python and left as it is. Status 1 if one fails.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time

from rich.console import Console

HERE = pathlib.Path(__file__).parent
QAT_ROUND = ("-m", "qat_round")

NOTEBOOK = """
import sys, nbformat
from nbclient import NotebookClient
NotebookClient(nbformat.read(sys.argv[1], 4), timeout=600, kernel_name="python3").execute()
"""

EXAMPLES: dict[str, list[tuple[str, ...]]] = {
    "image_to_c": [(str(HERE / "image_to_c.py"),)],
    "sensor_micro": [(str(HERE / "sensor_micro.py"),)],
    "mixed_bits": [(str(HERE / "mixed_bits.py"),)],
    "adopt_tfmot": [(str(HERE / "adopt_tfmot.py"),)],
    "keras3": [(str(HERE / "keras3.py"),)],
    "distill_w4a8": [(str(HERE / "distill_w4a8.py"),)],
    "recipe": [
        (str(HERE / "recipe_model.py"),),
        (*QAT_ROUND, "run", str(HERE / "recipe.toml")),
    ],
    "sequences": [(str(HERE / "sequences.py"),)],
    "quickstart": [("-c", NOTEBOOK, str(HERE / "quickstart.ipynb"))],
}


def run(commands: list[tuple[str, ...]]) -> subprocess.CompletedProcess[str]:
    """Runs commands of an example one after another, up to the first that fails."""
    for command in commands:
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        if done.returncode:
            break
    return done


def main(names: list[str]) -> int:
    """Runs the examples of these names, or all."""
    console, failed = Console(highlight=False), []
    for name in names or list(EXAMPLES):
        began = time.perf_counter()
        done = run(EXAMPLES[name])
        seconds = time.perf_counter() - began
        console.print(done.stdout.rstrip(), markup=False, soft_wrap=True)
        console.print(
            f"== {name}: status {done.returncode}, {seconds:.0f} s\n", markup=False, soft_wrap=True
        )
        if done.returncode:
            failed.append(name)
            console.print(done.stderr[-3000:], markup=False, soft_wrap=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
