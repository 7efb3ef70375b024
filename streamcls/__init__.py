"""streamcls: real-time streaming audio classification.

What a program that embeds it needs is here, and loaded when it is first used (a subscriber never
waits for JAX): `Classifier` takes arrays and gives `Prediction`s and `Event`s, `EventSettings`
says when a score becomes an event. Programs that listen to a daemon use `streamcls.client`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamcls.classifier import Classifier
    from streamcls.postprocess.settings import ClassSettings, EventSettings, GroupSettings
    from streamcls.types import Event, Prediction

__all__ = [
    "ClassSettings",
    "Classifier",
    "Event",
    "EventSettings",
    "GroupSettings",
    "Prediction",
]

_HOMES = {
    "ClassSettings": "streamcls.postprocess.settings",
    "Classifier": "streamcls.classifier",
    "Event": "streamcls.types",
    "EventSettings": "streamcls.postprocess.settings",
    "GroupSettings": "streamcls.postprocess.settings",
    "Prediction": "streamcls.types",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
