"""Plots as SVG text that takes its ink from the page, so that it reads in light and in dark."""

from __future__ import annotations

import html
import importlib.util
import io
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qat_round.files.atomic_write import check_writable, write_file

INK, FIRST, SECOND = "#010203", "#2f7ed8", "#d9822b"  # the ink becomes the page's text colour
_COLUMNS = 4  # of curves
_GRADIENTS = (-2.3, 4.3)  # what is shown of them
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
}


def _figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.4, 2.6)) -> Any:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=size, layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False)


def _svg(figure: Any, label: str) -> str:
    """The figure as an `<svg>` element with a name for screen readers."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context(_RC):
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def bars(names: Sequence[str], values: Sequence[float], unit: str, label: str) -> str:
    """Horizontal bars with their values, the first name on top."""
    figure, axes = _figure(size=(6.8, 0.6 + 0.22 * max(len(names), 2)))
    axis = axes[0, 0]
    drawn = axis.barh(range(len(names)), values, color=FIRST)
    axis.bar_label(drawn, [_short(value) for value in values], padding=3, color=INK, fontsize=8)
    axis.margins(x=0.1)
    axis.set_yticks(range(len(names)), labels=names)
    axis.invert_yaxis()
    axis.set_xlabel(unit)
    return _svg(figure, label)


def lines(series: Mapping[str, Sequence[float]], x: str, y: str, label: str) -> str:
    """Curves over 1, 2, 3, ..., their names beside them."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(size=(8.4, 2.6))
    axis = axes[0, 0]
    for name, values in series.items():
        axis.plot(range(1, len(values) + 1), values, marker=".", label=name)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if 1 < len(series) <= 12:
        axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(figure, label)


def steps(counts: np.ndarray, label: str) -> str:
    """How many values are 0, 1, 2, ... steps apart, on a logarithmic scale."""
    counts = counts[: max(4, int(counts.nonzero()[0].max(initial=0)) + 1)]
    figure, axes = _figure()
    axis = axes[0, 0]
    drawn = axis.bar(range(len(counts)), counts, color=FIRST)
    axis.bar_label(drawn, [_short(int(count)) for count in counts], color=INK, fontsize=8)
    axis.set_yscale("symlog")
    axis.margins(y=0.15)
    axis.set_xticks(range(len(counts)))
    axis.set_xlabel("distance in steps of the output's grid")
    axis.set_ylabel("values")
    return _svg(figure, label)


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def ranges(tensors: Sequence[tuple[str, np.ndarray, float, float]], label: str) -> str:
    """Histograms of real values, with the ends of their range.

    Args:
        tensors: (name, values, lo, hi).
        label: for screen readers.
    """
    figure, axes = _grid(len(tensors))
    for axis, (name, values, lo, hi) in zip(axes.flat, tensors, strict=False):
        axis.hist(values, bins=60, color=FIRST)
        for end in (lo, hi):
            axis.axvline(end, color=SECOND, linewidth=1.2)
        _titled(axis, name)
    return _svg(figure, label)


def levels(tensors: Sequence[tuple[str, np.ndarray, int]], label: str) -> str:
    """Weights in units of their step, one bar for each level (or few).

    Args:
        tensors: (name, weights in steps, highest level).
        label: for screen readers.
    """
    figure, axes = _grid(len(tensors))
    for axis, (name, values, highest) in zip(axes.flat, tensors, strict=False):
        edges = np.arange(-highest - 1.5, highest + 1.6, max(1, highest // 32))
        axis.hist(values.clip(-highest - 1, highest + 1), bins=edges, color=FIRST)
        _titled(axis, name)
    return _svg(figure, label)


def _grid(count: int) -> Any:
    columns = min(3, max(count, 1))
    rows = -(-max(count, 1) // columns)
    figure, axes = _figure(rows, columns, size=(8.4, 1.6 * rows))
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, axes


def _titled(axis: Any, name: str) -> None:
    axis.set_title(name if len(name) < 34 else f"{name[:31]}...", fontsize=8)
    axis.set_yticks([])


def draw_curves(rounders: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draws each rounder's value while training, and below it the gradient, against x in steps.

    Args:
        rounders: name -> Rounder.
        path: an .svg, .png or .pdf.

    Raises:
        ImportError: without matplotlib.
        OSError: if it cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    check_writable(path)
    blocks = -(-len(rounders) // _COLUMNS)
    figure = Figure(figsize=(2.4 * _COLUMNS, 3.4 * blocks), layout="constrained")
    axes = figure.subplots(
        2 * blocks, _COLUMNS, height_ratios=[3, 2] * blocks, sharex=True, squeeze=False
    )
    for axis in axes.flat:
        axis.set_visible(False)
    for place, (name, rounder) in enumerate(rounders.items()):
        row, column = 2 * (place // _COLUMNS), place % _COLUMNS
        _draw_curve(axes[row, column], axes[row + 1, column], name, rounder)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=pathlib.Path(path).suffix.lstrip(".") or "png")
    write_file(path, drawn.getvalue())


def require_matplotlib() -> None:
    """Raises an ImportError that names the extra, if matplotlib is not there."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("Drawing needs 'matplotlib': pip install 'qat_round[curves]'.")


def value_and_gradient(rounder: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a rounder gives for x while training, and dL/dx for dL/dy = 1."""
    from qat_round._compat import tf

    given = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(given)
        value = rounder(given, training=True)
    return value.numpy(), tape.gradient(value, given).numpy()


def _draw_curve(above: Any, below: Any, name: str, rounder: Any) -> None:
    """One method's two panels; what of the gradient is higher is told in words."""
    x = np.linspace(-1.0, 2.0, 60_001)  # fine enough for the default ramp, 0.0001 wide
    value, gradient = value_and_gradient(rounder, x)
    if rounder.needs_key:  # single draws: points, and so few that they can be seen
        above.plot(x[::250], value[::250], ".", color=FIRST, markersize=2)
    else:
        above.plot(x, value, color=FIRST)
    above.set_title(name)
    above.set_ylabel("value", fontsize=8)
    below.plot(x, gradient, color=SECOND)
    below.set_ylim(*_GRADIENTS)
    below.set_ylabel("gradient", fontsize=8)
    if gradient.max() > _GRADIENTS[1]:
        below.set_title(f"up to {gradient.max():,.0f}", fontsize=8)
    for axis in (above, below):
        axis.set_visible(True)
