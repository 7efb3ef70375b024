"""Event settings against a model's header: what is wrong, and in which table."""

from pathlib import Path

import pytest

from streamcls.config import load_config
from streamcls.errors import ConfigError
from streamcls.header import find_checkpoint, read_header
from streamcls.suitability import check_events
from tests.test_cli import run_cli

TABLES = """
[streams.porch]
source = "file:a.wav"
[streams."back.yard"]
source = "file:b.wav"
"""


def find_problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "given.toml"
    path.write_text(TABLES + text)
    config = load_config(path, environ={})
    try:
        check_events(config.streams, config.events, read_header(find_checkpoint(config.model)))
    except ConfigError as error:
        return error.problems
    return []


def test_each_problem_names_the_table_it_is_in(tmp_path: Path):
    problems = find_problems(
        tmp_path,
        """
        [events.class.goo]
        onset_threshold = 0.8
        [streams."back.yard".events.class.stopp]
        onset_threshold = 0.8
        [streams.porch.events]
        deny = ["lef"]
        """,
    )
    assert [one.partition(": ")[0] for one in problems] == [
        "events.class.goo",
        "streams.porch.events.deny",
        'streams."back.yard".events.class.stopp',
    ]
    assert problems[0].endswith("did you mean 'go'?")


def test_a_threshold_above_the_models_own_is_found_where_it_counts(tmp_path: Path):
    for_all = "[events]\noffset_threshold = 0.99\n"
    for_one = "[streams.porch.events]\noffset_threshold = 0.99\n"
    replaced = "[streams.{}.events]\noffset_threshold = 0.1\n"
    (everywhere,) = find_problems(tmp_path, for_all)
    (of_one,) = find_problems(tmp_path, for_one)
    assert everywhere.startswith("events: offset_threshold = 0.99 is above")
    assert of_one == f"streams.porch.{everywhere}"
    assert find_problems(tmp_path, for_all + replaced.format("porch")) == [everywhere]
    both = replaced.format("porch") + replaced.format('"back.yard"')
    assert find_problems(tmp_path, for_all + both) == []


@pytest.mark.parametrize("model", ["commands", "/elsewhere/mine.safetensors"])
def test_config_check_asks_the_model_where_it_is(tmp_path: Path, model: str):
    path = tmp_path / "given.toml"
    path.write_text(f'model = "{model}"\n{TABLES}[events.class.goo]\ncooldown_s = 3\n')
    result = run_cli("config", "check", str(path))
    if model == "commands":
        assert result.returncode == 2
        assert "events.class.goo: 'goo' is no class that this model reports" in result.stderr
    else:
        assert result.returncode == 0
        assert "suits the model is not known: no such file: /elsewhere/mine" in result.stdout
