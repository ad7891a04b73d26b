"""Draws every rounding method: its value above, its gradient below.

python examples/curves.py                    # writes docs/curves.png and docs/curves.svg
python examples/curves.py --out picture.pdf  # any format that matplotlib knows
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import qat_round as qr  # before TensorFlow: TFMOT needs tf.keras to be Keras 2

import tensorflow as tf  # isort: skip

LOW, HIGH = -1.0, 2.0
FINE = np.linspace(LOW, HIGH, 60_001)  # fine enough for the default ramp, 0.0001 wide
COARSE = np.linspace(LOW, HIGH, 241)  # so few that single draws can be seen
TOP, BOTTOM = 4.3, -2.3  # of the gradient's axis
COLUMNS = 5
INK, GREY, BLUE, ORANGE = "#333333", "#bdbdbd", "#1f5fa8", "#d4601c"


class Curve(NamedTuple):
    """One method: at its defaults, and where that says more at another setting too.

    Args:
        rounder, label: the method, and what its settings are.
        other, other_label: another setting.
        other_incoming: the sign of dL/dy for the other, where the gradient depends on it.
    """

    rounder: qr.Rounder
    label: str
    other: qr.Rounder | None = None
    other_label: str = ""
    other_incoming: float = 1.0


CURVES = (
    Curve(qr.SigmoidRound(), "slope=1000", qr.SigmoidRound(slope=10.0), "slope=10"),
    Curve(qr.RampRound(), "gain=10000", qr.RampRound.centered(0.5), "centered(0.5)"),
    Curve(qr.FourierRound(), "terms=5", qr.FourierRound(sigma=True), "sigma=True"),
    Curve(qr.SineRound(), "iterations=1", qr.SineRound(iterations=2), "iterations=2"),
    Curve(qr.ExpectedRound(), "the mean: x"),
    Curve(qr.StochasticRound(seed=3), "single draws"),
    Curve(qr.StraightThrough(), "hard rounding"),
    Curve(qr.TanhRound(), "sharpness=3", qr.TanhRound(sharpness=20.0), "sharpness=20"),
    Curve(qr.LearnedTanhRound(), "alpha=0.2", qr.LearnedTanhRound(alpha=0.05), "alpha=0.05"),
    Curve(qr.ElementWiseScaling(), "dL/dy > 0", qr.ElementWiseScaling(), "dL/dy < 0", -1.0),
    Curve(
        qr.ExpectedThresholdRound(), "width=0.8", qr.ExpectedThresholdRound(width=0.5), "width=0.5"
    ),
    Curve(qr.mix("ste", "expected"), "ste, expected", qr.mix("ste", "sine"), "ste, sine"),
)


def sample(
    rounder: qr.Rounder, x: np.ndarray, incoming: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient while training: dL/dx in units of dL/dy, which is `incoming`."""
    given = tf.constant(x, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(given)
        value = rounder(given, training=True)
    gradient = tape.gradient(value, given, output_gradients=incoming * tf.ones_like(value))
    return value.numpy(), gradient.numpy() / incoming


def draw(curves: Sequence[Curve]) -> Figure:
    """All methods, five beside each other, and a key in the place that stays free."""
    blocks = -(-(len(curves) + 1) // COLUMNS)
    figure = Figure(figsize=(15.0, 4.6 * blocks), layout="constrained", facecolor="white")
    axes = figure.subplots(
        2 * blocks, COLUMNS, height_ratios=[3, 2] * blocks, sharex=True, squeeze=False
    )
    for place in range(blocks * COLUMNS):
        row, column = 2 * (place // COLUMNS), place % COLUMNS
        above, below = axes[row, column], axes[row + 1, column]
        if place < len(curves):
            draw_method(above, below, curves[place], leftmost=column == 0)
        elif place == len(curves):
            draw_key(above, below)
        else:
            above.axis("off")
            below.axis("off")
    return figure


def draw_method(above: Any, below: Any, curve: Curve, leftmost: bool) -> None:
    """One method's two panels."""
    style(above, (LOW - 0.15, HIGH + 0.15), (-1, 0, 1, 2))
    style(below, (BOTTOM, TOP), (-2, -1, 0, 1, 2, 3, 4))
    above.set_title(curve.rounder.name, fontweight="bold", color=INK, fontsize=14)
    above.plot(FINE, sample(qr.StraightThrough(), FINE)[0], color=GREY, linewidth=1.5)
    draw_setting(above, below, curve.rounder, curve.label, BLUE)
    if curve.other is not None:
        other = curve.other, curve.other_label, ORANGE
        draw_setting(above, below, *other, incoming=curve.other_incoming)
    above.legend(loc="upper left", frameon=False, fontsize=11, labelcolor=INK, borderpad=0.1)
    if leftmost:
        above.set_ylabel("value", color=INK, fontsize=12)
        below.set_ylabel("gradient", color=INK, fontsize=12)


def draw_setting(
    above: Any, below: Any, rounder: qr.Rounder, label: str, color: str, incoming: float = 1.0
) -> None:
    """One setting's value and gradient."""
    _, gradient = sample(rounder, FINE, incoming)
    if rounder.needs_key:
        above.plot(COARSE, sample(rounder, COARSE)[0], ".", color=color, markersize=4, label=label)
    else:
        above.plot(FINE, sample(rounder, FINE)[0], color=color, linewidth=2, label=label)
    below.plot(FINE, gradient, color=color, linewidth=2)
    if gradient.max() > TOP:
        side = "left" if color == BLUE else "right"
        peak = f"up to {gradient.max():,.{0 if gradient.max() >= 10 else 1}f}"
        below.set_title(peak, loc=side, color=color, fontsize=11, pad=4)


def draw_key(above: Any, below: Any) -> None:
    """What the colours mean."""
    for axes in (above, below):
        axes.axis("off")
    above.plot([], [], color=BLUE, linewidth=2, label="defaults")
    above.plot([], [], color=ORANGE, linewidth=2, label="another setting")
    above.plot(
        [], [], color=GREY, linewidth=2, label="hard rounding, which is\nused outside of training"
    )
    above.legend(loc="center left", frameon=False, fontsize=12, labelcolor=INK, labelspacing=0.9)
    note = (
        "x and value in steps of the grid.\nThe gradients of expected,\n"
        "stochastic and ste are 1\nby definition."
    )
    below.text(0.02, 0.95, note, transform=below.transAxes, fontsize=12, va="top", color=INK)


def style(axes: Any, limits: tuple[float, float], ticks: Sequence[int]) -> None:
    """A light frame with whole numbers on both axes."""
    axes.set(xlim=(LOW - 0.05, HIGH + 0.05), ylim=limits, xticks=(-1, 0, 1, 2), yticks=ticks)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=11, length=0, labelbottom=True)
    axes.spines[:].set_color("#dddddd")


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the picture and says where it is."""
    docs = pathlib.Path(__file__).resolve().parent.parent / "docs"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out",
        nargs="+",
        type=pathlib.Path,
        default=[docs / "curves.png", docs / "curves.svg"],
        help="files to write; the ending says the format",
    )
    paths = parser.parse_args(argv).out
    matplotlib.rcParams["svg.hashsalt"] = "qat_round"  # the same file from every run
    figure = draw(CURVES)
    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=130, metadata=metadata)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
