"""Ten command words: ``python -m train fit commands``.

Run time: 11 minutes on one CPU core. Expected of ``--fold 0`` (990 clips of 48 held-out speakers,
argmax over all 12 classes): 94.3 % clean, 86.2 % at 10 dB (white noise, pink noise and babble
counted alike). Silence is not scored: the noise recordings are too few to hold some out.
"""

from streamcls.features import FrontEnd
from train.augment import Augment
from train.data import ManifestRow, Source
from train.recipes import Recipe, Synthesis
from train.recipes.digits import NON_WORDS, spoken_word

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
OTHER_WORDS = (
    "backward", "bed", "bird", "cat", "dog", "follow", "forward", "happy", "house", "learn",
    "marvin", "sheila", "tree", "visual", "wow", "zero", "one", "two", "three", "four", "five",
    "six", "seven", "eight", "nine", "hello", "open", "close", "low", "call", "light", "kitchen",
    "show", "note", "long", "often", "rice", "lift", "town", "cup", "step", "guess", "goat", "arm",
)  # fmt: skip


def _synthetic(row: ManifestRow) -> str | None:
    return row.label if row.label in COMMANDS else "unknown"


def _environment(row: ManifestRow) -> str | None:
    return "silence" if row.label in NON_WORDS else None


def recipe() -> Recipe:
    """Return the recipe."""
    return Recipe(
        name="commands",
        title="Ten command words, 16 kHz",
        labels=(*COMMANDS, "unknown", "silence"),
        unknown="unknown",
        silence="silence",
        sources=(
            Source(
                "speech_commands", "speech_commands", spell=spoken_word, always_trained=("noise",)
            ),
            Source(
                "synthetic",
                "synth/commands",
                relabel=_synthetic,
                weight=0.2,
                rendered=True,
                train_only=True,
            ),
            Source("environment", "esc10", relabel=_environment, scored=False),
        ),
        synthesis=(
            Synthesis("synth/commands", COMMANDS, renderings=80),
            Synthesis("synth/commands", OTHER_WORDS, renderings=25),
        ),
        validate=True,
        class_weight={"unknown": 2.0, "silence": 0.8},
        noise_labels=("silence",),
        front_end=FrontEnd(),
        architecture="cnn_tc_resnet_1",
        # A window of 1.025 s: the clips are a second long, and some words begin or end with them.
        model={"min_window_frames": 101},
        augment=Augment(
            speed_range=0.12,
            background_probability=0.0,
            tilt_probability=0.0,
            band_probability=0.0,
            babble_probability=0.15,
            snr_min_db=0.0,
            snr_max_db=35.0,
        ),
        epochs=40,
        # 190 speakers say every word here: less than the digits borrow is enough.
        word_weight=0.3,
        licence=(
            "Speech Commands v0.02, CC BY 4.0, Pete Warden/Google; ESC-10, CC BY 3.0, K. J. Piczak"
        ),
    )
