"""Synthesise the recording that `make demo` plays, and the list of what is said in it.

Words spoken by espeak-ng voices, at irregular intervals, in pink noise. Everything is seeded, so
the same espeak-ng gives the same file. Run ``make demo-recording``; the results are committed,
because users do not need espeak-ng.
"""

import argparse
import io
import json
import subprocess
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

RATE_HZ = 16_000
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
VOICES = ("en-us+Andy", "en-gb+Annie", "en-us+f4", "en-gb-x-rp+m3", "en-us+Linda")
OUT = Path(__file__).resolve().parent.parent / "streamcls" / "recordings"


def speak(word: str, voice: str, words_per_minute: int) -> NDArray[np.float64]:
    """Return ``word`` without the silence around it, ``[samples]`` at `RATE_HZ`, peak 1."""
    command = ["espeak-ng", "-v", voice, "-s", str(words_per_minute), "--stdout", word]
    spoken = subprocess.run(command, check=True, capture_output=True).stdout
    audio, rate_hz = soundfile.read(io.BytesIO(spoken), dtype="float64")
    audio = soxr.resample(audio, rate_hz, RATE_HZ)
    audible = np.flatnonzero(np.abs(audio) > 0.02 * np.abs(audio).max())
    audio = audio[audible[0] : audible[-1] + 1]
    return audio / np.abs(audio).max()


def pink_noise(n_samples: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return noise whose power falls with 3 dB per octave, RMS 1."""
    spectrum = np.fft.rfft(generator.normal(size=n_samples))
    spectrum /= np.sqrt(np.maximum(np.arange(spectrum.size), 20.0))
    noise = np.fft.irfft(spectrum, n_samples)
    return noise / noise.std()


def compose(
    words: tuple[str, ...], snr_db: float, seed: int
) -> tuple[NDArray[np.float64], list[dict]]:
    """Return the recording and, for each word, what is said and when (seconds)."""
    generator = np.random.default_rng(seed)
    pieces: list[NDArray[np.float64]] = [np.zeros(int(1.2 * RATE_HZ))]
    transcript = []
    for index, word in enumerate(words):
        voice = VOICES[index % len(VOICES)]
        audio = 0.4 * speak(word, voice, int(generator.integers(130, 165)))
        start = sum(piece.size for piece in pieces)
        transcript.append(
            {
                "word": word,
                "voice": voice,
                "start_s": round(start / RATE_HZ, 3),
                "end_s": round((start + audio.size) / RATE_HZ, 3),
            }
        )
        pieces += [audio, np.zeros(int(generator.uniform(0.9, 1.5) * RATE_HZ))]
    speech = np.concatenate(pieces)
    spoken = np.abs(speech) > 0.01
    noise = pink_noise(speech.size, generator)
    noise *= np.sqrt(np.mean(speech[spoken] ** 2)) * 10 ** (-snr_db / 20)
    return speech + noise, transcript


def main() -> None:
    """Write ``demo.flac`` and ``demo.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--snr-db", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    audio, transcript = compose(WORDS, arguments.snr_db, arguments.seed)
    soundfile.write(arguments.out / "demo.flac", audio, RATE_HZ, subtype="PCM_16")
    described = {"sample_rate_hz": RATE_HZ, "snr_db": arguments.snr_db, "words": transcript}
    (arguments.out / "demo.json").write_text(json.dumps(described, indent=2) + "\n")
    print(f"{arguments.out}: {audio.size / RATE_HZ:.1f} s, {len(transcript)} words")


if __name__ == "__main__":
    main()
