"""The report's plots: where every row stands in identity and text, and how clearly the papers' orderings come out."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...graphics import PAPER
from .claims import CLAIMS, TOO_NEAR, difference, is_measured, verdict
from .methods import FEW, MAIN, METHODS, ROWS
from .prompts import PHOTOS

_COLOURS = {
    "base": "#444444",
    "FACT": "#b5442e",
    "Face2Diffusion": "#28709b",
    "Infinite-ID": "#5c8a3a",
    "FaceA-Net": "#8a5a9e",
}
_VERDICTS = {"reproduced": "#5c8a3a", "not reproduced": "#b5442e", "no difference": "#a8a59c", TOO_NEAR: "#dedcd6"}
_PAPER = [value / 255 for value in PAPER]
_MOST = 6.0  # times of what counts, beyond which a bar says nothing more


def scores(rows: dict[str, dict], renders: tuple[float, float], goal: tuple[float, float], target: Path) -> None:
    """Plot identity against text of all rows of photos.

    renders, goal: identity and text of renders, and the least to reach.
    """
    figure, axes = _figure(9, 4.5, "identity", "text")
    axes.plot(*renders, "*", color=_COLOURS["base"], markersize=13, label="renders")
    drawings = {method.name for method in METHODS if method.prompts != PHOTOS}
    for name in (name for name in rows if name not in drawings | {FEW}):
        _row(axes, name, rows[name])
    for table, colour in _COLOURS.items():
        axes.plot([], [], "o", color=colour, markersize=9, label=table)
    axes.fill_between((goal[0], 1), goal[1], 1, color="#f1e9c9", zorder=0, label="goal")
    axes.set(xlim=(-0.02, 0.95), ylim=(goal[1] - 0.01, renders[1] + 0.01))
    axes.legend(loc="center left", frameon=False)
    figure.savefig(target, dpi=100)


def _row(axes: Axes, name: str, row: dict) -> None:
    """Plot a point with its deviations between seeds, larger where it is a method itself."""
    main = name in (*MAIN, "base")
    point, colour = (row["identity"], row["text"]), _COLOURS[ROWS[name]]
    style = {"fmt": "o", "color": colour, "elinewidth": 0.8, "markersize": 9 if main else 4, "zorder": 3 if main else 2}
    axes.errorbar(*point, row.get("text_deviation"), row.get("identity_deviation"), **style)


def orderings(rows: dict[str, dict], target: Path) -> None:
    """Plot each claim's difference, as a multiple of the least that counts; to the left where `better` is worse."""
    claims = [claim for claim in CLAIMS if is_measured(claim, rows) and difference(claim, rows)[1] > 0]
    across = f"difference, in times of that which counts (±1), ±{_MOST:.0f} at most"
    figure, axes = _figure(10, 1 + 0.32 * len(claims), across, "")
    for row, claim in enumerate(reversed(claims)):
        gain, least = difference(claim, rows)
        times = min(max(gain / least, -_MOST), _MOST)
        axes.barh(row, times, color=_VERDICTS[verdict(claim, rows)[1]], height=0.6)
    axes.set_yticks(range(len(claims)), [claim.text for claim in reversed(claims)])
    axes.set_xlim(-_MOST, _MOST)
    for edge in (-1, 0, 1):
        axes.axvline(edge, color="#444444", linewidth=0.8, linestyle="--" if edge else "-")
    figure.savefig(target, dpi=100)


def _figure(width: float, height: float, across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure((width, height), layout="constrained", facecolor=_PAPER)
    axes = figure.subplots()
    axes.set(xlabel=across, ylabel=up, facecolor=_PAPER)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dedcd6", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes
