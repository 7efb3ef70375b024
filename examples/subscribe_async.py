"""Listen to a daemon with asyncio: predictions in one task, a watch over the daemon in another.

streamcls run                                       # in another terminal
python examples/subscribe_async.py
"""

import argparse
import asyncio
import contextlib

from streamcls.client import (
    AsyncControlClient,
    AsyncSubscriber,
    ControlTimeoutError,
    Gap,
    PredictionMessage,
)

DEAD_S = 3.0
"""A daemon beats once a second."""


async def print_predictions(subscriber: AsyncSubscriber) -> None:
    """Print the best class of every prediction."""
    async for message in subscriber:
        match message:
            case PredictionMessage(stream=stream, scores=scores, t_end_ns=t_end_ns):
                label, score = max(scores.items(), key=lambda item: item[1])
                print(f"{stream} {t_end_ns} {score:4.0%} {label}", flush=True)
            case Gap():
                print(f"missed: {message}", flush=True)


async def watch(subscriber: AsyncSubscriber, control: AsyncControlClient) -> None:
    """Say when the daemon comes and goes, and what it serves."""
    here = False
    while True:
        await asyncio.sleep(0.2)
        if here == (subscriber.silence_s < DEAD_S):
            continue
        here = not here
        if not here:
            print("the daemon is gone", flush=True)
            continue
        with contextlib.suppress(ControlTimeoutError):
            status = await control.call("status", timeout_s=5.0)
            print(f"a daemon is here: model {status['model']}", flush=True)


async def main() -> None:
    """Run both until interrupted."""
    parser = argparse.ArgumentParser(
        description="Print what a daemon hears, and whether it is there."
    )
    parser.add_argument("--endpoint", default="tcp://127.0.0.1:5570")
    parser.add_argument("--control", default="tcp://127.0.0.1:5571")
    arguments = parser.parse_args()
    async with (
        AsyncSubscriber(arguments.endpoint, types=("prediction",)) as subscriber,
        AsyncControlClient(arguments.control) as control,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(print_predictions(subscriber))
        tasks.create_task(watch(subscriber, control))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
