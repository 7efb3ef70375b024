"""JSON-RPC 2.0 over bytes: requests in, replies out. No sockets, no threads.

Parameters are passed by name only. A batch may hold up to `BATCH_LIMIT` requests. Whatever
the bytes are, `answer` returns; it never raises.
"""

import logging
from collections.abc import Callable, Container, Mapping
from typing import Any

import msgspec

from streamcls.errors import StreamclsError

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
REFUSED = -32000
"""The method understood the request and refused it; the message says why."""

BATCH_LIMIT = 32
BATCH_REPLY_LIMIT_BYTES = 1024 * 1024
"""Once the answers to a batch have come to this much, the rest of it is refused."""

Method = Callable[[dict[str, Any]], Any]
"""Takes the request's ``params`` ({} when absent), returns anything msgspec can encode."""

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class RpcError(StreamclsError):
    """A method's refusal with its JSON-RPC code and machine-readable data.

    Methods raise it (or any other `StreamclsError`, which becomes code -32000).
    """

    def __init__(self, message: str, code: int = REFUSED, data: Any = None):
        self.code = code
        self.data = data
        super().__init__(message)


class InvalidParamsError(RpcError):
    """The parameters are missing, unknown or of the wrong type."""

    def __init__(self, message: str, data: Any = None):
        super().__init__(message, INVALID_PARAMS, data)


def answer(request: bytes, methods: Mapping[str, Method]) -> bytes | None:
    """Carry out a request or batch and return the encoded reply; None for notifications only."""
    try:
        call = msgspec.json.decode(request)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return _encode(_failure(None, PARSE_ERROR, f"not JSON: {error}"))
    if not isinstance(call, list):
        return _answer_one(call, methods)
    if not 0 < len(call) <= BATCH_LIMIT:
        text = f"a batch of {len(call)} requests: send 1 to {BATCH_LIMIT}"
        return _encode(_failure(None, INVALID_REQUEST, text))
    return _answer_batch(call, methods)


def names_any(request: bytes, methods: Container[str]) -> bool:
    """Tell whether a request or batch calls one of ``methods``; False when it is not JSON."""
    try:
        call = msgspec.json.decode(request)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    calls = call if isinstance(call, list) else [call]
    names = (one.get("method") for one in calls if isinstance(one, dict))
    return any(isinstance(name, str) and name in methods for name in names)


def refuse(request: bytes, message: str) -> bytes | None:
    """Return the reply that refuses a single request; a batch is refused as a whole."""
    call = msgspec.json.decode(request)
    if isinstance(call, dict) and "id" not in call:
        return None
    return _encode(_failure(_request_id(call), REFUSED, message))


def _answer_batch(calls: list[Any], methods: Mapping[str, Method]) -> bytes | None:
    replies: list[msgspec.Raw] = []
    size_bytes = 0
    for call in calls:
        if size_bytes < BATCH_REPLY_LIMIT_BYTES:
            reply = _answer_one(call, methods)
        else:
            text = "not carried out: the answer to this batch is full; send the rest in another"
            reply = _encode(_failure(_request_id(call), REFUSED, text))
        if reply is not None:
            replies.append(msgspec.Raw(reply))
            size_bytes += len(reply)
    return _encode(replies) if replies else None


def _answer_one(call: Any, methods: Mapping[str, Method]) -> bytes | None:
    problem = _find_problem(call)
    if problem is not None:
        return _encode(_failure(_request_id(call), INVALID_REQUEST, problem))
    reply = _carry_out(call, methods)
    return reply if "id" in call else None


def _find_problem(call: Any) -> str | None:
    if not isinstance(call, dict):
        return "a request must be an object"
    if call.get("jsonrpc") != "2.0":
        return 'a request must have "jsonrpc": "2.0"'
    if not isinstance(call.get("method"), str):
        return 'a request must have a string "method"'
    if "id" in call and not _is_id(call["id"]):
        return '"id" must be a string, a number or null'
    if not isinstance(call.get("params", {}), dict | list):
        return '"params" must be an object'
    return None


def _is_id(value: Any) -> bool:
    return value is None or (isinstance(value, str | int | float) and not isinstance(value, bool))


def _request_id(call: Any) -> Any:
    request_id = call.get("id") if isinstance(call, dict) else None
    return request_id if _is_id(request_id) else None


def _carry_out(call: dict[str, Any], methods: Mapping[str, Method]) -> bytes:
    request_id, name, params = call.get("id"), call["method"], call.get("params", {})
    method = methods.get(name)
    if method is None:
        text = f"no method {name[:64]!r}"
        return _encode(_failure(request_id, METHOD_NOT_FOUND, text, sorted(methods)))
    if isinstance(params, list):
        text = "parameters are passed by name: send an object"
        return _encode(_failure(request_id, INVALID_PARAMS, text))
    try:
        return _encode({"jsonrpc": "2.0", "result": method(params), "id": request_id})
    except RpcError as error:
        return _encode(_failure(request_id, error.code, str(error), error.data))
    except StreamclsError as error:
        return _encode(_failure(request_id, REFUSED, str(error)))
    except Exception:  # a bug in one method must not end the control socket
        log.exception("control method %s failed", name)
        text = f"{name} failed inside the daemon; its log says why"
        return _encode(_failure(request_id, INTERNAL_ERROR, text))


def _failure(request_id: Any, code: int, message: str, data: Any = None) -> dict[str, Any]:
    error = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "error": error, "id": request_id}
