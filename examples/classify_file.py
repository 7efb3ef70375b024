"""Print what is heard in a sound file. No daemon, no sockets.

python examples/classify_file.py street.flac
python examples/classify_file.py street.flac --model ./my-model.safetensors --threshold 0.8
"""

import argparse

import soundfile

from streamcls import Classifier, Event, EventSettings

parser = argparse.ArgumentParser(description="Print what is heard in a sound file.")
parser.add_argument("file")
parser.add_argument("--model", default="commands", help="shipped model or path of a checkpoint")
parser.add_argument("--threshold", type=float, help="probability from which a sound begins")
arguments = parser.parse_args()

with soundfile.SoundFile(arguments.file) as file:
    classifier = Classifier(
        arguments.model,
        sample_rate_hz=file.samplerate,
        channel="mix",
        events=EventSettings(onset_threshold=arguments.threshold),
    )
    # A second at a time, so that the length of the file does not matter.
    blocks = file.blocks(file.samplerate, dtype="float32")
    results = (result for block in blocks for result in classifier.feed(block))
    for result in [*results, *classifier.flush()]:
        if isinstance(result, Event) and result.offset_ns is not None:
            begin_s, end_s = result.onset_ns / 1e9, result.offset_ns / 1e9
            print(f"{begin_s:7.2f} s to {end_s:7.2f} s  {result.peak_score:4.0%}  {result.label}")
