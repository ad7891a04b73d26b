"""Feeds damaged files to every reader of the package: errors, in bounded time and memory.

usage: python tools/fuzz.py [--seconds 60] [--seed 0] [--kinds tflite,keras,...] [--no-models]

A case is a whole file that was cut, had bits flipped or bytes overwritten by large numbers, or was
packed anew with a hostile member (hostile.py). It is read in a process of its own, which may
neither crash, take more than LIMIT_S seconds or LIMIT_MB of memory, raise something else than an
error for a person, nor write outside of its folder. Then come random small models for a quarter of
the time (fuzz_models.py). Prints cases, failures and seeds; exits 1 if there are failures.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable

from hostile import changed, hostile_hdf5, hostile_npy, hostile_png, hostile_zip

LIMIT_S, LIMIT_MB = 30.0, 2048
KINDS = (
    "tflite",
    "inspect",
    "keras",
    "keras3",
    "h5",
    "toml",
    "npz",
    "npy",
    "png",
    "jpg",
    "manifest",
)
SUFFIXES = {"inspect": "tflite", "keras3": "keras", "manifest": "json"}  # of others their own name
Way = Callable[[bytes, random.Random], bytes]
WORKER = pathlib.Path(__file__).parent / "fuzz_worker.py"
MODELS = WORKER.with_name("fuzz_models.py")


def cut(data: bytes, draws: random.Random) -> bytes:
    return data[: draws.randrange(len(data))]


def flipped(data: bytes, draws: random.Random) -> bytes:
    """One to eight bits are others."""
    out = bytearray(data)
    for _ in range(draws.randint(1, 8)):
        out[draws.randrange(len(out))] ^= 1 << draws.randrange(8)
    return bytes(out)


def huge(data: bytes, draws: random.Random) -> bytes:
    """Some four bytes say a large number: a size, an offset, a count."""
    out = bytearray(data)
    for _ in range(draws.randint(1, 3)):
        at = draws.randrange(max(1, len(out) - 4))
        out[at : at + 4] = draws.choice([b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x40"])
    return bytes(out)


def joined(data: bytes, draws: random.Random) -> bytes:
    """A part is twice there."""
    a, b = sorted(draws.randrange(len(data)) for _ in range(2))
    return data[:b] + data[a:]


def inside(data: bytes, draws: random.Random) -> bytes:
    """An archive with one member damaged."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        chosen = draws.choice(old.namelist())
    way = draws.choice([cut, flipped, huge] + [hostile_hdf5] * chosen.endswith(".h5"))
    return changed(data, chosen, lambda content: way(content, draws))


def ways_for(kind: str, data: bytes) -> list[Way]:
    """Ways to damage a file, some of them several times as often."""
    ways = [cut, flipped, flipped, huge, joined]
    if zipfile.is_zipfile(io.BytesIO(data)) and SUFFIXES.get(kind, kind) in ("keras", "npz"):
        ways += [inside, inside, hostile_zip]
    hostile = {"h5": [hostile_hdf5], "png": [hostile_png], "npy": [hostile_npy]}
    return ways + hostile.get(kind, [])


def case(kind: str, data: bytes, seed: int) -> bytes:
    """One damaged file; the seed says which."""
    draws = random.Random(f"{kind} {seed}")
    return draws.choice(ways_for(kind, data))(data, draws)


class Worker:
    """A process that reads files for us, started again when it dies."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def read(self, kind: str, path: pathlib.Path) -> tuple[str, str]:
        """ "read", "refused" or "failed", and what was told; kills what takes too long."""
        if self.process is None or self.process.poll() is not None:
            command = [sys.executable, str(WORKER), str(LIMIT_MB)]
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
            )
            self._line(120.0)
        assert self.process.stdin is not None
        self.process.stdin.write(f"{kind}\t{path}\n")
        self.process.stdin.flush()
        line = self._line(LIMIT_S)
        if line:
            return tuple(json.loads(line))
        code = self.process.wait()
        return "failed", "took too long" if code == -9 else f"the process died (code {code})"

    def _line(self, seconds: float) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            return self.process.stdout.readline()
        finally:
            timer.cancel()

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()


def fuzz(kinds: list[str], seconds: float, first: int, corpus: pathlib.Path) -> dict:
    """Counts of what happened, and the failures: {kind: [seed, what]}."""
    counts: dict[str, collections.Counter] = {kind: collections.Counter() for kind in kinds}
    failures: list[tuple[str, int, str]] = []
    worker, ends, seed = Worker(), time.monotonic() + seconds, first
    whole = {kind: whole_file(kind, corpus).read_bytes() for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        for kind, data in whole.items():
            verdict, told = worker.read(kind, written(kind, data, folder))
            if verdict != "read":
                raise RuntimeError(f"the whole {kind} file is not read: {told}")
        while time.monotonic() < ends:
            for kind, data in whole.items():
                path = written(kind, case(kind, data, seed), folder)
                verdict, told = worker.read(kind, path)
                climbed = list(pathlib.Path(folder).rglob("*climbed*"))
                if climbed or pathlib.Path("/tmp/fuzz_climbed").exists():
                    verdict, told = "failed", "wrote outside of its folder"
                counts[kind][verdict] += 1
                if verdict == "failed":
                    failures.append((kind, seed, told))
            seed += 1
    worker.close()
    return {"counts": counts, "failures": failures, "seeds": (first, seed)}


def whole_file(kind: str, corpus: pathlib.Path) -> pathlib.Path:
    """Where the worker has put the whole file of a kind."""
    return corpus / (f"whole.{kind}" + (f".{SUFFIXES[kind]}" if kind in SUFFIXES else ""))


def written(kind: str, data: bytes, folder: str) -> pathlib.Path:
    """The path of a case, two folders deep."""
    inner = pathlib.Path(folder) / kind / "a"
    inner.mkdir(parents=True, exist_ok=True)
    path = inner / f"case.{SUFFIXES.get(kind, kind)}"
    path.write_bytes(data)
    return path


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--no-models", action="store_true")
    asked = parser.parse_args()
    for_models = 0.0 if asked.no_models else asked.seconds / 4
    with tempfile.TemporaryDirectory() as corpus:
        subprocess.run([sys.executable, str(WORKER), "--corpus", corpus], check=True)
        seconds = asked.seconds - for_models
        found = fuzz(asked.kinds.split(","), seconds, asked.seed, pathlib.Path(corpus))
    for kind, counts in found["counts"].items():
        print(f"{kind}: {sum(counts.values())} cases, {dict(counts)}")
    for kind, seed, told in found["failures"]:
        print(f"FAILED {kind} seed {seed}: {told}")
    print(
        f"seeds {found['seeds'][0]} to {found['seeds'][1] - 1}; {len(found['failures'])} failures"
    )
    failed = bool(found["failures"])
    if for_models:
        sys.stdout.flush()
        command = [sys.executable, str(MODELS), "--seconds", str(for_models)]
        failed |= bool(subprocess.run([*command, "--seed", str(asked.seed)]).returncode)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
