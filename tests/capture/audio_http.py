"""Audio servers on loopback for tests: HTTP with every bad habit, and a minimal RTSP."""

import contextlib
import http.server
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.importers.file_server import whole

Handler = Callable[[http.server.BaseHTTPRequestHandler], None]


class AudioHttp:
    """Answers GET by path; a context manager.

    Args:
        pages: Path -> what to do with the request.
        port: 0 takes a free one.
    """

    def __init__(self, pages: dict[str, Handler], port: int = 0) -> None:
        class Request(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None: ...

            def do_GET(self) -> None:
                page = pages.get(self.path.partition("?")[0])
                with contextlib.suppress(OSError):  # the client may hang up at any time
                    if page is None:
                        self.send_error(404)
                    else:
                        page(self)
                self.close_connection = True

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", port), Request)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> "AudioHttp":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


def live(pieces: Callable[[], Iterator[bytes]]) -> Handler:
    """Serve pieces as they come, chunked, without a length."""

    def serve(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for piece in pieces():
            request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        request.wfile.write(b"0\r\n\r\n")

    return serve


class Playlist:
    """A sound in segments, told by an HLS playlist (RFC 8216) that goes on as time does.

    Args:
        samples: ``[samples]`` float32.
        sample_rate_hz: Its rate.
        folder: Empty; takes the segments of a second.
        n_told: Of the segments, in the playlist at once.

    Attributes:
        pages: For `AudioHttp`; the playlist is ``/live.m3u8``.
        ended: It says that nothing will follow.
    """

    def __init__(
        self, samples: np.ndarray, sample_rate_hz: int, folder: Path, n_told: int = 3
    ) -> None:
        options = {"hls_time": "1", "hls_list_size": "0"}
        with av.open(str(folder / "all.m3u8"), "w", format="hls", options=options) as container:
            stream = container.add_stream("aac", rate=sample_rate_hz, layout="mono")
            frame = av.AudioFrame.from_ndarray(samples[None, :], format="flt", layout="mono")
            frame.rate, frame.pts = sample_rate_hz, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        lines = (folder / "all.m3u8").read_text().splitlines()
        self._segments = [pair for pair in pairwise(lines) if pair[0].startswith("#EXTINF")]
        self._n_told = n_told
        self.ended = False
        self.pages: dict[str, Handler] = {
            f"/{name}": whole((folder / name).read_bytes()) for _, name in self._segments
        }
        self.pages["/live.m3u8"] = self._tell
        self.restart()

    def restart(self) -> None:
        """Begin anew: the first segments exist, and each second there is one more."""
        self._began_s = time.monotonic()

    def _tell(self, request: http.server.BaseHTTPRequestHandler) -> None:
        passed = int(time.monotonic() - self._began_s)
        first = min(passed, len(self._segments) - self._n_told)
        told = self._segments[first : first + self._n_told]
        head = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n"
        tail = "#EXT-X-ENDLIST\n" if self.ended else ""
        text = head + "".join(f"{length}\n{name}\n" for length, name in told) + tail
        whole(text.encode())(request)


class AudioRtsp:
    """Plays 16-bit mono PCM over RTSP with RTP in the same connection (RFC 2326, 10.12; RFC 3551).

    Args:
        samples: What to play, in real time, packets of 20 ms.
        sample_rate_hz: Its rate.
        lost: Numbers of packets that are not sent.
    """

    def __init__(self, samples: np.ndarray, sample_rate_hz: int, lost: set[int]) -> None:
        self.requests: list[str] = []
        outer = self

        class Session(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    while line := self.rfile.readline().decode():
                        headers = {}
                        while (header := self.rfile.readline().decode().strip()) != "":
                            name, _, value = header.partition(":")
                            headers[name.lower()] = value.strip()
                        self.answer(line.split()[0], headers)

            def answer(self, method: str, headers: dict[str, str]) -> None:
                outer.requests.append(method)
                body, extra = "", ""
                if method == "OPTIONS":
                    extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
                elif method == "DESCRIBE":
                    body = (
                        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\n"
                        "m=audio 0 RTP/AVP 96\r\nc=IN IP4 0.0.0.0\r\n"
                        f"a=rtpmap:96 L16/{sample_rate_hz}/1\r\na=control:track1\r\n"
                    )
                    extra = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
                elif method == "SETUP":
                    extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
                reply = f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\nSession: 1\r\n{extra}\r\n"
                self.wfile.write((reply + body).encode())
                if method == "PLAY":
                    self.play()

            def play(self) -> None:
                n = sample_rate_hz // 50
                began_s = time.monotonic()
                for seq in range(len(samples) // n):
                    time.sleep(max(0.0, began_s + seq * 0.02 - time.monotonic()))
                    if seq in lost:
                        continue
                    header = struct.pack(">BBHII", 0x80, 96, seq, seq * n, 1)
                    packet = header + samples[seq * n : (seq + 1) * n].astype(">i2").tobytes()
                    self.wfile.write(b"$\x00" + struct.pack(">H", len(packet)) + packet)
                self.connection.shutdown(socket.SHUT_RDWR)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Session)
        self.url = f"rtsp://me:secret@127.0.0.1:{self._server.server_address[1]}/live"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> "AudioRtsp":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
