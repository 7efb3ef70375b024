"""Listen to a daemon: events as they begin and end, states of the streams, and what was missed.

streamcls run                                       # in another terminal
python examples/subscribe.py
"""

import argparse
import contextlib
import time

from streamcls.client import EventMessage, Gap, HealthMessage, Subscriber

parser = argparse.ArgumentParser(description="Print what a daemon hears.")
parser.add_argument("--endpoint", default="tcp://127.0.0.1:5570")
parser.add_argument(
    "--control", default="tcp://127.0.0.1:5571", help="where to fetch what I missed"
)
parser.add_argument("--stream", action="append", default=[], help="only this; may be repeated")
arguments = parser.parse_args()

with (
    contextlib.suppress(KeyboardInterrupt),
    Subscriber(
        arguments.endpoint,
        streams=arguments.stream,
        types=("event", "health"),
        recover=True,
        control_endpoint=arguments.control,
    ) as subscriber,
):
    for message in subscriber:
        match message:
            case EventMessage(state="onset", label=label, onset_ns=onset_ns):
                ago_s = time.time() - onset_ns / 1e9
                print(f"{message.stream}: {label} began {ago_s:.2f} s ago", flush=True)
            case EventMessage(
                state="offset", label=label, onset_ns=onset_ns, offset_ns=int(end_ns)
            ):
                lasted_s, peak = (end_ns - onset_ns) / 1e9, message.peak_score
                print(
                    f"{message.stream}: {label} lasted {lasted_s:.2f} s, peak {peak:.0%}",
                    flush=True,
                )
            case HealthMessage(state=state, reason=reason):
                print(f"{message.stream} is {state}: {reason}", flush=True)
            case Gap():
                print(f"missed for good: {message}", flush=True)
