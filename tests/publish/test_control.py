"""The control socket with real clients of every kind."""

import json
import os
import subprocess
import sys

import pytest
import zmq

from streamcls.errors import PublishError
from streamcls.publish.control import REQUEST_LIMIT_BYTES, ControlServer
from streamcls.publish.rpc import Method

METHODS = {"status": lambda params: {"streams": ["porch"], **params}}
REQUEST = json.dumps(
    {"jsonrpc": "2.0", "method": "status", "params": {"verbose": True}, "id": 1}
).encode()
RESULT = {"jsonrpc": "2.0", "result": {"streams": ["porch"], "verbose": True}, "id": 1}


@pytest.fixture
def control(endpoint):
    with ControlServer(endpoint, METHODS) as server:
        yield server


def test_req_and_dealer_clients_are_served(control, connect):
    req = connect(zmq.REQ, control.endpoint)
    req.send(REQUEST)
    assert json.loads(req.recv()) == RESULT

    dealer = connect(zmq.DEALER, control.endpoint)
    dealer.send(REQUEST)
    frames = dealer.recv_multipart()
    assert [json.loads(frame) for frame in frames] == [RESULT]
    dealer.send_multipart([b"", REQUEST])
    empty, reply = dealer.recv_multipart()
    assert (empty, json.loads(reply)) == (b"", RESULT)


def test_the_way_through_a_proxy_is_kept(control, connect):
    dealer = connect(zmq.DEALER, control.endpoint)
    dealer.send_multipart([b"client of a proxy", b"", REQUEST])
    *envelope, reply = dealer.recv_multipart()
    assert envelope == [b"client of a proxy", b""]
    assert json.loads(reply) == RESULT


def test_malformed_requests_do_not_end_the_service(control, connect):
    dealer = connect(zmq.DEALER, control.endpoint)
    for junk in (b"", b"{", b"\xff" * 1000, b"[" * 60_000, b"null", os.urandom(4096)):
        dealer.send(junk)
        assert json.loads(dealer.recv())["error"]["code"] in (-32700, -32600)
    dealer.send_multipart([b"x"] * 500)  # no request: no answer
    dealer.send(REQUEST)
    assert json.loads(dealer.recv()) == RESULT


def test_an_oversized_request_costs_its_sender_the_connection_only(control, connect):
    rude = connect(zmq.DEALER, control.endpoint, rcvtimeo=300)
    rude.send(b" " * (REQUEST_LIMIT_BYTES + 1))
    with pytest.raises(zmq.Again):
        rude.recv()
    polite = connect(zmq.DEALER, control.endpoint)
    polite.send(REQUEST)
    assert json.loads(polite.recv()) == RESULT


def test_a_client_that_never_reads_does_not_block_the_others(connect):
    big = {"status": lambda params: "x" * 100_000}
    with ControlServer("tcp://127.0.0.1:*", big) as server:
        deaf = connect(zmq.DEALER, server.endpoint, rcvhwm=1, rcvbuf=4096, sndtimeo=100)
        for _ in range(500):
            try:
                deaf.send(REQUEST)
            except zmq.Again:
                break
        dealer = connect(zmq.DEALER, server.endpoint)
        dealer.send(REQUEST)
        assert len(json.loads(dealer.recv())["result"]) == 100_000


def test_methods_may_be_added_later(connect):
    methods: dict[str, Method] = dict(METHODS)
    with ControlServer("tcp://127.0.0.1:*", methods) as server:
        methods["later"] = lambda params: 7
        dealer = connect(zmq.DEALER, server.endpoint)
        dealer.send(REQUEST.replace(b"status", b"later"))
        assert json.loads(dealer.recv())["result"] == 7


def test_an_endpoint_in_use_and_the_network_are_refused(control):
    with pytest.raises(PublishError, match="in use"):
        ControlServer(control.endpoint, METHODS).start()
    with pytest.raises(PublishError, match="insecure = true"):
        ControlServer("tcp://0.0.0.0:5571", METHODS)


SLOW_EXIT = """
import sys, threading
from streamcls.client import ControlClient, ControlTimeoutError
from streamcls.publish.control import ControlServer

methods = {"slow": lambda params: threading.Event().wait(60)}
with (
    ControlServer(sys.argv[1], methods, slow=methods.keys()) as server,
    ControlClient(server.endpoint) as client,
):
    try:
        client.call("slow", timeout_s=0.5)
    except ControlTimeoutError:
        print("asked")
"""


def test_a_slow_method_does_not_hold_up_the_end_of_the_process(endpoint):
    command = [sys.executable, "-c", SLOW_EXIT, endpoint]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (result.returncode, result.stdout, result.stderr) == (0, "asked\n", "")
