"""`streamcls bench`: how many streams this machine can run, at which hop, with what latency."""

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from streamcls.cli.manual import Page, add_command

if TYPE_CHECKING:
    from streamcls.bench import Level

_PAGE = Page(
    description="""\
Measure how many streams this machine can run. Starts a real daemon that plays a recording in real
time, adds more and more streams, and listens to all of them; ends at the first number at which
audio or messages were lost or half of the predictions came later than a hop. About a minute.

Latency is from the last sample of a window to the prediction in a subscriber's hands. Cores are
the daemon's CPU time per second.""",
    epilog="""\
examples:
  streamcls bench
      The default model, a prediction every 80 ms.
  streamcls bench --model yamnet --hop-ms 240 480
      Another model at two hops.
  streamcls bench --streams 8 --json
      The figures of 8 streams, for a program.""",
)
_HEADER = "streams   hop ms   predictions/s   cores   p50 ms   p99 ms   max ms   MB   "


def add_parser(commands: Any) -> None:
    """Add ``bench`` to the commands."""
    parser = add_command(commands, "bench", "measure how many streams this machine can run", _PAGE)
    parser.add_argument(
        "--model",
        default="commands",
        metavar="NAME|PATH",
        help="shipped model (see `streamcls models list`) or file (default commands)",
    )
    parser.add_argument(
        "--hop-ms",
        type=float,
        nargs="+",
        default=[80.0],
        metavar="MS",
        help="new audio per prediction, each measured (default 80)",
    )
    parser.add_argument(
        "--streams",
        type=_positive,
        nargs="+",
        metavar="N",
        help="numbers of streams to try, ascending (default 1, 16, ... 1000)",
    )
    parser.add_argument(
        "--level-s", type=float, default=3.0, metavar="S", help="time for each number (default 3)"
    )
    parser.add_argument(
        "--device", default="auto", metavar="KIND", help="auto (default), cpu, gpu or tpu"
    )
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    parser.set_defaults(command=_bench)


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of streams; give 1 or more")
    return int(text)


def _bench(arguments: argparse.Namespace) -> int:
    from streamcls.bench import LEVELS, measure_levels

    if not arguments.json:
        print(_HEADER)
    levels: list[Level] = []
    for hop_ms in arguments.hop_ms:
        for level in measure_levels(
            arguments.model,
            hop_ms,
            sorted(arguments.streams or LEVELS),
            arguments.level_s,
            [f"inference.device={arguments.device}"],
        ):
            levels.append(level)
            if not arguments.json:
                print(_row(level))
                sys.stdout.flush()
    if arguments.json:
        print(json.dumps([{**dataclasses.asdict(one), "good": one.good} for one in levels]))
        return 0
    for hop_ms in arguments.hop_ms:
        good = [one for one in levels if one.hop_ms == hop_ms and one.good]
        print(f"\n{_verdict(arguments.model, hop_ms, good[-1] if good else None)}")
    return 0


def _row(level: "Level") -> str:
    row = (
        f"{level.streams:>7}   {level.hop_ms:>6g}   {level.predictions_per_s:>13,.0f}   "
        f"{level.cores:>5.2f}   {level.p50_ms:>6.1f}   {level.p99_ms:>6.1f}   "
        f"{level.max_ms:>6.1f}   {level.rss_mb:>4.0f}"
    )
    return row if level.good else f"{row}   too many: {level.trouble}"


def _verdict(model: str, hop_ms: float, level: "Level | None") -> str:
    if level is None:
        return f"This machine cannot run {model!r} every {hop_ms:g} ms; try a longer --hop-ms."
    return (
        f"This machine runs {level.streams} streams of {model!r}, each with a prediction every "
        f"{hop_ms:g} ms,\nnothing lost; half of them arrive within {level.p50_ms:.1f} ms, "
        f"99 % within {level.p99_ms:.1f} ms."
    )
