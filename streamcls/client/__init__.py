"""Client library: subscribe to a daemon's messages, and call its control methods.

Outside of the daemon's flow; needs zmq and msgspec only, so it starts fast. A client belongs
to the thread (or event loop) that made it.

Example:
    Print the best class of every prediction, and what was missed::

        with Subscriber("tcp://127.0.0.1:5570", streams=["porch"]) as subscriber:
            for message in subscriber:
                match message:
                    case PredictionMessage(scores=scores):
                        print(next(iter(scores.items())))
                    case Gap() as gap:
                        print("missed", gap.missing)
"""

from streamcls.client.control import (
    AsyncControlClient,
    ControlClient,
    ControlError,
    ControlTimeoutError,
)
from streamcls.client.subscriber import AsyncSubscriber, Subscriber
from streamcls.inbox import Gap
from streamcls.publish.keys import ClientKeys
from streamcls.publish.schema import (
    EventMessage,
    HealthMessage,
    HeartbeatMessage,
    Message,
    PredictionMessage,
    RejectedMessage,
)

__all__ = [
    "AsyncControlClient",
    "AsyncSubscriber",
    "ClientKeys",
    "ControlClient",
    "ControlError",
    "ControlTimeoutError",
    "EventMessage",
    "Gap",
    "HealthMessage",
    "HeartbeatMessage",
    "Message",
    "PredictionMessage",
    "RejectedMessage",
    "Subscriber",
]
