"""`streamcls run` with sound devices that are not there, or not yet."""

import os
import signal

import pytest

from streamcls.publish.schema import HealthMessage
from tests.audio_server import AudioServer
from tests.end_to_end.conftest import Launcher

CONFIGURATION = """
[streams.attic]
source = "device:attic"
"""


@pytest.mark.pulseaudio
def test_a_device_of_the_configuration_is_waited_for(
    launcher: Launcher, model, audio_server: AudioServer, tmp_path
) -> None:
    """As at boot; the recording process is then lost and comes back."""
    path = tmp_path / "streamcls.toml"
    path.write_text(CONFIGURATION)
    run = launcher.run(str(path), "--model", model, environment=audio_server.environment)
    with run as daemon:
        lost = daemon.listen(is_state("lost"))
        assert isinstance(lost, HealthMessage)
        assert "there is no sound device 'attic' that can record; choose one of 0: " in lost.reason
        audio_server.add_device("attic", "testsink.monitor")
        daemon.listen(is_state("live"))
        os.kill(daemon.process.pid, signal.SIGTERM)
        assert daemon.process.wait(60) == 0


@pytest.mark.pulseaudio
def test_a_device_of_the_command_line_must_be_there(
    launcher: Launcher, model, audio_server: AudioServer
) -> None:
    launcher.environment |= audio_server.environment
    said = launcher.refuse("--model", model, "--source", "device:attic")
    assert "there is no sound device 'attic' that can record; choose one of\n  0: mon" in said


def is_state(state: str):
    return lambda message: isinstance(message, HealthMessage) and message.state == state
