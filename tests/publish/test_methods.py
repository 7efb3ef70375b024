"""The table of control methods: parameters are checked before a method sees them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamcls.publish.methods import METHODS, MethodTable, ReplayParams, describe
from streamcls.publish.rpc import answer

DOCS = Path(__file__).parents[2] / "docs"
GOOD: dict[str, list[dict[str, Any]]] = {
    "status": [{}],
    "snapshot": [{}],
    "streams.list": [{}],
    "replay": [
        {"stream": "porch", "type": "event", "from_seq": 0},
        {"stream": "porch", "type": "rejected", "from_seq": 3, "to_seq": 9, "run": "a"},
        {"stream": "porch", "type": "event", "from_seq": 0, "to_seq": None},
    ],
    "streams.add": [
        {"stream": "porch", "source": "device:USB"},
        {"stream": "porch", "source": "pipe:", "options": {"channel": 1}},
    ],
    "streams.remove": [{"stream": "porch"}],
    "model.reload": [{}, {"model": "digits"}],
    "thresholds.set": [
        {"onset_threshold": 0.7},
        {"stream": "porch", "label": "dog", "offset_threshold": 0},
    ],
}
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("status", {"verbose": True}, "verbose"),
    ("replay", {"stream": "porch", "type": "event"}, "from_seq"),
    ("replay", {"stream": "porch", "type": "event", "from_seq": "0"}, "from_seq"),
    ("replay", {"stream": "porch", "type": "event", "from_seq": -1}, "from_seq"),
    ("replay", {"stream": "porch", "type": "event", "from_seq": 1.5}, "from_seq"),
    ("replay", {"stream": "porch", "type": "event", "from_seq": True}, "from_seq"),
    ("replay", {"stream": "porch", "type": "heartbeat", "from_seq": 0}, "type"),
    ("replay", {"stream": "a/b", "type": "event", "from_seq": 0}, "stream"),
    ("replay", {"stream": "porch\n", "type": "event", "from_seq": 0}, "stream"),
    ("streams.add", {"stream": "porch", "source": ""}, "source"),
    ("streams.add", {"stream": "porch", "source": "x" * 5000}, "source"),
    ("streams.remove", {}, "stream"),
    ("model.reload", {"model": 5}, "model"),
    ("thresholds.set", {"stream": "porch"}, "onset_threshold"),
    ("thresholds.set", {"onset_threshold": 1.5}, "onset_threshold"),
    ("thresholds.set", {"label": "x" * 129, "onset_threshold": 0.5}, "label"),
]


def call(table: MethodTable, method: str, params: dict[str, Any]) -> Any:
    request = {"jsonrpc": "2.0", "method": method, "params": params, "id": 1}
    return json.loads(answer(json.dumps(request).encode(), table) or b"")


@pytest.fixture
def table() -> MethodTable:
    """All methods, each answering with the name of its parameters' type."""
    return MethodTable({name: lambda params: type(params).__name__ for name in GOOD})


@pytest.mark.parametrize("name", GOOD)
def test_good_parameters_arrive_as_their_type(table, name):
    for params in GOOD[name]:
        assert call(table, name, params)["result"] == METHODS[name].params.__name__


@pytest.mark.parametrize(("name", "params", "mentions"), BAD)
def test_bad_parameters_never_reach_the_method(table, name, params, mentions):
    error = call(table, name, params)["error"]
    assert error["code"] == -32602
    assert mentions in error["message"]
    assert error["data"] == {"params": describe(name)["params"]}


def test_parameters_carry_their_values():
    seen = []
    call(MethodTable({"replay": seen.append}), "replay", GOOD["replay"][1])
    assert seen == [ReplayParams(stream="porch", type="rejected", from_seq=3, to_seq=9, run="a")]


def test_only_what_is_implemented_exists():
    table = MethodTable({"status": lambda params: "up"})
    assert set(table) == {"methods", "status"}
    assert [one["name"] for one in call(table, "methods", {})["result"]] == ["methods", "status"]
    error = call(table, "replay", {})["error"]
    assert (error["code"], error["data"]) == (-32601, ["methods", "status"])


def test_a_function_for_an_unknown_method_is_a_mistake():
    for name in ("replya", "methods"):
        with pytest.raises(ValueError, match=name):
            MethodTable({name: lambda params: None})


def test_methods_describe_themselves(table):
    assert set(table) == set(METHODS) == {*GOOD, "methods"}
    for description in table["methods"]({}):
        assert description["summary"]
        schema = description["params"]
        assert schema["additionalProperties"] is False
        assert set(schema["properties"]) == {
            field.name for field in msgspec.structs.fields(METHODS[description["name"]].params)
        }


def test_the_checked_in_schema_of_the_methods_is_current():
    command = [sys.executable, "-m", "streamcls.publish.methods"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    written = (DOCS / "control.schema.json").read_text()
    assert written == printed, f"run: {' '.join(command)} > docs/control.schema.json"


def test_the_specification_names_every_method_and_parameter():
    lines = (DOCS / "protocol.md").read_text().splitlines()
    for name, spec in METHODS.items():
        row = next((line for line in lines if line.startswith(f"| `{name}` |")), "")
        for field in msgspec.structs.fields(spec.params):
            assert f"`{field.name}`" in row, f"{name}: {field.name} is not in docs/protocol.md"
        assert row, f"{name} is not in docs/protocol.md"
