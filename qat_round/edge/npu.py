"""The file on an Ethos-U, as Arm's compiler Vela estimates it."""

from __future__ import annotations

import csv
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

from qat_round._tables import as_text
from qat_round._validate import nearest
from qat_round.files.tflite_file import TFLiteFile, read_bytes
from qat_round.verify.micro_runner import require

_KINDS = {"u55": (32, 64, 128, 256), "u65": (256, 512), "u85": (128, 256, 512, 1024, 2048)}
ACCELERATORS = tuple(f"ethos-{kind}-{macs}" for kind, sizes in _KINDS.items() for macs in sizes)


@dataclasses.dataclass(frozen=True)
class NpuReport:
    """What Vela makes of a file.

    Args:
        accelerator: such as "ethos-u55-128".
        npu_share: share of the operators that run on the NPU, 0 to 1.
        npu_operators, cpu_operators: how many.
        sram_bytes, flash_bytes: peak of the one, size of the other.
        cycles: of one inference.
        milliseconds: the same at the clock of Vela's default system.
        fallbacks: why operators stay on the CPU, in Vela's words.
        layers: for each operator on the NPU {"name", "operator", "cycles", "macs"}.
        system, memory_mode: the assumptions behind the figures.
        tflite: the compiled file.
    """

    accelerator: str
    npu_share: float
    npu_operators: int
    cpu_operators: int
    sram_bytes: int
    flash_bytes: int
    cycles: int
    milliseconds: float
    fallbacks: tuple[str, ...]
    layers: tuple[dict[str, Any], ...]
    system: str
    memory_mode: str
    tflite: bytes = dataclasses.field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data, without the compiled file."""
        fields = dataclasses.asdict(self)
        fields.pop("tflite")
        return fields

    def table(self) -> str:
        """Operators with their cycles, and the sums."""
        rows = [
            (e["name"], e["operator"], f"{e['cycles']:,}", f"{e['macs']:,}") for e in self.layers
        ]
        title = (
            f"{self.accelerator}: {self.npu_share:.0%} of the operators on the NPU, "
            f"{self.cycles:,} cycles, SRAM {self.sram_bytes:,}, flash {self.flash_bytes:,} bytes"
        )
        return as_text(title, ("layer", "operator", "cycles", "MACs"), rows)


def vela(tflite: bytes | str | os.PathLike[str], accelerator: str = "ethos-u55-128") -> NpuReport:
    """Compiles a file for an Ethos-U NPU with Arm's Vela (extra [edge]).

    Args:
        tflite: the file, with a fixed batch size (`export_tflite(..., batch_size=1)`).
        accelerator: "ethos-u55-32", "-64", "-128", "-256", "ethos-u65-256", "-512", or
            "ethos-u85-128" to "-2048".

    Returns:
        A NpuReport.

    Raises:
        ImportError: without the extra.
        ValueError: for another accelerator, or a file that Vela refuses.
    """
    require("ethosu", "vela")
    check_accelerator(accelerator)
    content = read_bytes(tflite)
    TFLiteFile(content)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "model.tflite").write_bytes(content)
        said = _compile(folder, accelerator)
        return _report(folder, accelerator, said)


def check_accelerator(accelerator: str) -> None:
    """Raises a ValueError for a name that Vela does not know."""
    if accelerator not in ACCELERATORS:
        raise ValueError(
            f"vela: accelerator={accelerator!r} is unknown; allowed are {list(ACCELERATORS)}."
            f"{nearest(accelerator, list(ACCELERATORS))}"
        )


def _compile(folder: pathlib.Path, accelerator: str) -> str:
    options = ["--accelerator-config", accelerator, "--output-dir", str(folder)]
    shown = ["--verbose-performance", "--show-cpu-operations"]
    program = "from ethosu.vela.vela import main; main()"
    command = [sys.executable, "-c", program, *options, *shown, "model.tflite"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no message"]
        raise ValueError(f"vela: the compiler refuses the file: {lines[-1]}")
    return done.stdout


def _report(folder: pathlib.Path, accelerator: str, said: str) -> NpuReport:
    with next(folder.glob("*_summary_*.csv")).open() as file:
        row = next(csv.DictReader(file))
    counts = {word: _count(said, word) for word in ("CPU", "NPU")}
    layers = next(iter(folder.glob("*_per-layer.csv")), None)
    flash = ("on_chip_flash_memory_used", "off_chip_flash_memory_used")
    return NpuReport(
        accelerator=accelerator,
        npu_share=counts["NPU"] / max(sum(counts.values()), 1),
        npu_operators=counts["NPU"],
        cpu_operators=counts["CPU"],
        sram_bytes=round(float(row["sram_memory_used"]) * 1024),
        flash_bytes=round(sum(float(row[key]) for key in flash) * 1024),
        cycles=round(float(row["cycles_total"])),
        milliseconds=1e3 * float(row["inference_time"]),
        fallbacks=tuple(dict.fromkeys(re.findall(r"^(?:Info|Warning): (.*CPU.*)$", said, re.M))),
        layers=tuple(_layers(layers)) if layers else (),
        system=row["system_config"],
        memory_mode=row["memory_mode"],
        tflite=next(folder.glob("*_vela.tflite")).read_bytes(),
    )


def _count(said: str, word: str) -> int:
    found = re.search(rf"{word} operators = (\d+)", said)
    return int(found[1]) if found else 0


def _layers(path: pathlib.Path) -> Any:
    with path.open() as file:
        for row in csv.DictReader(file, skipinitialspace=True):
            named = {(key or "").strip(): (value or "").strip() for key, value in row.items()}
            cycles = _number(named.get("Op Cycles", "0"))
            if named.get("Target") == "NPU" and cycles:
                yield {
                    "name": _short(named.get("Name", "")),
                    "operator": named.get("Original Operator", ""),
                    "cycles": cycles,
                    "macs": _number(named.get("MAC Count", "0")),
                }


def _number(text: str) -> int:
    try:
        return round(float(text))
    except ValueError:
        return 0


def _short(name: str) -> str:
    parts = [part for part in name.split(";")[0].split("/") if part.startswith("quant_")]
    return parts[0].removeprefix("quant_") if parts else name
