"""`streamcls bench`: how many streams this machine can run, at which hop, with what latency."""

import argparse
import dataclasses
import json
import math
import os
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
the daemon's CPU time per second. With --daemons several daemons share the streams, and cores and
memory are those of all of them.""",
    epilog="""\
examples:
  streamcls bench
      The default model, a prediction every 80 ms.
  streamcls bench --model yamnet --hop-ms 240 480
      Another model at two hops.
  streamcls bench --daemons 2 --streams 512 768 1000
      Two daemons, each with half of the streams.
  streamcls bench --streams 8 --json
      The figures of 8 streams, for a program.""",
)
_LOCK_BOUND = 0.8
"""Of the cores; a daemon that uses less and is late waits for itself."""
_LONGEST_LEVEL_S = 3600
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
        "--daemons",
        type=_positive,
        default=1,
        metavar="N",
        help="daemons that share the streams (default 1)",
    )
    parser.add_argument(
        "--level-s",
        type=_seconds,
        default=3.0,
        metavar="S",
        help="time for each number (default 3)",
    )
    parser.add_argument(
        "--device", default="auto", metavar="KIND", help="auto (default), cpu, gpu or tpu"
    )
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    parser.set_defaults(command=_bench)


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: must be an integer from 1 on")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _LONGEST_LEVEL_S:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number up to {_LONGEST_LEVEL_S}")
    return seconds


def _bench(arguments: argparse.Namespace) -> int:
    from streamcls.bench import measure_levels

    if not arguments.json:
        print(_HEADER, flush=True)
    levels: list[Level] = []
    for hop_ms in arguments.hop_ms:
        for level in measure_levels(
            arguments.model,
            hop_ms,
            sorted(arguments.streams or ()),
            arguments.level_s,
            [f"inference.device={arguments.device}"],
            arguments.daemons,
        ):
            levels.append(level)
            if not arguments.json:
                print(_row(level), flush=True)
    if arguments.json:
        print(json.dumps([{**dataclasses.asdict(one), "good": one.good} for one in levels]))
        return 0
    for hop_ms in arguments.hop_ms:
        measured = [one for one in levels if one.hop_ms == hop_ms]
        good = [one for one in measured if one.good]
        print(f"\n{_verdict(arguments.model, hop_ms, good[-1] if good else None)}")
        if _waits_for_itself(measured[-1]):
            print(_advice(measured[-1]))
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
    shared = f", in {level.daemons} daemons" if level.daemons > 1 else ""
    return (
        f"This machine runs {level.streams} streams of {model!r}{shared}, each with a prediction "
        f"every {hop_ms:g} ms,\nnothing lost; half of them arrive within {level.p50_ms:.1f} ms, "
        f"99 % within {level.p99_ms:.1f} ms."
    )


def _waits_for_itself(level: "Level") -> bool:
    """Tell whether it was too much for the threads of a daemon, and not for the processor."""
    return not level.good and level.cores < _LOCK_BOUND * (os.cpu_count() or 1)


def _advice(level: "Level") -> str:
    return (
        f"More were late although {level.cores:.1f} of {os.cpu_count()} cores were used: "
        f"an interpreter runs\none thread at a time. Try --daemons {level.daemons + 1}."
    )
