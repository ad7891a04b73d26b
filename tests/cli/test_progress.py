"""Progress is shown on a terminal only, and tells every step once."""

from __future__ import annotations

import io
import sys

import pytest

import qat_round as qr
from qat_round.files.data_files import read_data

# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("quiet", [True, False])
def test_progress_is_shown_on_a_terminal_only(quiet, monkeypatch):
    import click

    from qat_round.cli.progress import working

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with click.Context(click.Command("run"), obj={"quiet": quiet}), working("training") as progress:
        progress.moved(3, 10)
        progress.told("epoch [1] of 3")
    assert ("epoch [1] of 3" in screen.getvalue()) is not quiet


def test_training_tells_every_step_once(here):
    from qat_round.training import epochs

    seen = []
    epochs.train_epochs(
        lambda: qr.load_model("out/net_int8.keras", compile=False),
        read_data("data.npz").part(0, 100),
        epochs=2,
        moved=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
