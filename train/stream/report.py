"""The stream report: Markdown with the numbers, pictures of the trade-off and of some audio.

Nothing is measured here.
"""

from pathlib import Path

import numpy as np

from train.stream.evaluation import DetPoint, StreamScores

_SHOWN_CAUSES = 12
_FEWEST_PER_HOUR = 0.05
"""Where a curve is drawn that has no false accepts: a logarithm has no zero."""


def write_stream_report(scores: StreamScores, command: str, folder: Path) -> Path:
    """Write ``stream.md`` and its pictures into ``folder``; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_det(scores, folder / "stream-det.png")
    draw_example(scores, folder / "stream-example.png")
    made, total, default = scores.settings, scores.total, scores.default_total
    others = (
        "speakers and recordings" if scores.halves_apart else "clips, in part of the same speakers"
    )
    lines = [
        f"# {scores.name} in a stream",
        "",
        f"{scores.held_out} {scores.hours:g} h of scenes of {made['scene_s']:g} s: "
        f"{scores.sounds_per_hour:.0f} sounds an hour that the model should report and "
        f"{scores.distractors_per_hour:.0f} that it should not, {made['snr_min_db']:g} to "
        f"{made['snr_max_db']:g} dB over coloured and recorded noise of "
        f"{made['background_min_dbfs']:g} to {made['background_max_dbfs']:g} dBFS. A stream "
        "that talks all day; a quiet room makes up less. They were heard by the daemon's own "
        f"engine and event detector at a hop of {scores.hop_ms:g} ms, default `[events]`. The "
        f"thresholds were chosen for {scores.target_per_hour:g} false accepts per hour and label "
        f"on as many scenes of other {others}. Made with:",
        "",
        f"    {command}",
        "",
        "| thresholds | missed | made up per hour, all labels |",
        "|---|---|---|",
        f"| chosen | {total.missed_share:.1%} of {total.sounds} | {total.made_up_per_hour:.1f} |",
        f"| default (0.6) | {default.missed_share:.1%} | {default.made_up_per_hour:.1f} |",
        "",
        "![false accepts against false rejects](stream-det.png)",
        "",
        "## Labels, at the chosen thresholds",
        "",
        "| label | threshold | sounds | missed | made up | per hour |",
        "|---|---|---|---|---|---|",
        *(
            f"| {label} | {scores.thresholds[label]:g} | {rate.sounds} | "
            f"{rate.missed_share:.1%} | {rate.made_up} | {rate.made_up_per_hour:.2f} |"
            for label, rate in scores.per_label.items()
        ),
        "",
        f"One event more or less is {1 / scores.hours:.2f} per hour; so few hours cannot show a "
        "rate finer than that.",
        "",
        "## Events",
        "",
        "| score | value |",
        "|---|---|",
        *(f"| event F1, {what}, mean of labels | {v:.1%} |" for what, v in scores.event_f1.items()),
        f"| PSDS, labels (DTC = GTC = 0.1, CTTC 0.3) | {scores.psds['detection']:.3f} |",
        f"| PSDS, times (DTC = GTC = 0.7) | {scores.psds['timing']:.3f} |",
        "",
        "A sound shorter than the window is reported up to a window longer than it is "
        "(docs/events.md), which the last row and the 0.2 s collar do not forgive.",
        "",
        "| time | p50 | p95 |",
        "|---|---|---|",
        *(
            f"| {what.replace('after', 'published after')} | {v['p50']:.2f} s | {v['p95']:.2f} s |"
            for what, v in scores.latency_s.items()
        ),
        "",
        "In audio time; computing adds milliseconds (docs/benchmarks/streams.md).",
        "",
        "## What was made up",
        "",
        "| event | really heard | times |",
        "|---|---|---|",
        *(
            f"| {label} | {cause} | {times} |"
            for label, cause, times in scores.false_sources[:_SHOWN_CAUSES]
        ),
        "",
        "## Half a minute of it",
        "",
        "![scores, truth and events](stream-example.png)",
        "",
    ]
    path = folder / "stream.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _line(points: list[DetPoint]) -> tuple[list[float], list[float]]:
    x = [max(point.made_up_per_hour, _FEWEST_PER_HOUR) for point in points]
    return x, [100 * point.missed_share for point in points]


def draw_det(scores: StreamScores, path: Path) -> None:
    """Draw missed sounds against made-up events, for all labels and each, over the thresholds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = _colours(scores.labels)
    for label in scores.labels:
        axes.plot(*_line(scores.det_per_label[label]), color=colours[label], linewidth=1, alpha=0.8)
        rate = scores.per_label[label]
        x = max(rate.made_up_per_hour, _FEWEST_PER_HOUR)
        axes.plot(x, 100 * rate.missed_share, "o", color=colours[label], markersize=6, label=label)
    axes.plot(*_line(scores.det), color="black", linewidth=2.2, label="all labels")
    total = scores.total
    axes.plot(
        max(total.made_up_per_hour, _FEWEST_PER_HOUR),
        100 * total.missed_share,
        "ks",
        markersize=8,
    )
    axes.axvline(scores.target_per_hour, color="grey", linestyle="--", linewidth=1)
    axes.text(
        scores.target_per_hour, 1.0, " target per label", transform=axes.get_xaxis_transform(),
        va="top", fontsize=8, color="grey",
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(0, None)
    axes.set_xlabel(
        f"made up per hour (none in {scores.hours:g} h is drawn at {_FEWEST_PER_HOUR:g})"
    )
    axes.set_ylabel("missed, % of the sounds")
    axes.set_title(f"{scores.name}: all thresholds, dots at the chosen ones")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=90, metadata={"Software": None})


def draw_example(scores: StreamScores, path: Path) -> None:
    """Draw scores over time with what was to be heard above and what was reported below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    example = scores.example
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    above, middle, below = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": (1, 2.4, 0.7)}
    )
    colours = _colours(scores.labels)
    for onset_s, offset_s, label in example.truth:
        above.axvspan(onset_s, offset_s, 0.5, 1.0, color=colours.get(label, "grey"))
        above.text(onset_s, 0.98, label, fontsize=8, va="top")
    for onset_s, offset_s, label in example.distractors:
        above.axvspan(onset_s, offset_s, 0.0, 0.4, color="lightgrey")
        above.text(onset_s, 0.36, label, fontsize=7, va="top", color="dimgrey", clip_on=True)
    above.set_ylabel("to report\nor not", fontsize=8)
    for label in scores.labels:
        middle.plot(example.times_s, example.scores[label], color=colours[label], linewidth=1.2)
    middle.set_ylim(0, 1.02)
    middle.set_ylabel("probability")
    middle.grid(alpha=0.3)
    for onset_s, offset_s, label in example.detections:
        below.axvspan(onset_s, offset_s, 0.1, 0.9, color=colours.get(label, "grey"), alpha=0.8)
        below.text(onset_s, 0.5, f" {label}", fontsize=8, va="center")
    below.set_ylabel("events", fontsize=8)
    below.set_xlabel(f"s in {example.scene} (scores at the middle of their window)")
    for axes in (above, below):
        axes.set_yticks([])
        axes.set_ylim(0, 1)
    below.set_xlim(example.start_s, example.start_s + 40)
    figure.savefig(path, dpi=90, metadata={"Software": None})


def _colours(labels: list[str]) -> dict[str, tuple[float, ...]]:
    from matplotlib import colormaps

    palette = colormaps["tab10" if len(labels) <= 10 else "turbo"]
    where = np.arange(len(labels)) if len(labels) <= 10 else np.linspace(0.05, 0.95, len(labels))
    return {label: tuple(palette(at)) for label, at in zip(labels, where.tolist(), strict=True)}
