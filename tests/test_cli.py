"""The real command line in a subprocess: exit statuses, messages, and what it does not load."""

import ctypes.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

COMMANDS = (
    "",
    "run",
    "demo",
    "listen",
    "devices",
    "models",
    "models list",
    "models show",
    "models import",
    "models pull",
    "config",
    "config check",
    "config show",
    "config schema",
    "service",
    "service install",
    "service uninstall",
    "service status",
    "doctor",
    "completion",
)
TIMEOUT_S = 60


def run_cli(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamcls", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=os.environ | environ,
        check=False,
    )


def refuse(*arguments: str, **environ: str) -> str:
    """Run the command line, check that it refuses as it should, and return what it said."""
    result = run_cli(*arguments, **environ)
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert "error: " in result.stderr
    return result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_page(command: str):
    result = run_cli(*command.split(), "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: streamcls {command}".rstrip())
    if command and " " not in command:
        assert "example" in result.stdout


def test_version_is_the_package_version():
    pyproject = Path(__file__).parent.parent / "pyproject.toml"
    version = tomllib.loads(pyproject.read_text())["project"]["version"]
    assert run_cli("--version").stdout == f"streamcls {version}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["run", "--fast", "--realtime"], "not allowed with"),
        (["run", "--source", "radio:1"], "device[:NAME], file:PATH, pipe:, remote:[NAME]"),
        (["run", "--source", "pipe:"], "--rate"),
        (["run", "--source", "pipe:", "--rate", "1"], "an integer from 4000 to 384000"),
        (["run", "--fast"], "streams.mic.pace: for file: only"),
        (["run", "--hop-ms", "0"], 'inference.hop_ms = "0" (flag): must be'),
        (["run", "--endpoint", "tcp://*:5570"], "insecure = true"),
        (["run", "--set", "inference.hop_ms"], "--set KEY=VALUE"),
        (["run", "--set", "inference.hop=80"], "did you mean inference.hop_ms?"),
        (["run", "/nonexistent.toml"], "No such file"),
        (["config", "check", "/nonexistent.toml"], "No such file"),
        (["listen", "--duration", "-1"], "positive number of seconds"),
        (["listen", "--duration", "nan"], "positive number of seconds"),
        (["models", "show", "nonexistent"], "unknown model 'nonexistent'"),
        (["models", "show", "/nonexistent.safetensors"], "no such file"),
        (["models", "show", __file__], "not a readable checkpoint"),
        (["models", "import", __file__], "no TensorFlow Lite file"),
        (["models", "import", __file__, "--out", "commands"], "name of a shipped model"),
        (["models", "import", __file__, "--out", "./x.bin"], "must end in .safetensors"),
        (["models", "pull", "everything"], "cannot be pulled; there are: yamnet"),
        (["models", "pull", "yamnet", "--from", "ftp://x"], "must begin with https://"),
    ],
)
def test_wrong_input_is_one_message_and_status_2(arguments: list[str], said: str):
    assert said in refuse(*arguments)


def test_config_check_prints_every_problem(tmp_path: Path):
    path = tmp_path / "bad.toml"
    path.write_text('modle = "x"\n[inference]\nhop_ms = 1\n[publish]\nencoding = "xml"\n')
    said = refuse("config", "check", str(path), STREAMCLS_LOG__LEVEL="loud")
    assert said.startswith("streamcls: error: 4 problems in the configuration:\n")
    assert all(key in said for key in ("modle", "hop_ms", "encoding", "STREAMCLS_LOG__LEVEL"))
    path.write_text("[streams.porch]\n")
    result = run_cli("config", "check", str(path))
    assert (result.returncode, result.stdout) == (0, f"{path}: ok, streams: porch\n")


def test_every_flag_reaches_its_key_and_show_reads_back(tmp_path: Path):
    flags = (
        "--source pipe: --rate 8000 --channels 2 --format s24le --channel 1 --model digits "
        "--hop-ms 160 --endpoint tcp://127.0.0.1:1 --control tcp://127.0.0.1:2 "
        "--log-level debug --set publish.top_k=3 --set events.deny=rain,wind "
        "--set events.cooldown_s=5"
    )
    shown = run_cli("config", "show", *flags.split())
    assert tomllib.loads(shown.stdout) == {
        "model": "digits",
        "streams": {
            "mic": {
                "source": "pipe:",
                "channel": 1,
                "sample_rate_hz": 8000,
                "channels": 2,
                "sample_format": "s24le",
            }
        },
        "inference": {
            "hop_ms": 160,
            "max_streams": 8,
            "ring_s": 2,
            "max_wait_ms": 2,
            "device": "auto",
            "threads": 1,
        },
        "publish": {
            "endpoint": "tcp://127.0.0.1:1",
            "control": "tcp://127.0.0.1:2",
            "encoding": "json",
            "top_k": 3,
            "insecure": False,
            "wait_for_subscriber_s": 0,
            "journal_messages": 2000,
            "journal_s": 3600,
            "journal_mb": 64,
        },
        "events": {
            "smoothing_ms": 0,
            "min_duration_ms": 160,
            "min_gap_ms": 240,
            "cooldown_s": 5,
            "confirm_ms": 0,
            "confirm_window_ms": 1000,
            "update_interval_s": 1,
            "allow": [],
            "deny": ["rain", "wind"],
            "near_miss_margin": 0.1,
            "near_miss_interval_s": 10,
            "noise_floor": {
                "enabled": False,
                "quantile": 0.9,
                "memory_s": 30,
                "margin": 0.2,
                "ceiling": 0.95,
            },
        },
        "ingest": {"endpoint": "tcp://127.0.0.1:5572"},
        "security": {"ipc_mode": "0600"},
        "log": {"level": "debug"},
    }
    path = tmp_path / "shown.toml"
    path.write_text(shown.stdout)
    assert run_cli("config", "show", str(path)).stdout == shown.stdout


def test_config_show_says_where_each_value_came_from(tmp_path: Path):
    path = tmp_path / "given.toml"
    path.write_text('[streams.a]\nsource = "file:a.wav"\n')
    shown = run_cli(
        "config", "show", str(path), "--origin", "--fast", STREAMCLS_INFERENCE__HOP_MS="160"
    ).stdout
    assert f'source = "file:a.wav"  # file {path}\n' in shown
    assert 'pace = "fast"  # flag\n' in shown
    assert "hop_ms = 160  # variable STREAMCLS_INFERENCE__HOP_MS\n" in shown
    assert "top_k = 5  # default\n" in shown


def test_config_schema_is_json():
    assert json.loads(run_cli("config", "schema").stdout)["title"] == "streamcls configuration"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["config", "check", "given.toml"],
        ["config", "show"],
        ["devices", "--json"],
        ["listen", "ipc:///nonexistent/socket", "--json", "--duration", "0.2"],
    ],
)
def test_quick_commands_do_not_load_jax(arguments: list[str], tmp_path: Path):
    (tmp_path / "given.toml").write_text('model = "digits"\n')
    said, loaded = run_and_list_packages(arguments, tmp_path)
    assert "error: " not in said
    assert "streamcls" in loaded
    assert loaded.isdisjoint({"jax", "jaxlib", "flax", "train"})
    # What reads the header of a model loads that and no more.
    assert ("safetensors" in loaded) == (arguments[:2] == ["config", "check"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "nosuch"], "unknown model 'nosuch'"),
        (["--model", "missing.safetensors"], "no such file: missing.safetensors"),
        (["--model", "cut.safetensors"], "cut.safetensors is not a readable checkpoint"),
        (["--source", "file:missing.wav"], "missing.wav: no such file"),
        (["--summary-json", "missing/summary.json"], "cannot write the summary to missing/"),
    ],
)
def test_what_is_not_there_is_refused_before_jax_is_loaded(
    arguments: list[str], said: str, tmp_path: Path
):
    (tmp_path / "cut.safetensors").write_bytes(b"no")
    message, loaded = run_and_list_packages(["run", *arguments], tmp_path)
    assert f"streamcls: error: {said}" in message
    assert "streamcls" in loaded
    assert loaded.isdisjoint({"jax", "jaxlib", "flax"})


def run_and_list_packages(arguments: list[str], folder: Path) -> tuple[str, set[str]]:
    """Return what a command says on standard error, and the packages it has loaded."""
    program = (
        "import sys; from streamcls.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "finally: print(*sorted(sys.modules), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=folder,
        check=True,
    )
    *said, modules = result.stderr.splitlines()
    return "\n".join(said), {name.partition(".")[0] for name in modules.split()}


def test_devices_lists_or_says_what_to_install():
    result = run_cli("devices", "--json")
    if ctypes.util.find_library("portaudio"):
        assert isinstance(json.loads(result.stdout), list)
        assert result.returncode == 0
    else:
        assert result.returncode == 2
        assert "libportaudio2" in result.stderr


def test_models_list_names_what_the_zoo_and_the_model_folder_hold(tmp_path: Path):
    from streamcls.zoo import ZOO_DIRECTORY

    shipped = sorted(ZOO_DIRECTORY.glob("*.safetensors"))
    folder = tmp_path / "streamcls" / "models"
    folder.mkdir(parents=True)
    shutil.copy(shipped[0], folder / "mine.safetensors")
    shutil.copy(shipped[0], folder / shipped[0].name)  # a shipped name means the shipped model
    place = {"XDG_DATA_HOME": str(tmp_path), "STATE_DIRECTORY": ""}
    result = run_cli("models", "list", "--json", **place)
    names = [model["name"] for model in json.loads(result.stdout)]
    assert names == [*(path.stem for path in shipped), "mine"]
    listing = run_cli("models", "list", **place).stdout
    assert all(name in listing for name in names)
    assert "streamcls models pull yamnet" in listing
    facts = json.loads(run_cli("models", "show", "mine", "--json", **place).stdout)
    assert facts["path"] == str(folder / "mine.safetensors")
    assert "models pull yamnet" in refuse("models", "show", "yamnet", **place)
    (folder / "damaged.safetensors").write_bytes(b"no")
    result = run_cli("models", "list", STATE_DIRECTORY=str(tmp_path / "streamcls"))
    assert result.returncode == 2
    assert "damaged.safetensors is not a readable checkpoint" in result.stderr
    assert all(name in result.stdout for name in names)


def test_models_show_says_how_the_model_is_served(tmp_path: Path):
    from flax import nnx

    from streamcls.checkpoint import Header, describe_window, save_checkpoint
    from streamcls.models import build_model

    model = build_model("tc_resnet_8", {}, 40, 3, nnx.Rngs(0))
    header = Header(
        name="mine",
        description="Two words",
        architecture="tc_resnet_8",
        settings={},
        front_end={
            "sample_rate_hz": 8000,
            "frame_samples": 200,
            "hop_samples": 80,
            "fmax_hz": 3800,
        },
        labels=["yes", "no", "unknown"],
        window=describe_window(model),
        licence="Apache-2.0",
        metrics={"held out": {"accuracy": 0.5}},
        creator="test",
    )
    path = tmp_path / "mine.safetensors"
    save_checkpoint(path, model, header)
    facts = json.loads(run_cli("models", "show", str(path), "--json").stdout)
    assert facts["labels"] == ["yes", "no", "unknown"]
    assert facts["hop_multiple_of_ms"] == 10 * header.window.stride_frames
    assert facts["window"]["window_ms"] == 25 + 10 * (header.window.window_frames - 1)
    assert facts["size_bytes"] == path.stat().st_size
    text = run_cli("models", "show", str(path)).stdout
    assert all(f"{name} " in text for name in facts)
    assert "held out: accuracy=0.5" in text


def test_listen_to_nobody_is_status_1():
    result = run_cli("listen", "ipc:///nonexistent/socket", "--json", "--duration", "0.2")
    assert (result.returncode, result.stdout) == (1, "")
    assert "is the daemon running there?" in result.stderr


def test_a_closed_output_ends_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [sys.executable, "-m", "streamcls", "config", "schema"],
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT_S,
        check=False,
    )
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, b"")


def test_interrupt_ends_quietly(tmp_path: Path):
    """Also when it is pressed once more while the interpreter ends."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, signal\natexit.register(signal.raise_signal, signal.SIGINT)\n"
    )
    fifo = tmp_path / "config.toml"
    os.mkfifo(fifo)
    with (
        subprocess.Popen(
            [sys.executable, "-m", "streamcls", "config", "check", str(fifo)],
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
        ) as process,
        fifo.open("w"),
    ):  # opens once the command has, so it is past its start-up
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, said) == (130, b"")


@pytest.mark.parametrize("module", ["numpy._core._exceptions", "jaxlib._hlo"])
@pytest.mark.parametrize("command", [["run"], ["doctor", "--json"]])
def test_interrupt_while_libraries_load_ends_quietly(
    command: list[str], module: str, tmp_path: Path
):
    # Both are imported by an extension while it is initialised itself.
    (tmp_path / "sitecustomize.py").write_text(
        "import signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {module!r}:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
    )
    source = ("--source", "pipe:", "--rate", "16000")
    result = run_cli(*command, *source, PYTHONPATH=str(tmp_path))
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_a_user_without_a_home_can_run_it():
    """As a service's dynamic user may be: no HOME, and unknown to the user database."""
    program = (
        "import pwd\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "from streamcls.cli import main\n"
        "main(['config', 'show'])"
    )
    environ = {name: value for name, value in os.environ.items() if name != "HOME"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
