"""Configuration: every problem at once, precedence and origins, TOML there and back."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamcls.config
from streamcls.config import Config, SecurityConfig, StreamConfig, json_schema, load_config, to_toml
from streamcls.config.schema import dotted_keys
from streamcls.errors import ConfigError

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
onset_threshold = 0.6
[log.level]
x = 1
"""


def test_every_problem_is_reported_at_once(tmp_path: Path):
    """Unknown keys, types, ranges and contradictions; each with value and remedy."""
    problems = problems_of(tmp_path, EVERY_PROBLEM)
    expected = [
        ("modle", "did you mean model?"),
        ("hop_ms", "did you mean inference.hop_ms?"),
        ("events", "unknown key"),
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
        ("streams.phone.channel = 2", "use 0 to 0"),
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
        ("[streams.m]\nchannels = 2\nchannel = 2", "streams.m.channel = 2: there are 2"),
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
        ('[streams.m]\nsource = "remote:"\nchannel = 1', "streams.m.channel = 1: there are 1"),
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


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)


@given(
    name=names,
    model=texts,
    path=texts,
    hop_ms=st.floats(10, 1000),
    channel=st.one_of(st.integers(0, 255), st.just("mix")),
)
def test_any_valid_value_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    model: str,
    path: str,
    hop_ms: float,
    channel: int | str,
):
    overrides: dict[str, object] = {
        "model": model,
        f"streams.{name}.source": f"file:{path}",
        f"streams.{name}.channel": channel,
        "inference.hop_ms": hop_ms,
    }
    config = load_config(overrides=overrides, environ={})
    assert config.model == model
    assert config.streams[name].source == f"file:{path}"
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
    found = set()

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
