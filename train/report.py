"""Reports for people: Markdown with the numbers, PNG with confusions and calibration.

After `train.evaluate`, which measures; here nothing is computed but sums.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train.scores import SNRS_DB, Scores

_SHOWN_CONFUSIONS = 8
_SHOWN_GROUPS = 12


def draw_confusions(scores: Scores, path: Path) -> None:
    """Draw the confusion matrix as row percentages with counts written in."""
    # Imported here: the trainer runs without a plot until one is asked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = np.array(scores.confusion, np.float64)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    n = len(scores.labels)
    figure = Figure(figsize=(0.55 * n + 2, 0.55 * n + 1.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(n), scores.labels, rotation=60, ha="right")
    axes.set_yticks(range(n), scores.labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{scores.name}: {scores.accuracy:.1%} clean")
    for row, column in zip(*np.nonzero(table), strict=True):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(
            column,
            row,
            f"{table[row, column]:.0f}",
            ha="center",
            va="center",
            color=colour,
            fontsize=7,
        )
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    figure.savefig(path, dpi=90, metadata={"Software": None})


def draw_reliability(scores: Scores, path: Path) -> None:
    """Draw how often confidences were right, before and after temperature scaling."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, reliability, when in zip(
        panels,
        (scores.reliability, scores.calibrated),
        ("as the file says", "after temperature scaling"),
        strict=True,
    ):
        if reliability is None:
            continue
        n_bins = len(reliability.counts)
        counts = np.array(reliability.counts)
        used = counts > 0
        confidence = np.array(reliability.confidence)[used] / counts[used]
        truth = np.array(reliability.hits)[used] / counts[used]
        left = np.arange(n_bins)[used] / n_bins
        axes.bar(left, truth, 1 / n_bins, align="edge", color="#9ecae1", edgecolor="white")
        axes.plot(confidence, truth, "o-", color="#08519c", markersize=4)
        axes.plot([0, 1], [0, 1], "--", color="grey", linewidth=1)
        for x, n in zip(left + 0.5 / n_bins, counts[used], strict=True):
            axes.text(x, 0.01, f"{n}", ha="center", fontsize=6, rotation=90, va="bottom")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("confidence")
        axes.set_title(f"{when}: ECE {reliability.ece:.1%}", fontsize=10)
    panels[0].set_ylabel("share that was right (numbers: answers)")
    figure.savefig(path, dpi=90, metadata={"Software": None})


def _noise_table(scores: Scores) -> list[str]:
    lines = [
        "| noise | clean | " + " | ".join(f"{db} dB" for db in SNRS_DB) + " |",
        "|---" * (len(SNRS_DB) + 2) + "|",
    ]
    for kind, row in scores.noisy_accuracy.items():
        cells = " | ".join(f"{row[db]:.1%}" for db in SNRS_DB)
        lines.append(f"| {kind} | {scores.accuracy:.1%} | {cells} |")
    cells = " | ".join(f"**{scores.at(db):.1%}**" for db in SNRS_DB)
    return [*lines, f"| mean | **{scores.accuracy:.1%}** | {cells} |"]


def _passing_lines(scores: Scores) -> list[str]:
    if not scores.passing:
        return []
    clean, *noises = (f"{kind} {accuracy:.1%}" for kind, accuracy in scores.passing.items())
    return [
        "As clips pass through a stream (mean probability over the windows that hold the active "
        f"span): **{clean}**, at 10 dB **{scores.passing_noisy:.1%}** ({', '.join(noises)}).",
        "",
    ]


def _worst_confusions(scores: Scores) -> list[str]:
    if not scores.confusion:
        return []
    table = np.array(scores.confusion)
    np.fill_diagonal(table, 0)
    order = np.argsort(-table, axis=None, kind="stable")[:_SHOWN_CONFUSIONS]
    pairs = [divmod(int(i), len(scores.labels)) for i in order]
    return [
        f"- {scores.labels[row]} taken for {scores.labels[column]}: {table[row, column]}"
        for row, column in pairs
        if table[row, column]
    ]


def _count_clips(scores: Scores) -> int:
    """Return the number of clips; with several labels, of labels of clips."""
    return sum(c.clips for c in scores.per_class())


def _mean_f1(scores: Scores) -> float:
    return float(np.mean([c.f1 for c in scores.per_class() if c.clips] or [0.0]))


def _rate(table: dict[str, float], label: str) -> str:
    return f"{table[label]:.3f}" if label in table else ""


def write_report(scores: Scores, command: str, folder: Path, folds: Sequence[Scores] = ()) -> Path:
    """Write ``report.md`` and ``confusion.png`` into ``folder``.

    Args:
        scores: What was measured.
        command: The command that measures it again.
        folder: Where to; made if it does not exist.
        folds: The single folds, if ``scores`` is their mean.

    Returns:
        Path of the Markdown file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if scores.confusion:
        draw_confusions(scores, folder / "confusion.png")
    if scores.reliability is not None:
        draw_reliability(scores, folder / "reliability.png")
    n_clips = _count_clips(scores)
    how = (
        "The prediction is the argmax over all classes."
        if scores.task == "single-label"
        else "A clip may have several labels; each is said from a probability of 0.5 on."
    )
    groups = scores.groups[:_SHOWN_GROUPS]
    more = f" and {len(scores.groups) - len(groups)} more" if len(scores.groups) > 12 else ""
    lines = [
        f"# {scores.name}",
        "",
        f"{n_clips} clips of {len(scores.groups)} held-out groups: {', '.join(groups)}{more}. "
        f"{how} Made with:",
        "",
        f"    {command}",
        "",
        f"## {scores.headline} by signal-to-noise ratio",
        "",
        *_noise_table(scores),
        "",
        *_passing_lines(scores),
        f"Temperature that calibrates the probabilities on these clips: {scores.temperature:g}.",
        "",
    ]
    if folds:
        at_db = " | ".join(f"{db} dB" for db in SNRS_DB)
        lines += [
            "## Folds",
            "",
            f"| held out | clips | clean | {at_db} |",
            "|---" * (len(SNRS_DB) + 3) + "|",
        ]
        for fold in folds:
            held = fold.groups[0] if len(fold.groups) == 1 else f"{len(fold.groups)} groups"
            cells = " | ".join(f"{fold.at(db):.1%}" for db in SNRS_DB)
            lines.append(f"| {held} | {_count_clips(fold)} | {fold.accuracy:.1%} | {cells} |")
        lines.append("")
    lines += [
        "## Classes (clean)",
        "",
        "| class | clips | precision | recall | F1 | AP | AUC |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {c.label} | {c.clips} | {c.precision:.1%} | {c.recall:.1%} | {c.f1:.1%} | "
            f"{_rate(scores.average_precision, c.label)} | {_rate(scores.auc, c.label)} |"
            for c in scores.per_class()
            if c.clips
        ),
        f"| mean | | | | {_mean_f1(scores):.1%} | {scores.mean_average_precision:.3f} | "
        f"{scores.mean_auc:.3f} |",
        "",
    ]
    if worst := _worst_confusions(scores):
        lines += ["Most frequent confusions:", "", *worst, ""]
    if scores.false_words is not None:
        lines += [
            f"Clips without any of the words taken for one of them: {scores.false_words:.1%}.",
            "",
        ]
    if scores.others:
        lines += [
            "## Clips of other sources (not in the accuracy above)",
            "",
            "| class | recall |",
            "|---|---|",
            *(f"| {label} | {recall:.1%} |" for label, recall in scores.others.items()),
            "",
        ]
    if scores.reliability is not None and scores.calibrated is not None:
        lines += [
            "## Calibration",
            "",
            f"Expected calibration error {scores.reliability.ece:.1%} as the file says, "
            f"{scores.calibrated.ece:.1%} after temperature scaling (each half of the groups with "
            "the temperature of the other).",
            "",
            "![reliability](reliability.png)",
            "",
        ]
    if scores.confusion:
        lines += ["## Confusions", "", "![confusions](confusion.png)", ""]
    path = folder / "report.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
