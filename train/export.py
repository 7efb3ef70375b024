"""From trained weights to the one file the daemon serves.

The last stage: the header says what the file is, what it was trained on and how well it did.
"""

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from streamcls.checkpoint import Header, describe_window, load_checkpoint, save_checkpoint
from train.errors import RunError
from train.recipes import Recipe
from train.scores import Scores
from train.state import Network
from train.stream.evaluation import StreamScores

MODEL_FILE = "model.safetensors"


def write_model(
    recipe: Recipe,
    network: Network,
    params: Any,
    stats: Any,
    training: dict[str, Any],
    path: Path,
    *,
    unknown_labels: Sequence[str] | None = None,
    temperature: float = 1.0,
) -> None:
    """Write trained weights as a checkpoint.

    Args:
        recipe: What they were trained by.
        network: Structure of the model.
        params: Weights.
        stats: Batch norm statistics.
        training: Facts about the run for the header.
        path: The file to write.
        unknown_labels: Labels that mean "nothing I know"; None: the recipe's.
        temperature: What the logits have to be divided by.
    """
    model = network.join(params, stats)
    model.eval()
    header = Header(
        name=recipe.name,
        description=recipe.title,
        architecture=recipe.architecture,
        settings=recipe.model,
        front_end=asdict(recipe.front_end),
        labels=list(recipe.labels),
        unknown_labels=list(recipe.unknown_labels if unknown_labels is None else unknown_labels),
        task=recipe.task,
        window=describe_window(model),
        temperature=temperature,
        licence=recipe.licence,
        training=training,
        creator=f"streamcls {version('streamcls')}",
    )
    save_checkpoint(path, model, header)


def summarise(scores: Scores) -> dict[str, Any]:
    """Return the numbers a header carries."""
    return {
        "set": scores.name,
        "accuracy_clean": round(scores.accuracy, 4),
        **{f"accuracy_{db}_db": round(scores.at(db), 4) for db in (20, 10, 5, 0)},
        "mean_average_precision": round(scores.mean_average_precision, 4),
        "ece_calibrated": None if scores.calibrated is None else round(scores.calibrated.ece, 4),
    }


def summarise_stream(stream: StreamScores) -> dict[str, Any]:
    """Return the numbers of a stream evaluation that a header carries."""
    return {
        "scenes": stream.held_out,
        "hours": stream.hours,
        "missed_share": stream.total.missed_share,
        "made_up_per_hour": stream.total.made_up_per_hour,
        "target_per_hour_and_label": stream.target_per_hour,
        "distractors_per_hour": stream.distractors_per_hour,
        "psds": stream.psds["detection"],
        "published_after_onset_p50_s": stream.latency_s["after the onset"]["p50"],
    }


def export(run: Path, out: Path, scores: Scores | None, stream: StreamScores | None = None) -> None:
    """Copy a run's model to ``out``, with what was measured in its header.

    Args:
        run: Folder of a finished training.
        out: The file to write.
        scores: Measured on clips that were held out, if need be from another training by the
            same recipe; None leaves the header's metrics and temperature as they are.
        stream: Measured on scenes of held-out clips; its thresholds become the file's own. They
            hold at the temperature of the file that was measured.

    Raises:
        RunError: If the run has no finished model, or what was measured has other labels.
    """
    source = run / MODEL_FILE
    if not source.is_file():
        raise RunError(f"{run} has no {MODEL_FILE}; let 'python -m train fit' finish first")
    checkpoint = load_checkpoint(source)
    header = checkpoint.header
    if scores is not None:
        if scores.labels != header.labels:
            raise RunError(
                f"the scores are of labels {scores.labels}, the model has {header.labels}"
            )
        header = msgspec.structs.replace(
            header, metrics=summarise(scores), temperature=scores.temperature
        )
    if stream is not None:
        if strangers := sorted(set(stream.thresholds) - set(header.labels)):
            raise RunError(f"the thresholds are of {strangers}, the model has {header.labels}")
        if stream.temperature != header.temperature:
            raise RunError(
                f"the thresholds were chosen at temperature {stream.temperature:g}, the exported "
                f"file has {header.temperature:g}; give evaluate-stream the same --scores"
            )
        header = msgspec.structs.replace(
            header,
            thresholds=stream.thresholds,
            metrics={**header.metrics, "stream": summarise_stream(stream)},
        )
    save_checkpoint(out, checkpoint.model, header)
