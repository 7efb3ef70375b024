"""The picture of `benchmarks.stages`: where the time of a step goes, and what it is used for.

Widths are time. A kernel's bar is as high as its share of the core's peak: the white above the bars
is what a step could do in the same time and does not.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

if TYPE_CHECKING:
    from benchmarks.stages import Profile

_BAND = 0.13


def draw(profiles: "list[Profile]", file: Path, peak: float) -> None:
    """Write the picture of a model's steps, one panel a number of rows.

    Args:
        profiles: Of the same model.
        file: What its name ends in says what it becomes; ``.svg`` is small.
        peak: Floating-point operations per second of one core.
    """
    mpl.rcParams["svg.fonttype"] = "none"  # text as text
    mpl.rcParams["svg.hashsalt"] = "streamcls"  # the same picture gives the same file
    names = list(dict.fromkeys(name for one in profiles for name in one.stages()))
    palette = plt.get_cmap("tab20")
    colours = {name: palette(index % 20) for index, name in enumerate(names)}
    figure, panels = plt.subplots(
        len(profiles), 1, figsize=(11, 3.4 * len(profiles)), squeeze=False, layout="constrained"
    )
    for panel, profile in zip(panels[:, 0], profiles, strict=True):
        _draw_panel(panel, profile, colours, peak)
    handles = [Rectangle((0, 0), 1, 1, color=colours[name]) for name in names]
    figure.legend(handles, names, loc="outside lower center", ncols=7, frameon=False, fontsize=9)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)


def _draw_panel(panel: Axes, profile: "Profile", colours: dict, peak: float) -> None:
    left = 0.0
    total_us = profile.time_s * 1e6
    for stage, kernels in profile.stages().items():
        begin = left
        for kernel in kernels:
            width = max(0.0, kernel.time_s * 1e6)
            share = kernel.flops / kernel.time_s / peak if width else 0.0
            panel.add_patch(Rectangle((left, 0), width, share, color=colours[stage], lw=0))
            panel.add_patch(
                Rectangle((left, -_BAND), width, _BAND, fc=colours[stage], ec="white", lw=0.4)
            )
            if width > 0.045 * total_us and share:
                # Above the bar, or inside where the panel ends.
                place = (
                    {"y": share + 0.02, "va": "bottom"} if share < 0.9 else {"y": 0.9, "va": "top"}
                )
                panel.text(left + width / 2, s=kernel.name, ha="center", fontsize=7, **place)
            left += width
        if left - begin > 0.045 * total_us:
            label = f"{(left - begin) / total_us:.0%}"
            red, green, blue, _ = colours[stage]
            ink = "white" if 0.3 * red + 0.6 * green + 0.1 * blue < 0.5 else "black"
            middle = (begin + left) / 2
            panel.text(middle, -_BAND / 2, label, ha="center", va="center", fontsize=8, color=ink)
    flops = sum(kernel.flops for kernel in profile.kernels)
    share = flops / profile.time_s / peak
    panel.axhline(share, color="black", lw=0.8, ls=":")
    panel.text(total_us, share + 0.015, f"the step: {share:.0%}", ha="right", fontsize=8)
    panel.set(xlim=(0, total_us), ylim=(-_BAND, 1.02), ylabel="share of a core's peak")
    panel.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    rows = f"{profile.rows} streams" if profile.rows > 1 else "one stream"
    panel.set_title(f"{profile.model}, a step for {rows}: {total_us:.0f} us", loc="left")
    panel.set_xlabel("us")
    panel.spines[["top", "right"]].set_visible(False)
