"""`streamcls bench` on the real daemon, as small as it can be."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from streamcls.bench import Level
from streamcls.cli import main


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamcls", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_bench_measures_a_daemon_with_two_streams() -> None:
    run = run_bench("--streams", "2", "--level-s", "1", "--json")
    assert run.returncode == 0, run.stderr
    (level,) = json.loads(run.stdout)
    assert (level["streams"], level["hop_ms"], level["dropped_samples"]) == (2, 80, 0)
    assert 0 < level["p50_ms"] <= level["p99_ms"] <= level["max_ms"]
    assert level["predictions_per_s"] > 0


def test_bench_shares_the_streams_between_daemons() -> None:
    run = run_bench("--daemons", "2", "--streams", "3", "--level-s", "1")
    assert run.returncode == 0, run.stderr
    row, verdict = run.stdout.splitlines()[1], run.stdout.splitlines()[3]
    streams, _, predictions_per_s = row.replace(",", "").split()[:3]
    assert streams == "3"
    assert 30 < int(predictions_per_s) < 45  # of 37.5 that are due; one daemon alone has 25
    assert verdict.startswith("This machine runs 3 streams of 'commands', in 2 daemons, each")


def test_daemons_without_a_stream_are_refused() -> None:
    run = run_bench("--daemons", "3", "--streams", "2")
    assert run.returncode == 2
    assert "2 streams are fewer than 3 daemons" in run.stderr


def test_more_daemons_are_advised_where_the_processor_has_time(monkeypatch, capsys) -> None:
    cores = os.cpu_count() or 1
    said = []
    for p50_ms, used in ((81.0, 0.6), (81.0, 0.9), (3.0, 0.6)):
        level = Level(10, 80.0, 125.0, used * cores, p50_ms, 99.0, 99.0, 0, 0, 300.0)
        monkeypatch.setattr("streamcls.bench.measure_levels", lambda *args, one=level: [one])
        assert main(["bench"]) == 0
        said.append("Try --daemons 2." in capsys.readouterr().out)
    assert said == [True, False, False]


def test_what_the_daemon_refuses_is_said_as_the_daemon_says_it() -> None:
    run = run_bench("--model", "nope", "--streams", "1")
    assert run.returncode == 2
    assert run.stderr.startswith("streamcls: error: unknown model 'nope'; models: ")


def test_a_level_says_what_was_wrong_with_it() -> None:
    figures: dict[str, Any] = {"cores": 1.0, "max_ms": 99.0, "rss_mb": 300.0}
    good = Level(10, 80.0, 125.0, p50_ms=3.0, p99_ms=9.0, dropped_samples=0, missed=0, **figures)
    assert good.good
    late = Level(10, 80.0, 125.0, p50_ms=81.0, p99_ms=99.0, dropped_samples=0, missed=0, **figures)
    assert late.trouble == "half of the predictions are later than a hop"
    slow = Level(10, 80.0, 100.0, p50_ms=3.0, p99_ms=9.0, dropped_samples=0, missed=0, **figures)
    assert slow.trouble == "125 predictions/s were due"
    lost = Level(10, 80.0, 125.0, p50_ms=3.0, p99_ms=9.0, dropped_samples=7, missed=0, **figures)
    assert lost.trouble == "7 samples dropped"


@pytest.mark.parametrize("text", ["-1", "0", "nan", "inf", "3s"])
def test_bench_refuses_times_that_are_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["bench", f"--level-s={text}"])
    assert refused.value.code == 2
    assert f"'{text}': must be a number up to 3600" in capsys.readouterr().err
