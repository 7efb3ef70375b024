"""Reports for people: Markdown with the numbers, PNG with the confusions.

After `train.evaluate`, which measures; here nothing is computed but sums.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train.evaluate import SNRS_DB, Scores

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


def _worst_confusions(scores: Scores) -> list[str]:
    table = np.array(scores.confusion)
    np.fill_diagonal(table, 0)
    order = np.argsort(-table, axis=None, kind="stable")[:_SHOWN_CONFUSIONS]
    pairs = [divmod(int(i), len(scores.labels)) for i in order]
    return [
        f"- {scores.labels[row]} taken for {scores.labels[column]}: {table[row, column]}"
        for row, column in pairs
        if table[row, column]
    ]


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
    draw_confusions(scores, folder / "confusion.png")
    n_clips = int(np.sum(scores.confusion))
    groups = scores.groups[:_SHOWN_GROUPS]
    more = f" and {len(scores.groups) - len(groups)} more" if len(scores.groups) > 12 else ""
    lines = [
        f"# {scores.name}",
        "",
        f"{n_clips} clips of {len(scores.groups)} held-out groups: {', '.join(groups)}{more}. "
        "The prediction is the argmax over all classes. Made with:",
        "",
        f"    {command}",
        "",
        "## Accuracy by signal-to-noise ratio",
        "",
        *_noise_table(scores),
        "",
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
            lines.append(f"| {held} | {np.sum(fold.confusion)} | {fold.accuracy:.1%} | {cells} |")
        lines.append("")
    lines += [
        "## Classes (clean)",
        "",
        "| class | clips | precision | recall |",
        "|---|---|---|---|",
        *(
            f"| {c.label} | {c.clips} | {c.precision:.1%} | {c.recall:.1%} |"
            for c in scores.per_class()
            if c.clips
        ),
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
    lines += ["![confusions](confusion.png)", ""]
    path = folder / "report.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
