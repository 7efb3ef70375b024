"""The control methods: their names, what they mean, and their parameters as types.

The contract of the control socket in one table; `docs/protocol.md` is the prose to it. The daemon
brings the functions (`MethodTable`); a method without one does not exist for clients.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from streamcls.postprocess.settings import OnsetProbability
from streamcls.publish.rpc import InvalidParamsError, Method
from streamcls.publish.schema import LABEL_LIMIT_CHARS, Count, Probability, StreamType

StreamName = Annotated[
    str,
    # Without the last part Python's $ would allow a newline at the end.
    Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$(?!\n)", description="name of the stream"),
]
Label = Annotated[
    str, Meta(min_length=1, max_length=LABEL_LIMIT_CHARS, description="class or group")
]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]


class Params(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of a method; of itself, none."""


class StreamParams(Params, frozen=True, kw_only=True):
    """One stream."""

    stream: StreamName


class AddStreamParams(Params, frozen=True, kw_only=True):
    """A stream to add; the keys are those of ``[streams.NAME]`` in the configuration."""

    stream: StreamName
    source: Annotated[Text, Meta(description="as in the configuration, such as device:NAME")]
    options: Annotated[
        dict[str, Any],
        Meta(max_length=64, description="the other keys of [streams.NAME], such as channel"),
    ] = {}


class ReloadParams(Params, frozen=True, kw_only=True):
    """A model to change to."""

    model: Annotated[
        Text | None, Meta(description="shipped name or path; null: the present one, read again")
    ] = None


class ThresholdParams(Params, frozen=True, kw_only=True):
    """Event thresholds to change; at least one of the two."""

    stream: Annotated[StreamName | None, Meta(description="null: all streams")] = None
    label: Annotated[Label | None, Meta(description="null: all classes without their own")] = None
    onset_threshold: OnsetProbability | None = None
    offset_threshold: Probability | None = None

    def __post_init__(self):
        if self.onset_threshold is None and self.offset_threshold is None:
            raise ValueError("give onset_threshold, offset_threshold or both")


class ReplayParams(Params, frozen=True, kw_only=True):
    """A part of one sequence."""

    stream: StreamName
    type: StreamType
    from_seq: Annotated[Count, Meta(description="first number wanted")]
    to_seq: Annotated[Count | None, Meta(description="last number wanted; null: all")] = None
    run: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        Meta(description="refuse unless it is this daemon start; null: do not check"),
    ] = None


class MethodSpec(NamedTuple):
    """What a method is, whoever implements it."""

    params: type[Params]
    summary: str


METHODS: Mapping[str, MethodSpec] = {
    "methods": MethodSpec(Params, "the methods there are, with JSON Schemas of their parameters"),
    "status": MethodSpec(Params, "state of the daemon, for people and dashboards"),
    "snapshot": MethodSpec(Params, "the last message of each sequence and of each open event"),
    "replay": MethodSpec(ReplayParams, "recent messages of one sequence, a page at a time"),
    "streams.list": MethodSpec(Params, "the streams with their sources and health"),
    "streams.add": MethodSpec(AddStreamParams, "begin to listen to a source"),
    "streams.remove": MethodSpec(StreamParams, "stop listening to a stream"),
    "model.reload": MethodSpec(ReloadParams, "change to another model, or read this one again"),
    "thresholds.set": MethodSpec(ThresholdParams, "change event thresholds until the next start"),
}

_P = TypeVar("_P", bound=Params)


class MethodTable(Mapping[str, Method]):
    """The methods that can be called, as `ControlServer` wants them.

    Args:
        functions: Name of `METHODS` -> function that takes the method's checked parameters (an
            instance of its `Params`) and returns anything msgspec can encode. It may raise
            `StreamclsError` to refuse.

    Raises:
        ValueError: A name is not in `METHODS`, or is ``methods``, which the table answers itself.
    """

    def __init__(self, functions: Mapping[str, Callable[[Any], Any]]):
        unknown = functions.keys() - (METHODS.keys() - {"methods"})
        if unknown:
            raise ValueError(f"not control methods: {', '.join(sorted(unknown))}; see METHODS")
        functions = {**functions, "methods": self._describe}
        self._methods = {
            name: _check_params(spec.params, functions[name])
            for name, spec in METHODS.items()
            if name in functions
        }

    def __getitem__(self, name: str) -> Method:
        return self._methods[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)

    def _describe(self, params: Params) -> list[dict[str, Any]]:
        """Control method ``methods``."""
        del params
        return [describe(name) for name in self]


def describe(name: str) -> dict[str, Any]:
    """Return a method's name, summary and the JSON Schema of its parameters."""
    spec = METHODS[name]
    return {"name": name, "summary": spec.summary, "params": params_schema(spec.params)}


def params_schema(params: type[Params]) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a method's parameters, without references."""
    schema = msgspec.json.schema(params)
    return schema["$defs"][params.__name__]


def _check_params(params: type[_P], function: Callable[[_P], Any]) -> Method:
    def method(given: dict[str, Any]) -> Any:
        try:
            checked = msgspec.convert(given, params)
        except msgspec.ValidationError as error:
            raise InvalidParamsError(str(error), {"params": params_schema(params)}) from error
        return function(checked)

    return method


if __name__ == "__main__":
    print(json.dumps([describe(name) for name in METHODS], indent=2))
