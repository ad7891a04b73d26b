"""Runs the command line in children that are killed; run by cli/test_killed.py.

usage: python -m tests.scripts.killed
Reads lines of JSON from its input: {"argv": [...], "seconds": how long or null}.
Prints for each line {"status": exit status, -9 if killed, "seconds": how long it ran}.

Everything is imported once, before the children are made, so that a kill falls on the work.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

sys.argv = ["qat-round"]  # imports the command line as the program does, without TensorFlow's logs

from qat_round.cli.main import main  # noqa: E402


def child(argv: list[str]) -> None:
    out = os.open(os.devnull, os.O_WRONLY)
    os.dup2(out, 1)
    os._exit(main(argv))


def run(argv: list[str], seconds: float | None) -> dict:
    began = time.monotonic()
    pid = os.fork()
    if not pid:
        child(argv)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"status": status, "seconds": time.monotonic() - began}


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(**json.loads(line))) + "\n")
        sys.stdout.flush()
