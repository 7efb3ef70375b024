"""Configuration: every problem at once, precedence and origins, TOML there and back."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamcls.config
from streamcls.config import (
    Config,
    SecurityConfig,
    StreamConfig,
    json_schema,
    load_config,
    stream_table,
    to_toml,
)
from streamcls.config.schema import dotted_keys
from streamcls.errors import ConfigError
from streamcls.postprocess.settings import (
    ClassSettings,
    EventSettings,
    GroupSettings,
    NoiseFloorSettings,
    StreamEventSettings,
)

EXAMPLE = """\
model = "digits"
[streams.porch]
source = "device:USB Audio"
channel = 1
[streams.street]
source = "file:street.flac"
pace = "fast"
channel = "mix"
[streams.phone]
source = "pipe:"
sample_rate_hz = 8000
[inference]
hop_ms = 160
max_streams = 4
ring_s = 1.5
[publish]
endpoint = "ipc:///tmp/streamcls.sock"
encoding = "msgpack"
top_k = 0
[log]
level = "debug"
"""


@pytest.fixture
def example(tmp_path: Path) -> Path:
    path = tmp_path / "streamcls.toml"
    path.write_text(EXAMPLE)
    return path


def load_text(tmp_path: Path, text: str, **layers: Any) -> Config:
    path = tmp_path / "given.toml"
    path.write_text(text)
    return load_config(path, environ={}, **layers)


def problems_of(tmp_path: Path, text: str, **layers: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, text, **layers)
    return caught.value.problems


def test_nothing_given_listens_to_the_default_microphone():
    config = load_config(environ={})
    assert config == Config()
    assert config.streams == {"mic": StreamConfig(source="device:", channel=0)}
    assert set(config.origins.values()) == {"default"}


def test_file_values_arrive_and_the_rest_is_default(example: Path):
    config = load_config(example, environ={})
    assert config.model == "digits"
    assert list(config.streams) == ["porch", "street", "phone"]
    assert config.streams["porch"] == StreamConfig("device:USB Audio", channel=1)
    assert config.streams["street"] == StreamConfig("file:street.flac", "mix", "fast")
    assert config.streams["phone"].sample_rate_hz == 8000
    assert (config.inference.hop_ms, config.inference.ring_s) == (160.0, 1.5)
    assert config.publish.control == Config().publish.control
    assert (config.publish.encoding, config.publish.top_k) == ("msgpack", 0)


def test_defaults_that_depend_on_the_source_are_filled_in(tmp_path: Path):
    config = load_text(
        tmp_path,
        '[streams.f]\nsource = "file:a.wav"\n'
        '[streams.p]\nsource = "pipe:"\nsample_rate_hz = 16000\n[streams.d]\n',
    )
    assert config.streams["f"].pace == "realtime"
    assert (config.streams["p"].channels, config.streams["p"].sample_format) == (1, "s16le")
    assert config.streams["d"] == StreamConfig()


def test_remote_and_network_sources_are_accepted(tmp_path: Path):
    config = load_text(
        tmp_path,
        '[streams.pi]\nsource = "remote:"\n[streams.p2]\nsource = "remote:kitchen"\n'
        '[streams.cam]\nsource = "rtsp://me:secret@camera:554/live"\n'
        '[streams.radio]\nsource = "https://radio.example/a.ogg?key=1"\n',
    )
    assert [stream.source.partition(":")[2][:8] for stream in config.streams.values()] == [
        "pi",  # by default senders know a stream by its own name
        "kitchen",
        "//me:sec",
        "//radio.",
    ]
    assert config.ingest.endpoint == "tcp://127.0.0.1:5572"


def test_the_name_of_a_stream_may_have_dots(tmp_path: Path):
    """As the protocol has it; senders' names have none."""
    file = '[streams."front.door"]\nsource = "remote:door"\n'
    path = tmp_path / "dotted.toml"
    path.write_text(file)
    environ = {"STREAMCLS_STREAMS__FRONT_DOOR__CHANNEL": "mix"}
    config = load_config(path, {'streams."front.door".events.cooldown_s': "3"}, environ)
    assert list(config.streams) == ["front.door"]
    assert config.streams["front.door"].channel == "mix"
    assert config.streams["front.door"].events.cooldown_s == 3
    assert config.origins['streams."front.door".source'].startswith("file ")
    (problem,) = problems_of(tmp_path, file.replace("door", "d.r").replace("remote:d.r", "remote:"))
    assert problem.startswith('streams."front.d.r".source = "remote:": senders give names')
    assert problem.endswith("write remote:NAME")


def test_flags_over_environment_over_file_over_defaults(example: Path):
    environ = {
        "STREAMCLS_MODEL": "from-environment",
        "STREAMCLS_INFERENCE__HOP_MS": "320",
        "STREAMCLS_STREAMS__PORCH__CHANNEL": "mix",
        "STREAMCLS_PUBLISH__INSECURE": "true",
        "PATH": "/bin",
    }
    config = load_config(example, {"inference.hop_ms": "40"}, environ)
    assert config.inference.hop_ms == 40.0
    assert config.model == "from-environment"
    assert config.streams["porch"].channel == "mix"
    assert config.publish.insecure is True
    assert config.publish.top_k == 0
    assert config.origins["inference.hop_ms"] == "flag"
    assert config.origins["model"] == "variable STREAMCLS_MODEL"
    assert config.origins["publish.top_k"] == f"file {example}"
    assert config.origins["publish.control"] == "default"
    assert config.origins["streams.porch.channel"] == "variable STREAMCLS_STREAMS__PORCH__CHANNEL"


def test_variables_find_a_stream_whatever_its_case_and_dashes(tmp_path: Path):
    path = tmp_path / "streams.toml"
    path.write_text('[streams.Back-Door]\nsource = "file:a.wav"\n')
    environ = {"STREAMCLS_STREAMS__BACK_DOOR__PACE": "fast"}
    config = load_config(path, environ=environ)
    assert config.streams == {"Back-Door": StreamConfig("file:a.wav", pace="fast")}
    assert list(load_config(environ={"STREAMCLS_STREAMS__YARD__SOURCE": "device:x"}).streams) == [
        "yard"
    ]


def test_an_override_may_be_a_table() -> None:
    events = {"deny": ["rain"], "class": {"Mr. Dog": {"cooldown_s": 3}}}
    overrides = {"streams.porch.source": "remote:", "streams.porch.events": events}
    config = load_config(overrides=overrides, environ={})
    settings = config.streams["porch"].events
    assert settings.deny == ("rain",)
    assert settings.class_["Mr. Dog"].cooldown_s == 3
    assert config.origins["streams.porch.events.deny"] == "flag"
    with pytest.raises(ConfigError, match="must be .*, not a table"):
        load_config(overrides={"model": {"name": "commands"}}, environ={})


def test_a_star_means_every_stream_or_the_default_one(tmp_path: Path):
    two = '[streams.a]\nsource = "file:a.wav"\n[streams.b]\nsource = "file:b.wav"\n'
    config = load_text(tmp_path, two, overrides={"streams.*.pace": "fast"})
    assert [stream.pace for stream in config.streams.values()] == ["fast", "fast"]
    config = load_config(overrides={"streams.*.source": "file:x.wav"}, environ={})
    assert config.streams == {"mic": StreamConfig("file:x.wav", pace="realtime")}
    assert config.origins["streams.mic.source"] == "flag"
    (problem,) = problems_of(tmp_path, two, overrides={"streams.*.source": "file:x.wav"})
    assert "a, b" in problem
    assert "--set streams.a.source" in problem


EVERY_PROBLEM = """\
modle = "x"
hop_ms = 3
[streams."a b"]
[streams.porch]
source = "gopher://camera"
chanel = 2
channel = -1
[streams.street]
source = "file:"
sample_rate_hz = 8000
[streams.phone]
source = "pipe:"
channel = 2
[streams.second]
source = "pipe:0"
sample_rate_hz = 16000
[inference]
hop_ms = true
ring_s = nan
max_streams = 2
[publish]
endpoint = "tcp://0.0.0.0:5570"
control = "5571"
encoding = "xml"
top_k = 1.5
[events]
onset_treshold = 0.6
offset_threshold = 1.5
allow = "dog"
deny = [1]
[events.class.""]
[events.class."a.b"]
cooldown_s = -1
labels = ["x"]
[streams.porch.events.noise_floor]
enabled = true
[log.level]
x = 1
"""


def test_every_problem_is_reported_at_once(tmp_path: Path):
    """Unknown keys, types, ranges and contradictions; each with value and remedy."""
    problems = problems_of(tmp_path, EVERY_PROBLEM)
    expected = [
        ("modle", "did you mean model?"),
        ("hop_ms", "did you mean inference.hop_ms?"),
        ("events.onset_treshold", "did you mean events.onset_threshold?"),
        ("events.offset_threshold = 1.5", "a number from 0 to 1"),
        ('events.allow = "dog"', "a list, each UTF-8 text of 1 to 128 characters"),
        ("events.deny = [1]", "a list, each UTF-8 text of 1 to 128 characters"),
        ('[events.class.""]', "bad name; use UTF-8 text of 1 to 128 characters, no control"),
        ('events.class."a.b".cooldown_s = -1', "a number from 0 to 86400"),
        ('events.class."a.b".labels', "did you mean events.group.NAME.labels?"),
        ("streams.porch.events.noise_floor", "unknown key"),
        ('[streams."a b"]', "bad name"),
        ("streams.porch.chanel", "did you mean streams.porch.channel?"),
        ("streams.porch.channel = -1", 'an integer from 0 to 255 or "mix"'),
        ("inference.hop_ms = true", "a number from 10 to 10000"),
        ("inference.ring_s = NaN", "a number from 0.1 to 60"),
        ('publish.encoding = "xml"', '"json", "msgpack"'),
        ("publish.top_k = 1.5", "an integer from 0 to 10000"),
        ("[log.level]", "not a table"),
        ('streams.porch.source = "gopher://camera"', "device[:NAME], file:PATH, pipe:, remote:"),
        ('streams.street.source = "file:"', "file:PATH"),
        ("streams.street.sample_rate_hz", "for pipe: and device: only"),
        ("streams.phone.sample_rate_hz", "missing"),
        ("streams.phone.channel = 2", 'the source has 1: choose 0 or "mix", or raise'),
        ('streams.second.source = "pipe:0"', "nothing after the colon"),
        ("streams phone, second", "one standard input"),
        ("inference.max_streams = 2", "at least 5"),
        ("publish.endpoint", "insecure = true"),
        ("publish.control", "tcp://HOST:PORT"),
    ]
    for start, remedy in expected:
        matching = [line for line in problems if line.startswith(start) and remedy in line]
        assert len(matching) == 1, (start, remedy, problems)
    assert len(problems) == len(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inference = 3", "inference = 3 ({file}): must be a table; write [inference]"),
        ("streams = 3", "streams = 3 ({file}): must be tables; write [streams.NAME]"),
        ("streams.mic = 3", "streams.mic = 3 ({file}): must be a table"),
        ('model = ""', 'model = "" ({file}): must be UTF-8 text of 1 to 4096 characters'),
        ('model = "a\\nb"', 'model = "a\\nb" ({file}): must be UTF-8 text'),
        ("model = 2026-01-01", "model = 2026-01-01 ({file}): must be UTF-8 text"),
        ("inference.max_streams = 1e3", "inference.max_streams = 1000.0 ({file}): must be an"),
        ('inference.hop_ms = "80"', 'inference.hop_ms = "80" ({file}): must be a number'),
        ('log.level = "INFO"', 'log.level = "INFO" ({file}): must be one of "debug"'),
        (
            '[streams.m]\nsource = "file:a"\nchannels = 2',
            "streams.m.channels: for pipe: and device: only",
        ),
        ('[streams.m]\npace = "fast"', "streams.m.pace: for file: only"),
        (
            '[streams.m]\nsample_format = "s24le"',
            'streams.m.sample_format = "s24le": a device is read as s16le or f32le',
        ),
        (
            "[streams.m]\nchannels = 2\nchannel = 2",
            "streams.m.channel = 2: does not exist, the source has 2: choose 0 to 1 or "
            '"mix", or raise streams.m.channels',
        ),
        (
            '[streams.m]\nsource = "remote:"\nchannel = 1',
            'streams.m.channel = 1: does not exist, the source has 1: choose 0 or "mix"',
        ),
        (
            "inference.hop_ms = 500\ninference.ring_s = 0.9",
            "inference.ring_s = 0.9: must hold two hops of 500 ms; set at least 1",
        ),
        (
            'publish.control = "tcp://127.0.0.1:5570"',
            'publish.control = "tcp://127.0.0.1:5570": the same as publish.endpoint',
        ),
        (
            'ingest.endpoint = "tcp://127.0.0.1:5571"',
            'ingest.endpoint = "tcp://127.0.0.1:5571": the same as publish.control',
        ),
        ('ingest.endpoint = "tcp://0.0.0.0:5572"', "ingest.endpoint: endpoint 'tcp://0.0.0.0:55"),
        ('[streams.m]\nsource = "rtsp://"', "streams.m.source: names no host; write rtsp://HOST"),
        (
            '[streams.m]\nsource = "http://me:secret@camera/a"\npace = "fast"',
            "streams.m.pace: for file: only, but the source is http:; remove it",
        ),
        (
            '[streams.m]\nsource = "remote:a b"',
            'streams.m.source = "remote:a b": senders give names of up to 64 letters',
        ),
        (
            '[streams.m]\nsource = "remote:"\n[streams.n]\nsource = "remote:m"',
            "streams.n.source: m already takes the audio of the sender m",
        ),
        ("= 3", "{path}: not valid TOML: "),
        ("a = " + "[" * 100_000, "{path}: not valid TOML: "),
        ("a = " + "1" * 5000, "{path}: not valid TOML: "),
        ("# " + "x" * (1 << 20), "{path}: larger than 1 MiB"),
    ],
)
def test_each_mistake_has_its_one_line(tmp_path: Path, text: str, expected: str):
    path = tmp_path / "given.toml"
    (problem,) = problems_of(tmp_path, text)
    assert problem.startswith(expected.format(file=f"file {path}", path=path))


def test_a_wrong_value_causes_no_second_misleading_line(tmp_path: Path):
    text = '[streams.p]\nsource = "pipe:"\nsample_rate_hz = "fast"\n'
    (problem,) = problems_of(tmp_path, text)
    assert "must be an integer from 4000 to 384000" in problem


def test_unreadable_files_are_one_problem(tmp_path: Path):
    for path, reason in ((tmp_path / "none.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=reason):
            load_config(path, environ={})
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'model = "caf\xe9"\n')
    with pytest.raises(ConfigError, match="byte 12 is not UTF-8"):
        load_config(latin, environ={})


def test_misspelt_variables_are_problems_too():
    with pytest.raises(ConfigError) as caught:
        load_config(environ={"STREAMCLS_INFERENCE_HOP_MS": "80", "STREAMCLS_LOG__LEVEL": "loud"})
    unknown, wrong = caught.value.problems
    assert "did you mean STREAMCLS_INFERENCE__HOP_MS?" in unknown
    assert "(variable STREAMCLS_LOG__LEVEL)" in wrong


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(ConfigError, match="must be UTF-8 text"):
        load_config(overrides={"model": "caf\udce9"}, environ={})


@pytest.mark.parametrize(
    "endpoints",
    [
        ("tcp://[::1]:5570", "tcp://[::1]:5571"),
        ("tcp://localhost:*", "tcp://localhost:*"),
        ("ipc:///run/a.sock", "ipc:///run/b.sock"),
    ],
)
def test_local_endpoints_are_accepted(endpoints: tuple[str, str]):
    overrides = {"publish.endpoint": endpoints[0], "publish.control": endpoints[1]}
    publish = load_config(overrides=overrides, environ={}).publish
    assert (publish.endpoint, publish.control) == endpoints


def test_open_endpoints_need_insecure():
    overrides = {"publish.endpoint": "tcp://*:5570"}
    with pytest.raises(ConfigError, match="insecure = true"):
        load_config(overrides=overrides, environ={})
    assert load_config(overrides=overrides | {"publish.insecure": "true"}, environ={})


def test_keys_open_the_network_and_clients_need_keys(tmp_path: Path):
    overrides = {"publish.endpoint": "tcp://*:5570", "security.keys": str(tmp_path)}
    config = load_config(overrides=overrides, environ={})
    assert config.security == SecurityConfig(keys=str(tmp_path))
    with pytest.raises(ConfigError, match=r"streamcls keys new.*security\.keys"):
        load_config(overrides={"publish.control": "tcp://0.0.0.0:1"}, environ={})
    (problem,) = problems_of(tmp_path, '[security]\nclients = "/etc/clients"\n')
    assert problem.startswith('security.clients = "/etc/clients": without security.keys')
    assert "streamcls keys new" in problem


@pytest.mark.parametrize("mode", ["0777", "0640", "660", 0o600])
def test_only_modes_that_make_sense_for_a_socket_are_accepted(tmp_path: Path, mode: object):
    (problem,) = problems_of(tmp_path, f"[security]\nipc_mode = {json.dumps(mode)}\n")
    assert 'one of "0600", "0660", "0666"' in problem


@pytest.mark.parametrize("with_origin", [False, True])
def test_shown_configuration_reads_back_to_the_same(
    example: Path, tmp_path: Path, with_origin: bool
):
    config = load_config(example, {"publish.top_k": 7}, environ={})
    text = to_toml(config, with_origin=with_origin)
    assert load_text(tmp_path, text) == config
    assert ("top_k = 7  # flag" in text) == with_origin
    assert (f"hop_ms = 160  # file {example}" in text) == with_origin


EVENTS = """\
[events]
cooldown_s = 2
allow = ["dog", "Speech, male", "pets"]
[events.noise_floor]
enabled = true
[events.class.dog]
onset_threshold = 0.8
[events.class."Mr. \\"Bird\\" = ü"]
confirm_ms = 300
[events.class.unknown]
[events.group.pets]
labels = ["cat", "mouse"]
min_gap_ms = 1000
[streams.porch]
[streams.porch.events]
deny = []
smoothing_ms = 40
[streams.porch.events.class.dog]
cooldown_s = 30
"""


def test_events_are_read_as_their_stage_wants_them_and_shown_again(tmp_path: Path):
    config = load_text(tmp_path, EVENTS)
    assert config.events == EventSettings(
        cooldown_s=2.0,
        allow=("dog", "Speech, male", "pets"),
        noise_floor=NoiseFloorSettings(enabled=True),
        class_={
            "dog": ClassSettings(onset_threshold=0.8),
            'Mr. "Bird" = ü': ClassSettings(confirm_ms=300.0),
            "unknown": ClassSettings(),
        },
        group={"pets": GroupSettings(labels=("cat", "mouse"), min_gap_ms=1000.0)},
    )
    porch = config.streams["porch"].events
    # An empty list is an answer; a key that is absent is inherited.
    assert (porch.deny, porch.allow, porch.cooldown_s, porch.smoothing_ms) == ((), None, None, 40.0)
    assert porch.class_ == {"dog": ClassSettings(cooldown_s=30.0)}
    text = to_toml(config, with_origin=True)
    assert '[events.class."Mr. \\"Bird\\" = ü"]\nconfirm_ms = 300  # file ' in text
    assert "\n[events.class.unknown]\n" in text
    assert "onset_threshold" not in text.partition("[events]")[2].partition("[events.noise")[0]
    assert load_text(tmp_path, text) == config


def test_variables_and_flags_reach_classes_groups_and_lists(tmp_path: Path):
    path = tmp_path / "events.toml"
    path.write_text('[events.class."Glass, break"]\n[streams.porch]\n')
    environ = {
        "STREAMCLS_EVENTS__ONSET_THRESHOLD": "0.7",
        "STREAMCLS_EVENTS__CLASS__GLASS__BREAK__COOLDOWN_S": "5",
        "STREAMCLS_EVENTS__CLASS__DOG__COOLDOWN_S": "6",
        "STREAMCLS_EVENTS__NOISE_FLOOR__ENABLED": "true",
        "STREAMCLS_EVENTS__GROUP__PETS__LABELS": '["cat", "bird, small"]',
        "STREAMCLS_STREAMS__PORCH__EVENTS__DENY": "rain , wind",
        "STREAMCLS_STREAMS__PORCH__EVENTS__CLASS__DOG__ONSET_THRESHOLD": "0.9",
        "STREAMCLS_STREAMS__BACK__YARD__EVENTS__MIN_GAP_MS": "100",
    }
    overrides = {
        'events.class."Mr. Owl".onset_threshold': "0.8",
        "events.deny": "",
        "streams.*.events.cooldown_s": "4",
    }
    config = load_config(path, overrides, environ)
    assert config.events.onset_threshold == 0.7
    assert config.events.class_ == {
        "Glass, break": ClassSettings(cooldown_s=5.0),
        "dog": ClassSettings(cooldown_s=6.0),
        "Mr. Owl": ClassSettings(onset_threshold=0.8),
    }
    assert config.events.noise_floor.enabled
    assert config.events.group == {"pets": GroupSettings(labels=("cat", "bird, small"))}
    assert config.events.deny == ()
    assert set(config.streams) == {"porch", "back__yard"}
    assert config.streams["porch"].events == StreamEventSettings(
        cooldown_s=4.0, deny=("rain", "wind"), class_={"dog": ClassSettings(onset_threshold=0.9)}
    )
    assert config.streams["back__yard"].events.min_gap_ms == 100.0
    assert config.origins['events.class."Mr. Owl".onset_threshold'] == "flag"
    (problem,) = problems_of(tmp_path, "", overrides={"events.allow": '["dog"'})
    assert problem.startswith('events.allow = "[\\"dog\\"" (flag): must be a list, each UTF-8 text')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[events]\nonset_threshold = 0.5\noffset_threshold = 0.6\nallow = ["dog", "cat"]',
            "events: offset_threshold = 0.6 is above onset_threshold = 0.5",
        ),
        (
            "[events]\noffset_threshold = 0.6\n[streams.m.events.class.dog]\nonset_threshold = 0.4",
            "streams.m.events.class.dog: offset_threshold = 0.6 is above onset_threshold = 0.4",
        ),
        ("[events.class.dog]\nconfirm_ms = 2000", "events.class.dog: confirm_ms = 2000 does not"),
        ("[events.group.pets]", "events.group.pets.labels: empty"),
        (
            '[events.group.pets]\nlabels = ["dog"]\n[events.class.dog]',
            "events.class.dog: the class is reported as part of a group",
        ),
    ],
)
def test_contradictions_of_event_settings_show_without_the_model(
    tmp_path: Path, text: str, expected: str
):
    (problem,) = problems_of(tmp_path, text)
    assert problem.startswith(expected)


def test_what_may_suit_some_model_is_accepted(tmp_path: Path):
    """The model's own thresholds and labels are not known here."""
    config = load_text(
        tmp_path,
        '[events]\noffset_threshold = 0.9\nallow = ["anything"]\n'
        "noise_floor = {enabled = true, ceiling = 0.5}\n",
    )
    assert config.events.offset_threshold == 0.9


def test_a_wrong_threshold_causes_no_line_about_the_default_in_its_place(tmp_path: Path):
    text = "[events]\nconfirm_window_ms = -1\nconfirm_ms = 2000\n"
    (problem,) = problems_of(tmp_path, text)
    assert problem.startswith("events.confirm_window_ms = -1")


def test_configuration_loads_neither_numpy_nor_jax():
    program = (
        "import sys; from streamcls.config import load_config; load_config(environ={})\n"
        "print({'numpy', 'jax', 'zmq'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "{'zmq'}\n"


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)


@given(
    name=names,
    model=texts,
    path=texts,
    hop_ms=st.floats(10, 1000),
    channel=st.one_of(st.integers(0, 255), st.just("mix")),
    label=texts,
    denied=st.lists(texts, max_size=3),
)
def test_any_valid_value_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    model: str,
    path: str,
    hop_ms: float,
    channel: int | str,
    label: str,
    denied: list[str],
):
    overrides: dict[str, object] = {
        f"events.class.{json.dumps(label)}.cooldown_s": 3,
        f"{stream_table(name)}.events.deny": denied,
        "model": model,
        f"{stream_table(name)}.source": f"file:{path}",
        f"{stream_table(name)}.channel": channel,
        "inference.hop_ms": hop_ms,
    }
    config = load_config(overrides=overrides, environ={})
    assert config.model == model
    assert config.streams[name].source == f"file:{path}"
    assert config.events.class_ == {label: ClassSettings(cooldown_s=3.0)}
    assert config.streams[name].events.deny == tuple(denied)
    assert load_text(tmp_path_factory.getbasetemp(), to_toml(config)) == config


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.text())
)
words = st.sampled_from(
    sorted(
        {part for key in dotted_keys() for part in key.split(".")} | {"x", "", "a b", "a\nb", "*"}
    )
)


@given(
    overrides=st.dictionaries(st.lists(words, min_size=1, max_size=4).map(".".join), leaves),
    environ=st.dictionaries(
        st.lists(words, min_size=1, max_size=4).map(lambda parts: "STREAMCLS_" + "__".join(parts)),
        st.text(max_size=8),
    ),
)
def test_nonsense_is_a_config_error_and_nothing_else(
    overrides: dict[str, object], environ: dict[str, str]
):
    try:
        config = load_config(overrides=overrides, environ=environ)
    except ConfigError as error:
        problems = error.problems
    else:
        problems = ["none"]
        assert msgspec.convert(msgspec.to_builtins(config), Config) == config
    assert problems
    assert all("\n" not in problem for problem in problems)


def test_shipped_json_schema_is_current():
    shipped = Path(streamcls.config.__file__).with_name("config.schema.json")
    assert json.loads(shipped.read_text()) == json_schema(), (
        f"write it again: streamcls config schema > {shipped}"
    )


def test_json_schema_describes_exactly_the_keys_there_are():
    schema = json_schema()
    found: set[str] = set()

    def walk(table: dict[str, Any], prefix: str) -> None:
        assert table["additionalProperties"] is False
        for key, prop in table["properties"].items():
            if "$ref" in prop:
                walk(schema["$defs"][prop["$ref"].rpartition("/")[2]], f"{prefix}{key}.")
            elif "propertyNames" in prop:
                target = prop["additionalProperties"]["$ref"].rpartition("/")[2]
                walk(schema["$defs"][target], f"{prefix}{key}.*.")
            else:
                assert prop["description"]
                found.add(prefix + key)

    walk(schema, "")
    assert found == set(dotted_keys())
    assert "null" not in json.dumps(schema)  # TOML has none
