"""Streams on this machine: cost from 1 to 1000, latency, losses; what `streamcls bench` does.

python -m benchmarks.streams
python -m benchmarks.streams --device gpu --streams 1000 2000 5000 10000
"""

import argparse

from benchmarks.machine import describe_machine
from streamcls.bench import LEVELS, measure_levels

_NOTES = """\
Files played in real time, all streams in one daemon, one subscriber in another process of the same
machine that takes every prediction. Latency is from the last sample of a window to the prediction
in the subscriber's hands. Cores are the daemon's CPU time per second. The last row is the first
number of streams that is too many, with the reason; see [streams](../streams.md).
"""
_HEADER = """\
| streams | predictions/s | daemon, cores | CPU us per prediction | p50 ms | p99 ms | max ms | RSS MB | |
|---:|---:|---:|---:|---:|---:|---:|---:|---|"""  # noqa: E501


def main() -> None:
    """Print one Markdown row per number of streams, up to the first that is too many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=LEVELS)
    parser.add_argument("--model", default="commands")
    parser.add_argument("--hop-ms", type=float, default=80.0)
    parser.add_argument("--level-s", type=float, default=5.0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    print("# Streams: cost, latency and losses\n\n```\npython -m benchmarks.streams\n```\n")
    print(f"{describe_machine('jax', 'pyzmq')}; ", end="")
    print(f"model {arguments.model}, hop {arguments.hop_ms:g} ms, device {arguments.device}\n")
    print(_NOTES)
    print(_HEADER)
    settings = [f"inference.device={arguments.device}", *arguments.set]
    for level in measure_levels(
        arguments.model, arguments.hop_ms, arguments.streams, arguments.level_s, settings
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
