"""A private PulseAudio server for tests: real audio devices on a machine without a sound card.

`AudioServer` starts `pulseaudio` in its own directory with a null sink and writes an ALSA
configuration that shows three capture devices to PortAudio:

* ``mon``: the monitor of the null sink; hears what `AudioServer.play` plays.
* ``pipesrc``: raw samples that the test writes into `AudioServer.pipe_path`, bit-exact.
* ``filesrc``: samples given to `AudioServer.store_raw`, bit-exact from sample 0 at the pace of
  ``mon``; open it with the rate and channels they were stored for.

Whatever starts PortAudio has to get `AudioServer.environment`. Usage::

    with AudioServer(tmp_path) as server:
        subprocess.run([sys.executable, "program.py"], env=server.environment)
"""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pytest

ALSA_PULSE_PLUGIN = "alsa-lib/libasound_module_pcm_pulse.so"
LIBRARY_FOLDERS = (Path("/usr/lib"), Path("/usr/local/lib"), Path("/lib"))
READY_TIMEOUT_S = 15.0

PULSE_SCRIPT = """\
load-module module-native-protocol-unix auth-anonymous=1 socket={socket}
load-module module-null-sink sink_name=testsink rate={rate} channels=1 format=s16le{sink}
load-module module-pipe-source source_name=pipesrc file={pipe} format=s16le rate={rate} channels=1
set-default-sink testsink
"""

ALSA_CONFIGURATION = """\
</usr/share/alsa/alsa.conf>
pcm.mon {{
  type pulse
  server "unix:{socket}"
  device "testsink.monitor"
  hint {{ show on description "monitor of the test sink" }}
}}
pcm.pipesrc {{
  type pulse
  server "unix:{socket}"
  device "pipesrc"
  hint {{ show on description "samples from a FIFO" }}
}}
pcm.filesrc {{
  type file
  slave.pcm mon
  file "/dev/null"
  infile "{raw}"
  format "raw"
  hint {{ show on description "samples from a file" }}
}}
"""

ALSA_DEVICE = """\
pcm.{name} {{
  type pulse
  server "unix:{socket}"
  device "{source}"
  hint {{ show on description "added later" }}
}}
"""


ALSA_NARROW_DEVICE = """\
pcm.{name} {{
  type multi
  slaves.a {{ pcm "plug:mon" channels 1 }}
  bindings.0 {{ slave a channel 0 }}
  hint {{ show on description "added later" }}
}}
"""
"""PulseAudio offers as many channels as are wanted; this has one (and delivers nothing)."""


class FifoWriter:
    """Keeps a FIFO as full as a sound card would, of one sample value; closes with the context.

    Attributes:
        value: Written from now on; None writes nothing, as a device that is stuck.
    """

    def __init__(self, path: Path, sample_rate_hz: int = 16_000) -> None:
        self.value: int | None = 0
        self._block_samples = sample_rate_hz // 100
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._thread.join()
        os.close(self._fd)

    def _run(self) -> None:
        while not self._stopping.wait(0.01):
            if self.value is not None:
                block = np.full(self._block_samples, self.value, "<i2")
                with contextlib.suppress(BlockingIOError):  # nobody takes it: it is lost
                    os.write(self._fd, block.tobytes())


def explain_missing() -> str | None:
    """Return why the server cannot run on this machine, or None when it can."""
    if find_library("portaudio") is None:
        return "PortAudio is not installed (apt-get install libportaudio2)"
    for program in ("pulseaudio", "paplay", "pactl"):
        if shutil.which(program) is None:
            return f"{program} is not installed (apt-get install pulseaudio pulseaudio-utils)"
    found = any(
        next(folder.glob(pattern), None)
        for folder in LIBRARY_FOLDERS
        for pattern in (ALSA_PULSE_PLUGIN, f"*/{ALSA_PULSE_PLUGIN}")
    )
    return None if found else "ALSA's pulse plugin is missing (apt-get install libasound2-plugins)"


def hide_portaudio(folder: Path) -> dict[str, str]:
    """Return an environment in which no Python program finds PortAudio, as if not installed."""
    (folder / "sitecustomize.py").write_text(
        "import ctypes.util\n"
        "find = ctypes.util.find_library\n"
        "ctypes.util.find_library = lambda n: None if 'portaudio' in n.lower() else find(n)\n"
    )
    return {**os.environ, "PYTHONPATH": str(folder)}


class AudioServer:
    """A PulseAudio server that lives in `folder` and dies with the context.

    Args:
        folder: An empty directory for sockets, configuration and the log.
        sample_rate_hz: Rate of the sink and of the pipe source.
        rewinds: The sink may take back what it has rendered, as a sound card's does. What is played
            into it needs that; without it the first block comes 1.7 s earlier.
    """

    def __init__(
        self, folder: Path, sample_rate_hz: int = 16_000, *, rewinds: bool = False
    ) -> None:
        self.folder = folder
        self.sample_rate_hz = sample_rate_hz
        self._rewinds = rewinds
        self.pipe_path = folder / "pipe.fifo"
        self.raw_path = folder / "slave.raw"
        self.log_path = folder / "pulseaudio.log"
        self._socket = folder / "native.sock"
        self._alsa_path = folder / "alsa.conf"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which programs see the server's devices."""
        return {
            **os.environ,
            "HOME": str(self.folder),
            "XDG_RUNTIME_DIR": str(self.folder),
            "PULSE_SERVER": f"unix:{self._socket}",
            "ALSA_CONFIG_PATH": str(self._alsa_path),
        }

    def __enter__(self) -> "AudioServer":
        self.folder.chmod(0o700)
        settings = {
            "socket": self._socket,
            "rate": self.sample_rate_hz,
            "sink": "" if self._rewinds else " norewinds=1",
            "pipe": self.pipe_path,
            "raw": self.raw_path,
        }
        (self.folder / "pulse.pa").write_text(PULSE_SCRIPT.format(**settings))
        self._alsa_path.write_text(ALSA_CONFIGURATION.format(**settings))
        self.store_raw(np.zeros(self.sample_rate_hz, np.float32))  # no file, no device
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._socket.unlink(missing_ok=True)
        command = ["pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--disallow-exit"]
        command += ["--exit-idle-time=-1", "-F", str(self.folder / "pulse.pa")]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"pulseaudio did not start:\n{self.log_path.read_text()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill the server as a crash would; `start` brings it back."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop the server's process; clients see neither data nor an error."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._signal(signal.SIGCONT)

    def store_raw(self, samples: np.ndarray) -> None:
        """Set what ``filesrc`` delivers: ``[samples]`` float32 or int16."""
        samples.astype(samples.dtype.newbyteorder("<")).tofile(self.raw_path)

    def unload_sink(self) -> None:
        """Remove the null sink, as if the sound card was pulled out."""
        self._control("unload-module", "module-null-sink")

    def load_sink(self, sample_rate_hz: int) -> None:
        """Put the sink back in, with a rate that may be another one."""
        options = (f"rate={sample_rate_hz}", "channels=1", "format=s16le", "norewinds=1")
        self._control("load-module", "module-null-sink", "sink_name=testsink", *options)

    def add_device(self, name: str, source: str) -> None:
        """Show one more capture device to programs that look from now on."""
        with self._alsa_path.open("a") as file:
            file.write(ALSA_DEVICE.format(name=name, source=source, socket=self._socket))

    def add_narrow_device(self, name: str) -> None:
        """Show one more capture device, which has only one channel."""
        with self._alsa_path.open("a") as file:
            file.write(ALSA_NARROW_DEVICE.format(name=name))

    def rename_device(self, name: str, new_name: str) -> None:
        """Give a device another name for programs that look from now on."""
        text = self._alsa_path.read_text().replace(f"pcm.{name} ", f"pcm.{new_name} ")
        self._alsa_path.write_text(text)

    def play(self, path: Path) -> "subprocess.Popen[bytes]":
        """Start playing a sound file into the sink (its first 0.2 s may be clipped)."""
        return subprocess.Popen(
            ["paplay", "--device=testsink", str(path)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _control(self, *command: str) -> None:
        subprocess.run(
            ["pactl", *command], env=self.environment, check=True, stdout=subprocess.DEVNULL
        )

    def _answers(self) -> bool:
        if not self._socket.exists():
            return False
        answer = subprocess.run(
            ["pactl", "info"], env=self.environment, capture_output=True, check=False
        )
        return answer.returncode == 0

    def _signal(self, number: int) -> None:
        if self._process is None:
            raise RuntimeError("the audio server is not running")
        self._process.send_signal(number)


@pytest.fixture
def audio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AudioServer]:
    """A running server; skips the test where it cannot run. Import it into a conftest.py."""
    if (reason := explain_missing()) is not None:
        pytest.skip(reason)
    with AudioServer(tmp_path_factory.mktemp("audio")) as server:
        yield server


@pytest.fixture
def playing_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AudioServer]:
    """The same, for what is played into the sink by a program."""
    if (reason := explain_missing()) is not None:
        pytest.skip(reason)
    with AudioServer(tmp_path_factory.mktemp("audio"), rewinds=True) as server:
        yield server
