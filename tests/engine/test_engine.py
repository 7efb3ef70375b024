"""From rings to predictions: indices, epochs, flags, short files, fairness to every sample."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamcls.engine import Engine, Executor
from streamcls.errors import ModelError
from streamcls.features import log_mel
from streamcls.ring import Ring
from streamcls.types import Flag, Prediction

RATE_HZ = 16_000


class Bench:
    """An engine with its rings and everything it said."""

    def __init__(self, executor: Executor):
        self.executor = executor
        self.predictions: list[Prediction] = []
        self.ended: list[str] = []
        self.engine = Engine(executor, self.predictions.extend, self.ended.append)
        self.engine.start()

    def ring(self, name: str, seconds: float = 8.0) -> Ring:
        ring = Ring(int(seconds * RATE_HZ), RATE_HZ)
        self.engine.add_stream(name, ring)
        return ring

    def wait_for_end(self, count: int = 1) -> None:
        deadline = time.monotonic() + 60
        while len(self.ended) < count:
            assert self.engine.failure is None, self.engine.failure
            assert time.monotonic() < deadline, "the streams did not end"
            time.sleep(0.005)

    def of(self, name: str) -> list[Prediction]:
        return [p for p in self.predictions if p.stream == name]


@pytest.fixture
def bench(executor: Executor):
    bench = Bench(executor)
    yield bench
    bench.engine.stop()
    assert bench.engine.failure is None


def noise(n_samples: int, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, n_samples).astype(np.float32)


def test_every_prediction_is_that_of_the_window_it_names(bench, checkpoint) -> None:
    model, front_end = checkpoint.model, checkpoint.front_end
    evaluate = jax.jit(lambda audio: jax.nn.softmax(model(log_mel(audio, front_end))))
    window, hop = bench.executor.window_samples, bench.executor.hop_samples
    audio = {f"s{i}": noise(2 * RATE_HZ + 333 * i, seed=i) for i in range(4)}
    rings = {name: bench.ring(name) for name in audio}
    generator = np.random.default_rng(9)
    position = dict.fromkeys(audio, 0)
    while any(position[name] < len(audio[name]) for name in audio):
        name = generator.choice([n for n in audio if position[n] < len(audio[n])])
        step = int(generator.integers(1, 3000))
        piece = audio[name][position[name] : position[name] + step]
        t_ns = 10**18 + position[name] * 10**9 // RATE_HZ
        rings[name].write(piece, t_ns)
        position[name] += len(piece)
    for ring in rings.values():
        ring.close()
    bench.wait_for_end(4)
    for name, samples in audio.items():
        predictions = bench.of(name)
        first_end = -(-window // hop) * hop
        n_hops = -(-len(samples) // hop)
        assert len(predictions) == n_hops - first_end // hop + 1
        for index, p in enumerate(predictions):
            end = first_end + index * hop
            assert (p.sample_start, p.sample_end) == (end - window, min(end, len(samples)))
            assert p.epoch == 0
            assert abs(p.t_end_ns - 10**18 - p.sample_end * 10**9 // RATE_HZ) < 2_000_000
            heard = np.pad(samples, (0, hop))[p.sample_start : end]
            expected = np.asarray(evaluate(jnp.asarray(heard[None])))[0]
            np.testing.assert_allclose(p.probabilities, expected, atol=1e-5)
        assert [p.flags for p in predictions[:-1]] == [()] * (len(predictions) - 1)
        padded = len(samples) % hop != 0
        assert predictions[-1].flags == ((Flag.PADDED,) if padded else ())


def test_audio_shorter_than_a_window_is_padded_and_predicted_once(bench) -> None:
    ring = bench.ring("short")
    ring.write(noise(5_000), 10**18)
    ring.close()
    bench.wait_for_end()
    (prediction,) = bench.predictions
    assert prediction.sample_end == 5_000
    assert prediction.flags == (Flag.PADDED,)
    assert prediction.level_dbfs == pytest.approx(-20.3, abs=1.0)


def test_an_empty_stream_ends_without_a_prediction(bench) -> None:
    bench.ring("empty").close()
    bench.wait_for_end()
    assert bench.predictions == []


def test_a_loss_starts_an_epoch_and_a_new_warm_up(bench) -> None:
    hop, window = bench.executor.hop_samples, bench.executor.window_samples
    ring = bench.ring("lossy")
    audio = noise(40 * hop)
    ring.write(audio[: 20 * hop], 10**18)
    ring.skip(777)
    ring.write(audio[20 * hop :], 10**18 + (20 * hop + 777) * 10**9 // RATE_HZ)
    ring.close()
    bench.wait_for_end()
    before = [p for p in bench.predictions if p.epoch == 0]
    after = [p for p in bench.predictions if p.epoch == 1]
    warm_up = -(-window // hop)
    assert len(before) == len(after) == 20 - warm_up + 1
    assert before[-1].sample_end == 20 * hop
    assert after[0].sample_end == 20 * hop + 777 + warm_up * hop
    assert after[0].sample_start >= 20 * hop + 777
    # The same audio in the second epoch gives what a stream of its own would give.
    ring = bench.ring("alone")
    ring.write(audio[20 * hop :], 10**18)
    ring.close()
    bench.wait_for_end(2)
    for ours, alone in zip(after, bench.of("alone"), strict=True):
        np.testing.assert_allclose(ours.probabilities, alone.probabilities, atol=1e-6)


def test_flags_last_as_long_as_the_window_hears_their_cause(bench) -> None:
    hop = bench.executor.hop_samples
    n_window = -(-bench.executor.window_samples // hop)
    audio = noise(4 * n_window * hop, level=0.05)
    audio[n_window * hop + 5] = 1.0
    audio[2 * n_window * hop :] = 0.0
    ring = bench.ring("flagged")
    cut = (n_window + 2) * hop
    ring.write(audio[:cut], 10**18)
    ring.write(audio[cut : cut + hop], 10**18 + cut * 10**9 // RATE_HZ, has_nonfinite=True)
    rest = cut + hop
    ring.write(audio[rest:], 10**18 + rest * 10**9 // RATE_HZ)
    ring.close()
    bench.wait_for_end()
    by_hop = {p.sample_end // hop: p.flags for p in bench.predictions}
    assert by_hop[n_window] == ()
    assert by_hop[n_window + 1] == (Flag.CLIPPED,)
    assert by_hop[n_window + 3] == (Flag.CLIPPED, Flag.NONFINITE)
    assert by_hop[2 * n_window] == (Flag.CLIPPED, Flag.NONFINITE)
    assert by_hop[2 * n_window + 1] == (Flag.NONFINITE,)
    assert by_hop[2 * n_window + 3] == ()
    assert by_hop[3 * n_window] == (Flag.SILENT,)
    silent = [p for p in bench.predictions if p.flags == (Flag.SILENT,)]
    assert {p.level_dbfs for p in silent} == {-120.0}


def test_audio_that_runs_ahead_of_the_clock_has_no_latency(bench) -> None:
    for name, ahead_s in (("live", -5), ("recording", 60)):
        ring = bench.ring(name)
        ring.write(noise(2 * RATE_HZ), time.time_ns() + ahead_s * 10**9)
        ring.close()
    bench.wait_for_end(2)
    assert len(bench.of("recording")) == len(bench.of("live"))
    assert bench.engine.latency.count == len(bench.of("live"))
    assert 2.5 < bench.engine.latency.percentile(1) < bench.engine.latency.max_s < 60


def test_slots_are_bounded_and_come_back(bench) -> None:
    rings = [bench.ring(f"s{i}") for i in range(5)]
    spare = Ring(RATE_HZ, RATE_HZ)
    with pytest.raises(ModelError, match="all 5 streams are in use; raise inference.max_streams"):
        bench.engine.add_stream("sixth", spare)
    with pytest.raises(ModelError, match="'s0' exists already"):
        bench.engine.add_stream("s0", spare)
    rings[2].close()
    bench.wait_for_end()
    bench.engine.add_stream("sixth", spare)
    bench.engine.remove_stream("never was")


def test_a_backlog_of_one_stream_does_not_hold_up_the_others(bench) -> None:
    hop = bench.executor.hop_samples
    busy = bench.ring("busy")
    prompt = bench.ring("prompt")
    busy.write(noise(90 * hop), 10**18)
    prompt.write(noise(20 * hop, seed=1), 10**18)
    busy.close()
    prompt.close()
    bench.wait_for_end(2)
    assert bench.ended == ["prompt", "busy"]


def test_a_short_clip_that_ends_leaves_the_hops_of_its_tick_alone(executor) -> None:
    hop = executor.hop_samples
    audio = noise(20 * hop, seed=3)

    def predict(with_clip: bool) -> np.ndarray:
        predictions: list[Prediction] = []
        engine = Engine(executor, predictions.extend, lambda name: None)  # ticked by hand
        long, clip = Ring(8 * RATE_HZ, RATE_HZ), Ring(RATE_HZ, RATE_HZ)
        engine.add_stream("long", long)
        if with_clip:
            engine.add_stream("clip", clip)
        clip.write(noise(hop), 10**18)
        for first in range(0, len(audio), hop):
            long.write(audio[first : first + hop], 10**18 + first * 62_500)
            if first == 14 * hop:  # ends in the tick that makes the long one's window whole
                clip.close()
            engine.tick()
        return np.array([p.probabilities for p in predictions if p.stream == "long"])

    np.testing.assert_allclose(predict(with_clip=True), predict(with_clip=False), atol=1e-6)
