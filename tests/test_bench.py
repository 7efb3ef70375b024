"""`streamcls bench` on the real daemon, as small as it can be."""

import json
import subprocess
import sys

from streamcls.bench import Level


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


def test_what_the_daemon_refuses_is_said_as_the_daemon_says_it() -> None:
    run = run_bench("--model", "nope", "--streams", "1")
    assert run.returncode == 2
    assert run.stderr.startswith("streamcls: error: unknown model 'nope'; models: ")


def test_a_level_says_what_was_wrong_with_it() -> None:
    figures = {"cores": 1.0, "max_ms": 99.0, "rss_mb": 300.0}
    good = Level(10, 80.0, 125.0, p50_ms=3.0, p99_ms=9.0, dropped_samples=0, missed=0, **figures)
    assert good.good
    late = Level(10, 80.0, 125.0, p50_ms=81.0, p99_ms=99.0, dropped_samples=0, missed=0, **figures)
    assert late.trouble == "half of the predictions are later than a hop"
    slow = Level(10, 80.0, 100.0, p50_ms=3.0, p99_ms=9.0, dropped_samples=0, missed=0, **figures)
    assert slow.trouble == "125 predictions/s were due"
    lost = Level(10, 80.0, 125.0, p50_ms=3.0, p99_ms=9.0, dropped_samples=7, missed=0, **figures)
    assert lost.trouble == "7 samples dropped"
