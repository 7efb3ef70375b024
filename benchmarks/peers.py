"""The same networks, weights and audio in ONNX Runtime and LiteRT: processor time against ours.

Two questions. Whole windows: what does a window of YAMNet cost, alone and in batches? Streams: what
does a second of a stream cost when a shipped model answers every 80 ms (or the nearest its stride
allows), ours step by step, the peer's over whole windows, whose log-mel frames our own compiled
front end computes for it?

    python -m benchmarks.peers --yamnet ../shared/weights/yamnet/coral_yamnet_spectra_in.tflite

Needs ``uv sync --group bench``. All contestants run in one process, in random order, many rounds;
a process for each model and number of threads, bound to that many cores. The processor time of all
threads of the process is counted, because other work on the machine does not lengthen it.
"""

import argparse
import functools
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from streamcls.header import list_shipped

HOP_MS = 80
PEER_TILE = 8
"""Windows that a peer takes at once, a thread; with many more they fall out of the cache."""
DAEMON_TILE = 16
"""Windows of YAMNet in the largest step that `Executor.tune` keeps: here mostly so many."""
_FEWEST_CALLS, _SAMPLE_S = 3, 3e-3
"""What makes a sample: calls, and processor time, at least."""
Contestants = dict[str, Callable[[], Any]]
Runtime = Callable[[np.ndarray], np.ndarray]
"""``[n, frames, mels]`` float32 log-mel frames to ``[n, classes]``: logits, or scores."""


def measure(
    contestants: Contestants, duration_s: float, pause_s: float = 0
) -> dict[str, np.ndarray]:
    """Return the processor seconds of a call, a sample per round, of each contestant.

    Samples are of equal length: with as many calls of each, the short ones would mostly pay for
    what the others have left in the caches.

    Args:
        contestants: What to call, by name.
        duration_s: Of the whole comparison.
        pause_s: Before each call, in which the processor sleeps and forgets.
    """
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    generator = np.random.default_rng(0)
    end_s = time.monotonic() + duration_s
    gc.collect()
    gc.freeze()  # as the daemon does: what is there stays, and is not looked at again
    while time.monotonic() < end_s:
        for index in generator.permutation(len(names)):
            name, call = names[index], contestants[names[index]]
            call()
            n_calls, spent_s, begin_s = 0, 0.0, time.process_time()
            while n_calls < _FEWEST_CALLS or spent_s < _SAMPLE_S:
                if pause_s:
                    time.sleep(pause_s)
                call()
                n_calls += 1
                spent_s = time.process_time() - begin_s
            seconds[name].append(spent_s / n_calls)
    return {name: np.array(samples) for name, samples in seconds.items()}


def print_rows(what: str, unit_s: dict[str, np.ndarray], ours: str) -> None:
    """Print a row a contestant: median, 10th to 90th percentile, and the ratio to ours."""
    reference = np.median(unit_s[ours])
    for name, samples in unit_s.items():
        low, median, high = np.percentile(1000 * samples, [10, 50, 90])
        ratio = "" if name == ours else f"{median / 1000 / reference:.2f}"
        print(f"| {what} | {name} | {median:.3f} | {low:.3f} .. {high:.3f} | {ratio} |")


def open_onnx(model: Any, n_mels: int, n_threads: int) -> Runtime:
    """Return ONNX Runtime's function of a folded classifier."""
    import onnxruntime  # pyright: ignore[reportMissingImports] - group bench

    from benchmarks.peers_onnx import to_onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    # Waiting threads would burn the processor time that is counted.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        to_onnx(model, n_mels), options, providers=["CPUExecutionProvider"]
    )
    return lambda frames: np.asarray(session.run(None, {"mel": frames})[0])


def open_litert(file: bytes, n_threads: int) -> Runtime:
    """Return LiteRT's function of a file; with more windows than the file's batch, one by one."""
    from ai_edge_litert.interpreter import Interpreter

    runtime = Interpreter(model_content=file, num_threads=n_threads)
    runtime.allocate_tensors()
    entry = runtime.get_input_details()[0]
    exit_index = runtime.get_output_details()[0]["index"]
    batch = entry["shape"][0]

    def run(frames: np.ndarray) -> np.ndarray:
        scores = []
        for index in range(0, len(frames), batch):
            runtime.set_tensor(entry["index"], frames[index : index + batch])
            runtime.invoke()
            scores.append(runtime.get_tensor(exit_index))
        return np.concatenate(scores)

    return run


def compare_windows(file: Path, n_threads: int, duration_s: float) -> None:
    """Print the cost of a window of YAMNet."""
    import jax
    from flax import nnx

    from benchmarks.peers_tflite import to_tflite
    from streamcls.checkpoint import load_checkpoint
    from streamcls.engine import compiler_options, select_device
    from streamcls.importers.yamnet import import_yamnet

    select_device("cpu", threads=1)  # as the daemon, however many cores there are
    with tempfile.TemporaryDirectory() as folder:
        import_yamnet(file, "yamnet", Path(folder) / "yamnet.safetensors")
        checkpoint = load_checkpoint(Path(folder) / "yamnet.safetensors")
    checkpoint.model.fold()
    onnx = open_onnx(checkpoint.model, 64, n_threads)
    published = open_litert(file.read_bytes(), n_threads)  # whose RESHAPE fixes the batch at one
    graph, state = nnx.split(checkpoint.model)
    # As the executor does: a call would take nnx's container apart in Python every time.
    weights, tree = jax.tree.flatten(jax.device_put(state))

    def classify(weights: list[jax.Array], frames: jax.Array) -> jax.Array:
        return nnx.merge(graph, tree.unflatten(weights))(frames)

    for batch in (1, 8, 16, 32):
        frames = np.random.default_rng(1).normal(-3, 2, (batch, 96, 64)).astype(np.float32)
        tile = min(batch, DAEMON_TILE)
        compiled = jax.jit(classify).lower(weights, frames[:tile]).compile(compiler_options())

        def ours(frames: np.ndarray, compiled=compiled, tile=tile) -> np.ndarray:
            tiles = (frames[first : first + tile] for first in range(0, len(frames), tile))
            return np.concatenate([np.asarray(compiled(weights, one)) for one in tiles])

        litert = open_litert(to_tflite(checkpoint.model, batch, 64), n_threads)
        expected = onnx(frames)
        np.testing.assert_allclose(ours(frames), expected, atol=1e-3)
        np.testing.assert_allclose(litert(frames), expected, atol=1e-3)
        contestants: Contestants = {
            "streamcls, float32": lambda ours=ours, x=frames: ours(x),
            "ONNX Runtime, float32": lambda x=frames: onnx(x),
            "LiteRT, float32": lambda litert=litert, x=frames: litert(x),
            "LiteRT, int8": lambda x=frames: published(x),
        }
        samples = measure(contestants, duration_s)
        cost = {name: one / batch for name, one in samples.items()}
        print_rows(f"{n_threads} | {batch}", cost, "streamcls, float32")


def compare_streams(model: str, n_threads: int, duration_s: float) -> None:
    """Print the cost of a second of a stream that a shipped model classifies every 80 ms."""
    import jax

    from benchmarks.peers_tflite import to_tflite
    from streamcls.checkpoint import find_checkpoint, load_checkpoint
    from streamcls.engine import (
        build_executor,
        choose_hop_samples,
        compiler_options,
        select_device,
    )
    from streamcls.features import initial_history, log_mel, stream_log_mel
    from streamcls.units import samples_to_ms

    def compile_function(function: Callable[..., Any], *arguments: Any) -> Any:
        return jax.jit(function).lower(*arguments).compile(compiler_options())

    select_device("cpu", threads=1)  # as the daemon, however many cores there are
    checkpoint = load_checkpoint(find_checkpoint(model))
    front_end = checkpoint.front_end
    stride = checkpoint.model.geometry.stride_frames * front_end.hop_samples
    stride_ms = samples_to_ms(stride, front_end.sample_rate_hz)
    hop_ms = max(1, round(HOP_MS / stride_ms)) * stride_ms
    hop = choose_hop_samples(checkpoint, hop_ms)
    window = front_end.samples_for(checkpoint.model.window_frames)
    executor = build_executor(checkpoint, hop, max_streams=64)
    executor.warm_up()
    n_mels = front_end.n_mels
    onnx = open_onnx(checkpoint.model, n_mels, n_threads)
    hops_per_s = 1000 / hop_ms
    tile = executor.buckets[-1]
    for n_streams in (1, 64):
        n_hops = -(-window // hop)
        shape = (n_streams, n_hops * hop)
        audio = np.random.default_rng(2).normal(0, 0.1, shape).astype(np.float32)
        newest, heard = audio[:, -hop:].copy(), audio[:, -window:].copy()
        tiles = [slice(i, min(i + tile, n_streams)) for i in range(0, n_streams, tile)]
        slots, fresh = list(range(n_streams)), [False] * n_streams
        peer_tile = min(PEER_TILE * n_threads, n_streams)
        peer_tiles = [slice(i, i + peer_tile) for i in range(0, n_streams, peer_tile)]
        all_frames = compile_function(lambda x: log_mel(x, front_end), heard[:peer_tile])
        history = np.asarray(initial_history(peer_tile, front_end))
        new_frames = compile_function(
            lambda x, h: stream_log_mel(x, h, front_end), newest[:peer_tile], history
        )
        mel = [np.asarray(all_frames(heard[tile])) for tile in peer_tiles]

        def step(audio: np.ndarray, tiles=tiles, slots=slots, fresh=fresh) -> list[np.ndarray]:
            scores = []
            for one in tiles:  # as the engine: the audio put into the tile, no arrays of slots
                executor.tile[: len(slots[one])] = audio[one]
                scores.append(executor.step_tile(slots[one], fresh[one]).probabilities)
            return scores

        def whole(run: Runtime, heard=heard, all_frames=all_frames, tiles=peer_tiles) -> np.ndarray:
            return np.concatenate([run(np.asarray(all_frames(heard[tile]))) for tile in tiles])

        def kept(
            run: Runtime,
            newest=newest,
            history=history,
            new_frames=new_frames,
            mel=mel,
            tiles=peer_tiles,
        ) -> np.ndarray:
            logits = []
            for index, tile in enumerate(tiles):
                new = np.asarray(new_frames(newest[tile], history)[0])
                mel[index] = np.concatenate([mel[index][:, new.shape[1] :], new], axis=1)
                logits.append(run(mel[index]))
            return np.concatenate(logits)

        def network(run: Runtime, mel=mel) -> np.ndarray:
            return np.concatenate([run(frames) for frames in mel])

        ours: list[np.ndarray] = []
        for index in range(n_hops):  # as many as a window; what was before is behind it
            ours = step(audio[:, index * hop : (index + 1) * hop])
        logits = np.asarray(checkpoint.model(jax.numpy.concatenate(mel)))
        name = "streamcls, step by step"
        contestants: Contestants = {name: lambda step=step, newest=newest: step(newest)}
        litert = open_litert(to_tflite(checkpoint.model, peer_tile, n_mels), n_threads)
        for peer, run in (("ONNX Runtime", onnx), ("LiteRT", litert)):
            np.testing.assert_allclose(network(run), logits, atol=1e-3)
            odds = np.exp(whole(run) / checkpoint.header.temperature)
            expected = odds / odds.sum(axis=1, keepdims=True)
            np.testing.assert_allclose(np.concatenate(ours), expected, atol=1e-3)
            contestants |= {
                f"{peer}, all frames of the window anew": functools.partial(whole, run),
                f"{peer}, frames kept": functools.partial(kept, run),
                f"{peer}, frames for nothing": functools.partial(network, run),
            }
        modes = {f"{n_streams}": (duration_s, 0.0)}
        if n_streams == 1:  # and as one is heard; rounds with pauses take longer
            modes["1, live"] = (3 * duration_s, hop_ms / 1000)
        for mode, (mode_s, pause_s) in modes.items():
            samples = measure(contestants, mode_s, pause_s)
            cost = {key: one * hops_per_s / n_streams for key, one in samples.items()}
            print_rows(f"{model} | {hop_ms:g} | {n_threads} | {mode}", cost, name)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--yamnet", type=Path, metavar="FILE.tflite", help="YAMNet as published")
    parser.add_argument("--models", nargs="*", default=list_shipped())
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--duration-s", type=float, default=10.0, help="of each comparison")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # not a process each
    arguments = parser.parse_args()
    if arguments.here:
        (n_threads,) = arguments.threads
        for model in arguments.models:
            compare_streams(model, n_threads, arguments.duration_s)
        if arguments.yamnet:
            compare_windows(arguments.yamnet, n_threads, arguments.duration_s)
        return
    print(describe_machine("jax", "onnxruntime", "ai-edge-litert"))
    if arguments.yamnet:
        print("\n| threads | batch | YAMNet in | ms a window | 10 .. 90 % | times ours |")
        print("| ---: | ---: | --- | ---: | ---: | ---: |", flush=True)
        for n_threads in arguments.threads:
            _run_bound(
                n_threads, arguments.duration_s, ["--yamnet", str(arguments.yamnet), "--models"]
            )
    for model in arguments.models:
        print("\n| model | hop ms | threads | streams | in | ms a stream-second |", end="")
        print(" 10 .. 90 % | ours x |")
        print("| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |", flush=True)
        for n_threads in arguments.threads:
            _run_bound(n_threads, arguments.duration_s, ["--models", model])


def _run_bound(n_threads: int, duration_s: float, what: list[str]) -> None:
    """Compare in a process of its own that is bound to as many cores as it has threads."""
    cores = sorted(os.sched_getaffinity(0))[:n_threads]
    command = [sys.executable, "-m", "benchmarks.peers", "--here", "--threads", str(n_threads)]
    command += ["--duration-s", str(duration_s), *what]
    subprocess.run(["taskset", "-c", ",".join(map(str, cores)), *command], check=True)


if __name__ == "__main__":
    main()
