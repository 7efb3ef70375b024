"""Synthetic speakers: words rendered with espeak-ng, flite and festival into a folder of clips.

Before `train.data`; used for training only. Real sets have few speakers, a synthesiser has a
hundred voices, each with any pitch and speed. What is rendered follows from the words, the number
of renderings and the installed programs alone, so that it can be rendered again.
"""

import csv
import hashlib
import random
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from train.errors import DataError

_ESPEAK_ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-gb-x-gbcwmd",
                   "en-gb-x-gbclan", "en-us-nyc")  # fmt: skip
_ESPEAK_VARIANTS = (
    "Adam", "Alex", "Alicia", "Andrea", "Andy", "Annie", "Antonio", "Belinda", "Benjamin", "Boris",
    "Caleb", "David", "Denis", "Diogo", "Ed", "Edward", "Gene", "Gustave", "Henrique", "Hugo",
    "Iven", "Iven2", "Iven3", "Jacky", "John", "Kaukovalta", "Lee", "Linda", "Marcelo", "Marco",
    "Mario", "Max", "Michael", "Michel", "Miguel", "Mike", "Nguyen", "Pablo", "Paul", "Pedro",
    "Quincy", "Rob", "Robert", "Steph", "Steph2", "Steph3", "Storm", "Tweaky", "Zac", "anika",
    "f1", "f2", "f3", "f4", "f5", "grandma", "grandpa", "klatt", "klatt2", "klatt3", "klatt4",
    "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "norbert", "sandro", "shelby", "travis",
    "victor",
)  # fmt: skip
_FLITE_VOICES = ("kal16", "awb", "rms", "slt")
_FESTIVAL_VOICES = ("kal_diphone", "ked_diphone", "cmu_us_slt_arctic_hts")
_LOUDEST = 0.9
_SILENCE_DB = 45.0
_TIMEOUT_S = 120
"""Long for a second of speech, but a busy machine may give it little time."""


@dataclass(frozen=True)
class Rendering:
    """One way to say a word."""

    program: str
    voice: str
    pitch: int
    """espeak-ng's pitch 0..99; for flite the mean F0 in Hz."""
    speed_percent: int
    """100 is the voice's normal speed."""

    @property
    def group(self) -> str:
        """The voice as a speaker: pitch and speed are moods of the same one."""
        return f"{self.program}-{self.voice}"


def plan_renderings(word: str, n: int, programs: Sequence[str]) -> list[Rendering]:
    """Choose ``n`` renderings of a word, the same ones every time.

    A sixth go to flite and a twelfth to festival where installed, the rest to espeak-ng.
    """
    rng = random.Random(hashlib.sha256(word.encode()).digest())
    plan: list[Rendering] = []
    for i in range(n):
        speed_percent = rng.randint(70, 140)
        if i % 6 == 0 and "flite" in programs:
            pitch = rng.randint(80, 240)
            plan.append(Rendering("flite", rng.choice(_FLITE_VOICES), pitch, speed_percent))
        elif i % 12 == 1 and "festival" in programs:
            plan.append(Rendering("festival", rng.choice(_FESTIVAL_VOICES), 50, speed_percent))
        else:
            voice = f"{rng.choice(_ESPEAK_ACCENTS)}+{rng.choice(_ESPEAK_VARIANTS)}"
            plan.append(Rendering("espeak-ng", voice, rng.randint(15, 85), speed_percent))
    return plan


def _command(word: str, how: Rendering, out: Path) -> tuple[list[str], str]:
    """Return the command line and what to write to its standard input."""
    if how.program == "flite":
        stretch = f"{100 / how.speed_percent:.2f}"
        f0 = f"int_f0_target_mean={how.pitch}"
        duration = f"duration_stretch={stretch}"
        return (
            [
                "flite",
                "-voice",
                how.voice,
                "--setf",
                f0,
                "--setf",
                duration,
                "-t",
                word,
                "-o",
                str(out),
            ],
            "",
        )
    if how.program == "festival":
        lisp = (
            f"(voice_{how.voice})\n"
            f"(Parameter.set 'Duration_Stretch {100 / how.speed_percent:.2f})\n"
            f'(utt.save.wave (utt.synth (Utterance Text "{word}")) "{out}" \'riff)\n'
        )
        return ["festival", "--pipe"], lisp
    words_per_minute = round(160 * how.speed_percent / 100)
    return (
        ["espeak-ng", "-v", how.voice, "-p", str(how.pitch), "-s", str(words_per_minute),
         "-w", str(out), word],
        "",
    )  # fmt: skip


def _trim(audio: np.ndarray) -> np.ndarray:
    """Cut the near-silence before and after the word; scale to a peak of 0.9."""
    peak = float(np.abs(audio).max(initial=0.0))
    if peak <= 0:
        return audio[:0]
    loud = np.flatnonzero(np.abs(audio) > peak * 10 ** (-_SILENCE_DB / 20))
    return audio[loud[0] : loud[-1] + 1] * (_LOUDEST / peak)


def render_word(word: str, how: Rendering, out: Path) -> None:
    """Render one clip to ``out`` (FLAC, the synthesiser's rate).

    Raises:
        DataError: If the program fails or says nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.wav"
        command, stdin = _command(word, how, raw)
        try:
            done = subprocess.run(
                command,
                input=stdin,
                text=True,
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
            audio, sample_rate_hz = sf.read(raw, dtype="float32")
        except (OSError, sf.LibsndfileError, subprocess.TimeoutExpired) as error:
            raise DataError(f"{command[0]} did not render {word!r} as {how}: {error}") from error
        word_audio = _trim(audio)
        if done.returncode or word_audio.size < sample_rate_hz // 20:
            raise DataError(
                f"{command[0]} said nothing for {word!r} as {how}: {done.stderr.strip()}"
            )
        sf.write(out, word_audio, sample_rate_hz, subtype="PCM_16", format="FLAC")


def _write_manifest(manifest: Path, rows: Sequence[tuple[str, str, str, str]]) -> None:
    """Write the list of clips, complete or not at all."""
    part = manifest.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split", "group"))
        writer.writerows(rows)
    part.rename(manifest)


def render_words(words: Sequence[str], renderings: int, folder: Path) -> int:
    """Render ``renderings`` clips of every word and list them in ``folder/manifest.csv``.

    Words already listed there are left alone, so that calls add up.

    Returns:
        Number of clips rendered.

    Raises:
        DataError: If espeak-ng is not installed or a rendering fails.
    """
    programs = [p for p in ("espeak-ng", "flite", "festival") if shutil.which(p)]
    if "espeak-ng" not in programs:
        raise DataError(
            "espeak-ng is not installed, so there are no synthetic speakers; install the package "
            "espeak-ng (and flite, festival for more voices) or train with --no-synth"
        )
    manifest = folder / "manifest.csv"
    rows: list[tuple[str, str, str, str]] = []
    if manifest.exists():
        with manifest.open(newline="", encoding="utf-8") as file:
            rows = [(r["path"], r["label"], r["split"], r["group"]) for r in csv.DictReader(file)]
    listed = {label for _, label, _, _ in rows}
    rendered = 0
    for word in words:
        if word in listed:
            continue
        (folder / "audio" / word).mkdir(parents=True, exist_ok=True)
        for number, how in enumerate(plan_renderings(word, renderings, programs)):
            path = f"audio/{word}/{number:03d}-{how.group}.flac"
            render_word(word, how, folder / path)
            rows.append((path, word, "train", how.group))
            rendered += 1
        _write_manifest(manifest, rows)
    return rendered
