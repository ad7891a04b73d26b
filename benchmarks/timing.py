"""How all benchmarks measure: interleaved rounds in one process, medians, machine and versions.

Functions to be compared run in turn, A B C A B C, so that whatever disturbs the machine disturbs
all of them alike. What has to start afresh (a first step, a peak of memory) runs in a process of
its own: `in_new_process`. On a GPU a call returns before its work is done; `settled` waits for it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing.pool
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # `in_new_process` needs some, too

_GPU = "GPU:0"
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


class Time(NamedTuple):
    """Seconds a call, over the rounds."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{_seconds(self.median)} ({_seconds(self.least)} to {_seconds(self.most)})"


def interleaved(
    functions: Mapping[str, Callable[[], Any]], rounds: int = 15, seconds: float = 0.05
) -> dict[str, Time]:
    """Times functions in turn; each round calls each as often as fills `seconds`, at least once.

    On a GPU a round waits once, after its last call: a wait alone can take a millisecond.
    """
    waiting = {name: settled(function) for name, function in functions.items()}
    calls = {name: _calls(function, seconds) for name, function in waiting.items()}
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            begin = time.perf_counter()
            for _ in range(calls[name] - 1):
                function()
            waiting[name]()
            times[name].append((time.perf_counter() - begin) / calls[name])
    return {name: Time(statistics.median(t), min(t), max(t)) for name, t in times.items()}


def settled(function: Callable[[], Any]) -> Callable[[], Any]:
    """The function, which on a GPU returns when its work is done.

    One element is read back that was asked for last: the device works in order.
    """
    if not gpus():
        return function
    import tensorflow as tf

    with tf.device(_GPU):
        one = tf.ones([1])

    def waiting() -> Any:
        result = function()
        with tf.device(_GPU):
            (one + 1.0).numpy()
        return result

    return waiting


def copy_seconds(n_bytes: int, rounds: int = 7) -> float:
    """Median seconds to copy so many bytes: on the GPU, or on all cores, both arrays touched."""
    import numpy as np
    import tensorflow as tf

    if gpus():
        with tf.device(_GPU):
            given = tf.ones([max(1, n_bytes // 4)])
            copy = lambda: tf.raw_ops.Neg(x=given)  # noqa: E731 : reads each once, writes each once
            return interleaved({"copy": copy}, rounds)["copy"].median
    source = tf.zeros([max(1, n_bytes // 4)])
    if n_bytes < 2**22:  # fits a cache: one core, no thread to wake
        target, array = np.empty_like(source), source.numpy()
        return interleaved({"copy": lambda: np.copyto(target, array)}, rounds)["copy"].median
    halves = np.array_split(source.numpy(), os.cpu_count() or 1)
    targets = [np.ones_like(half) for half in halves]
    with multiprocessing.pool.ThreadPool(len(halves)) as pool:
        run = lambda: pool.starmap(np.copyto, zip(targets, halves, strict=True))  # noqa: E731
        return interleaved({"copy": run}, rounds)["copy"].median


def in_new_process(module: str, *arguments: Any) -> dict[str, Any]:
    """What `python -m benchmarks.module arguments` prints last, read as JSON."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:200]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_bytes() -> int:
    """Peak memory since `forget_peak`: the GPU's, or what is resident of this process."""
    if gpus():
        import tensorflow as tf

        return int(tf.config.experimental.get_memory_info(_GPU)["peak"])
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def forget_peak() -> None:
    """Starts the peak anew from what is taken now (a GPU, Linux; elsewhere nothing happens)."""
    if gpus():
        import tensorflow as tf

        tf.config.experimental.reset_memory_stats(_GPU)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@functools.cache
def gpus() -> int:
    """How many GPUs TensorFlow sees."""
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def machine() -> dict[str, Any]:
    """What the figures depend on, and how busy the machine is with other things."""
    import numpy as np
    import tensorflow as tf

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "commit": _commit(),
        "flags": os.environ.get("XLA_FLAGS", ""),
    }


def save(name: str, title: str, rows: Sequence[Mapping[str, Any]], notes: str = "") -> str:
    """Writes rows to results/<name>.json and .md, and gives the Markdown."""
    about = machine()
    RESULTS.mkdir(exist_ok=True)
    whole = {"title": title, "machine": about, "notes": notes, "rows": list(rows)}
    _replace(RESULTS / f"{name}.json", json.dumps(whole, indent=1, default=str) + "\n")
    lines = [f"# {title}", "", ", ".join(f"{k} {v}" for k, v in about.items() if v), ""]
    text = "\n".join([*lines, *([notes, ""] if notes else []), table(rows), ""])
    _replace(RESULTS / f"{name}.md", text)
    return text


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table; columns in the order in which they turn up."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(c, "")) for c in columns) + " |" for row in rows]
    return "\n".join(lines)


def runnable(
    makers: Mapping[str, Callable[[], Callable[[], Any]]],
) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Returns the functions, made and called once, and the errors of those that cannot be."""
    functions, errors = {}, {}
    for name, make in makers.items():
        try:
            function = make()
            function()
        except Exception as error:  # whatever another's quantizers or XLA say
            errors[name] = f"{type(error).__name__}: {(str(error) or ' ').splitlines()[0][:80]}"
        else:
            functions[name] = function
    return functions, errors


def peak_above(function: Callable[[], Any], calls: int = 3) -> int:
    """Returns the peak bytes of some calls above what is taken before them."""
    forget_peak()
    before = peak_bytes()
    for _ in range(calls):
        function()
    return peak_bytes() - before


def growth(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent p of the power law value = c size^p that fits best."""
    import numpy as np

    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def _replace(path: Path, text: str) -> None:
    """Writes beside the file and renames, so that it is the old one or the new one, whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)


def _calls(function: Callable[[], Any], seconds: float) -> int:
    function()
    if not seconds:
        return 1
    begin = time.perf_counter()
    function()
    return max(1, int(seconds / max(time.perf_counter() - begin, 1e-7)))


def _seconds(value: float) -> str:
    units = {"s": 1.0, "ms": 1e3, "us": 1e6}
    unit = next((unit for unit, factor in units.items() if value * factor >= 1.0), "us")
    factor = units[unit]
    return f"{value * factor:.3g} {unit}"


def _cell(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def _commit() -> str:
    """The commit that ran, with a `+` where the tree holds more than it."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def _gpu() -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
