"""Feeds damaged files to every reader of the package: errors, in bounded time and memory.

usage: python tools/fuzz.py [--seconds 60] [--seed 0] [--kinds tflite,keras,toml,npz]

A case is a whole file that was cut, had bits flipped or bytes overwritten by large numbers, or was
packed anew with a hostile member. It is read in a process of its own, which may neither crash, take
more than LIMIT_S seconds or LIMIT_MB of memory, raise something else than an error for a person,
nor write outside of its folder. Prints cases, failures and seeds; exits 1 if there are failures.
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

LIMIT_S, LIMIT_MB = 30.0, 2048
KINDS = ("tflite", "keras", "toml", "npz")
WORKER = pathlib.Path(__file__).parent / "fuzz_worker.py"


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


def hostile_zip(data: bytes, draws: random.Random) -> bytes:
    """The archive's members, one damaged inside, renamed to climb out, or blown up."""
    out = io.BytesIO()
    way = draws.choice(["inside", "climb", "bomb"])
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", 8) as new:
        names = old.namelist()
        chosen = draws.choice(names)
        for name in names:
            content = old.read(name)
            if name == chosen and content and way == "inside":
                content = draws.choice([cut, flipped, huge])(content, draws)
            new.writestr(name, content)
            if name == chosen and way == "climb":
                new.writestr(draws.choice(["../../climbed", "/tmp/fuzz_climbed"]), content)
        if way == "bomb":
            new.writestr("more.npy", bytes(64 << 20))
    return out.getvalue()


def case(kind: str, data: bytes, seed: int) -> bytes:
    """One damaged file; the seed says which."""
    draws = random.Random(f"{kind} {seed}")
    ways = [cut, flipped, flipped, huge, joined]
    if zipfile.is_zipfile(io.BytesIO(data)):
        ways += [hostile_zip] * 3
    return draws.choice(ways)(data, draws)


class Worker:
    """A process that reads files for us, started again when it dies."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def read(self, path: pathlib.Path) -> tuple[str, str]:
        """ "read", "refused" or "failed", and what was told; kills what takes too long."""
        if self.process is None or self.process.poll() is not None:
            command = [sys.executable, str(WORKER), str(LIMIT_MB)]
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
            )
            self._line(120.0)
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path}\n")
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
    for kind in kinds:
        verdict, told = worker.read(corpus / f"whole.{kind}")
        if verdict != "read":
            raise RuntimeError(f"the whole {kind} file is not read: {told}")
    with tempfile.TemporaryDirectory() as folder:
        inner = pathlib.Path(folder) / "a" / "b"
        inner.mkdir(parents=True)
        while time.monotonic() < ends:
            for kind in kinds:
                path = inner / f"case.{kind}"
                path.write_bytes(case(kind, (corpus / f"whole.{kind}").read_bytes(), seed))
                verdict, told = worker.read(path)
                climbed = list(pathlib.Path(folder).rglob("*climbed*"))
                if climbed or pathlib.Path("/tmp/fuzz_climbed").exists():
                    verdict, told = "failed", "wrote outside of its folder"
                counts[kind][verdict] += 1
                if verdict == "failed":
                    failures.append((kind, seed, told))
            seed += 1
    worker.close()
    return {"counts": counts, "failures": failures, "seeds": (first, seed)}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as corpus:
        subprocess.run([sys.executable, str(WORKER), "--corpus", corpus], check=True)
        found = fuzz(asked.kinds.split(","), asked.seconds, asked.seed, pathlib.Path(corpus))
    for kind, counts in found["counts"].items():
        print(f"{kind}: {sum(counts.values())} cases, {dict(counts)}")
    for kind, seed, told in found["failures"]:
        print(f"FAILED {kind} seed {seed}: {told}")
    print(
        f"seeds {found['seeds'][0]} to {found['seeds'][1] - 1}; {len(found['failures'])} failures"
    )
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
