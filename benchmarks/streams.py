"""Streams on this machine: cost from 1 to 1000, latency, losses; what `streamcls bench` does.

python -m benchmarks.streams
python -m benchmarks.streams --daemons 2
python -m benchmarks.streams --device gpu --streams 1000 2000 5000 10000
"""

import argparse
import sys

from benchmarks.machine import describe_machine
from streamcls.bench import measure_levels

_NOTES = """\
Files played in real time, as many streams in {daemons}; another process of the same machine
subscribes to every prediction. Latency is from the last sample of a window to the prediction in the
subscriber's hands. Cores are CPU time per second, without the subscriber's. A last row with a
reason is the first number of streams that is too many; see [streams](../streams.md).
"""
_HEADER = """\
| streams | predictions/s | cores | CPU us per prediction | p50 ms | p99 ms | max ms | RSS MB | |
|---:|---:|---:|---:|---:|---:|---:|---:|---|"""


def main() -> None:
    """Print one Markdown row per number of streams, up to the first that is too many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", help="default 1 ... 1000")
    parser.add_argument("--model", default="commands")
    parser.add_argument("--hop-ms", type=float, default=80.0)
    parser.add_argument("--level-s", type=float, default=5.0)
    parser.add_argument("--daemons", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    command = " ".join(["python -m benchmarks.streams", *sys.argv[1:]])
    print(f"# Streams: cost, latency and losses\n\n```\n{command}\n```\n")
    print(f"{describe_machine('jax', 'pyzmq')}; ", end="")
    print(f"model {arguments.model}, hop {arguments.hop_ms:g} ms, device {arguments.device}\n")
    n = arguments.daemons
    print(_NOTES.format(daemons="one daemon" if n == 1 else f"{n} daemons of equal shares"))
    print(_HEADER)
    settings = [f"inference.device={arguments.device}", *arguments.set]
    for level in measure_levels(
        arguments.model, arguments.hop_ms, arguments.streams, arguments.level_s, settings, n
    ):
        cost_us = level.cores / level.predictions_per_s * 1e6 if level.predictions_per_s else 0.0
        print(
            f"| {level.streams} | {level.predictions_per_s:,.0f} | {level.cores:.2f} | "
            f"{cost_us:.0f} | {level.p50_ms:.1f} | {level.p99_ms:.1f} | {level.max_ms:.1f} | "
            f"{level.rss_mb:.0f} | {level.trouble} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
