"""JSON-RPC 2.0: the specification's cases, as bytes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcls.errors import ModelError
from streamcls.publish.rpc import (
    BATCH_LIMIT,
    BATCH_REPLY_LIMIT_BYTES,
    InvalidParamsError,
    RpcError,
    answer,
)


def _refuse(params):
    raise ModelError("no model 'x': choose one of commands, digits")


def _refuse_with_data(params):
    raise RpcError("not now", code=-32001, data={"retry_s": 2})


def _need_stream(params):
    if "stream" not in params:
        raise InvalidParamsError("parameter 'stream' is missing")
    return params["stream"]


METHODS = {
    "status": lambda params: {"ok": True},
    "echo": lambda params: params,
    "refuse": _refuse,
    "refuse_with_data": _refuse_with_data,
    "need_stream": _need_stream,
    "bug": lambda params: 1 / 0,
    "big": lambda params: "x" * 100_000,
    "unencodable": lambda params: object(),
}


def call(request) -> Any:
    reply = answer(request if isinstance(request, bytes) else json.dumps(request).encode(), METHODS)
    return None if reply is None else json.loads(reply)


def request(method: Any, request_id: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "id": request_id, **fields}


@pytest.mark.parametrize("request_id", [1, "a", None, 1.5])
def test_a_result_carries_the_id(request_id):
    reply = call(request("echo", request_id, params={"a": [1]}))
    assert reply == {"jsonrpc": "2.0", "result": {"a": [1]}, "id": request_id}


def test_parameters_may_be_left_out():
    assert call(request("echo")) == {"jsonrpc": "2.0", "result": {}, "id": 1}


@pytest.mark.parametrize(
    ("bad", "code", "request_id"),
    [
        (b"", -32700, None),
        (b"{", -32700, None),
        (b"\xff\xff", -32700, None),
        (b"[" * 60_000, -32700, None),
        (b'{"id": 1e999}', -32700, None),
        (b"1", -32600, None),
        (b"[]", -32600, None),
        (b'"status"', -32600, None),
        ({}, -32600, None),
        ({"method": "status", "id": 1}, -32600, 1),
        ({"jsonrpc": "1.0", "method": "status", "id": 1}, -32600, 1),
        (request(5), -32600, 1),
        (request("status", [1]), -32600, None),
        (request("status", True), -32600, None),
        (request("status", params="text"), -32600, 1),
        (request("nothing"), -32601, 1),
        (request("need_stream"), -32602, 1),
        (request("need_stream", params=["porch"]), -32602, 1),
        (request("refuse"), -32000, 1),
        (request("refuse_with_data"), -32001, 1),
    ],
)
def test_errors_have_the_codes_of_the_specification(bad, code, request_id):
    reply = call(bad)
    assert isinstance(reply, dict)
    assert (reply["jsonrpc"], reply["id"], reply["error"]["code"]) == ("2.0", request_id, code)
    assert reply["error"]["message"]


def test_errors_say_what_helps():
    assert call(request("refuse"))["error"]["message"].endswith("choose one of commands, digits")
    assert call(request("refuse_with_data"))["error"]["data"] == {"retry_s": 2}
    assert call(request("nothing"))["error"]["data"] == sorted(METHODS)


@pytest.mark.parametrize("name", ["bug", "unencodable"])
def test_a_bug_in_a_method_is_an_internal_error_and_logged(name, caplog):
    reply = call(request(name))
    assert reply["error"]["code"] == -32603
    assert "Traceback" in caplog.text
    assert "Traceback" not in json.dumps(reply)


def test_notifications_get_no_answer():
    assert call({"jsonrpc": "2.0", "method": "echo"}) is None
    assert call({"jsonrpc": "2.0", "method": "nothing"}) is None
    assert call([{"jsonrpc": "2.0", "method": "echo"}] * 2) is None


def test_a_batch_is_answered_in_order():
    replies = call(
        [request("status", 1), {"jsonrpc": "2.0", "method": "echo"}, 7, request("no", 3)]
    )
    assert [(reply["id"], reply.get("error", {}).get("code")) for reply in replies] == [
        (1, None),
        (None, -32600),
        (3, -32601),
    ]


def test_a_batch_is_bounded():
    assert len(call([request("status")] * BATCH_LIMIT)) == BATCH_LIMIT
    assert call([request("status")] * (BATCH_LIMIT + 1))["error"]["code"] == -32600


def test_what_a_batch_can_make_us_answer_is_bounded():
    batch = [request("big", index) for index in range(BATCH_LIMIT)]
    replies = call(batch)
    assert [reply["id"] for reply in replies] == list(range(BATCH_LIMIT))
    answered = [reply for reply in replies if "result" in reply]
    assert len(answered) == -(-BATCH_REPLY_LIMIT_BYTES // 100_000)
    refused = replies[len(answered) :]
    assert {reply["error"]["code"] for reply in refused} == {-32000}
    assert "send the rest in another" in refused[0]["error"]["message"]


@given(st.binary(max_size=300))
def test_any_bytes_get_an_answer(junk):
    assert json.loads(answer(junk, METHODS) or b"{}").keys() >= {"error"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "jsonrpc": st.just("2.0") | json_values,
            "method": st.sampled_from(["status", "echo"]) | json_values,
            "params": json_values,
            "id": json_values,
        },
    )
)
def test_any_object_is_answered_or_a_notification(fields):
    reply = call(fields)
    if reply is None:
        assert "id" not in fields
    else:
        assert isinstance(reply, dict)
        assert ("result" in reply) != ("error" in reply)
