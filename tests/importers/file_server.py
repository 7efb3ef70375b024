"""A real HTTP server on the loopback that answers as a test tells it to."""

import http.server
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@dataclass
class FileServer:
    """Gives its answers in turn, the last one from then on.

    Attributes:
        port: On 127.0.0.1.
        requests: What was asked for, as in the request line.
    """

    answers: list[Answer]
    port: int = 0
    requests: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its root."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serve(*answers: Answer) -> Iterator[FileServer]:
    """Run a server until the block ends."""
    state = FileServer(list(answers))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            answer = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
            answer(self)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def whole(content: bytes) -> Answer:
    """Answer with the content."""
    return cut(content, len(content))


def cut(content: bytes, n_bytes: int) -> Answer:
    """Promise the content, send the first bytes of it and close."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:n_bytes])

    return answer


def status(code: int) -> Answer:
    """Answer with an error."""
    return lambda handler: handler.send_error(code)


def hang_up(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Close without a word."""
    handler.close_connection = True


def reset(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Break the connection off."""
    linger_not = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
    handler.close_connection = True
    handler.connection.close()
