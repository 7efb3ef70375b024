"""Classify live arrays: raw 16-bit PCM from standard input, as it arrives.

arecord -q -t raw -r 16000 -f S16_LE -c 1 | python examples/numpy_stream.py --rate 16000
"""

import argparse
import os
import sys

import numpy as np

from streamcls import Classifier, Prediction

parser = argparse.ArgumentParser(description="Classify raw 16-bit PCM as it arrives.")
parser.add_argument("--rate", type=int, default=16_000, metavar="HZ")
parser.add_argument("--model", default="commands", help="shipped model or path of a checkpoint")
arguments = parser.parse_args()

classifier = Classifier(arguments.model, sample_rate_hz=arguments.rate)
odd = b""  # a pipe may end in the middle of a sample
while data := os.read(sys.stdin.fileno(), 65_536):
    data = odd + data
    n_bytes = len(data) // 2 * 2
    odd = data[n_bytes:]
    # Any length will do: the classifier keeps what does not fill a hop.
    for result in classifier.feed(np.frombuffer(data[:n_bytes], np.int16)):
        if isinstance(result, Prediction):
            best = result.probabilities.argmax()
            score, level = result.probabilities[best], result.level_dbfs
            print(f"{result.t_end_ns / 1e9:7.2f} s {level:6.1f} dBFS {score:4.0%}", end="  ")
            print(classifier.labels[best], flush=True)
        else:
            print(f"{result.state.value}: {result.label}", flush=True)
