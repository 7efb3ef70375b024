"""Run a feeder as the daemon does and write down what comes out; a program for subprocesses.

``python recorder.py SOURCE SECONDS OUT.npz [OPTION=VALUE ...]`` prints each state of the stream
as a line of JSON and stores the hops: audio, first indices, losses and times. With the option
``read_after_s`` the source is opened but not read for so long.
"""

import json
import sys
import threading
import time
from dataclasses import asdict

import numpy as np

from streamcls.capture import Feeder, SourceOptions, parse_source
from streamcls.clock import read_utc_offset_ns
from streamcls.ring import Ring
from streamcls.types import Block, Health

HOP_SAMPLES = 160
RATE_HZ = 16_000


def show(health: Health) -> None:
    print(json.dumps(asdict(health)), flush=True)


def main() -> None:
    spec, seconds, out_path, *pairs = sys.argv[1:]
    options = {key: json.loads(value) for key, value in (pair.split("=") for pair in pairs)}
    read_after_s = options.pop("read_after_s", 0)
    source = parse_source(spec, SourceOptions(**options))
    if read_after_s:
        read = source.read

        def read_late() -> Block | None:
            nonlocal read_after_s
            time.sleep(read_after_s)
            read_after_s = 0
            return read()

        source.read = read_late
    news = threading.Event()
    ring = Ring(RATE_HZ * 10, RATE_HZ, news.set, utc_offset_ns=read_utc_offset_ns)
    feeder = Feeder("recorded", source, ring, 0, show)
    audio, starts, losses, times_ns = [], [], [], []
    out = np.empty(HOP_SAMPLES, np.float32)

    def drain() -> None:
        while (hop := ring.read_hop(out)) is not None:
            audio.append(out.copy())
            starts.append(hop.sample_start)
            losses.append(hop.lost_samples)
            times_ns.append(ring.time_ns(hop.sample_start))

    feeder.start()
    end_s = time.monotonic() + float(seconds)
    while time.monotonic() < end_s and not ring.ended:
        news.wait(0.1)
        news.clear()
        drain()
    stopped = feeder.stop(1.0)
    drain()
    np.savez(
        out_path,
        audio=np.array(audio, np.float32).reshape(-1, HOP_SAMPLES),
        starts=np.array(starts, np.int64),
        losses=np.array(losses, np.int64),
        times_ns=np.array(times_ns, np.int64),
        stopped=stopped,
    )


if __name__ == "__main__":
    main()
