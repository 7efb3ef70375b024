"""Checkpoints: what is written is what is read, and nothing else is believed."""

import json
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from streamcls.checkpoint import (
    WindowGeometry,
    find_checkpoint,
    list_shipped,
    load_checkpoint,
    read_header,
    save_checkpoint,
)
from streamcls.engine import enable_compilation_cache
from streamcls.errors import CheckpointError
from streamcls.header import list_installed
from tests.models.checkpoints import LABELS, save_seasoned
from tests.models.networks import build_seasoned

FRONT_END = {"sample_rate_hz": 16_000, "hop_samples": 160, "frame_samples": 400}


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return save_seasoned(tmp_path_factory.mktemp("checkpoint") / "good.safetensors")


def rewrite(path: Path, out: Path, header_changes=None, tensor_changes=None) -> Path:
    """Copy a checkpoint with parts of it replaced; None removes."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["streamcls"])
    header.update(header_changes or {})
    tensors = {**load_file(path), **(tensor_changes or {})}
    tensors = {name: value for name, value in tensors.items() if value is not None}
    save_file(tensors, out, metadata={"streamcls": json.dumps(header)})
    return out


def test_round_trip_keeps_every_number(path: Path) -> None:
    loaded = load_checkpoint(path)
    original = build_seasoned("tc_resnet_8")
    expected = nnx.to_flat_state(nnx.state(original, (nnx.Param, nnx.BatchStat)))
    got = dict(nnx.to_flat_state(nnx.state(loaded.model, (nnx.Param, nnx.BatchStat))))
    assert len(got) == len(list(expected))
    for name, variable in expected:
        np.testing.assert_array_equal(got[name][...], variable[...])
    assert loaded.header.labels == LABELS
    assert loaded.header == read_header(path)
    assert loaded.model.window_frames == loaded.header.window.window_frames


def test_saving_leaves_no_temporary_file(path: Path) -> None:
    assert [entry.name for entry in path.parent.iterdir()] == ["good.safetensors"]


def test_truncated_file_at_any_length(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    for length in [0, 1, 7, 8, 100, len(data) // 2, len(data) - 1]:
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            load_checkpoint(cut)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "streamcls-checkpoint/9"}, "schema 'streamcls-checkpoint/9', this version"),
        ({"labels": ["a"]}, "at least two different names"),
        ({"labels": ["a", "a"]}, "at least two different names"),
        ({"labels": 7}, "damaged header"),
        ({"temperature": 0}, "temperature is 0.0, must be a positive"),
        ({"thresholds": {"dog": 0.5}}, r"thresholds names \['dog'\], which are no labels"),
        ({"thresholds": {"class_0": 1.5}}, "outside 0..1"),
        ({"unknown_labels": ["dog"]}, r"unknown_labels names \['dog'\]"),
        ({"architecture": "resnet"}, "unknown architecture 'resnet'"),
        ({"settings": {"width": "wide"}}, "Expected `float`, got `str`"),
        ({"settings": {"widht": 1}}, "unknown settings"),
        ({"settings": {"width": 3.0}}, "tensor .* the architecture needs float32"),
        ({"front_end": {**FRONT_END, "n_fft": 100}}, "front end: need hop_samples"),
        ({"front_end": {**FRONT_END, "nfft": 512}}, r"unknown settings \['nfft'\]"),
        ({"front_end": {}}, "front_end.sample_rate_hz is None, must be a positive"),
        ({"labels": [*LABELS, "more"]}, "tensor head.dense"),
    ],
)
def test_header_that_does_not_fit(path: Path, tmp_path: Path, changes, message) -> None:
    bad = rewrite(path, tmp_path / "bad.safetensors", changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(bad)
    assert str(bad) in str(caught.value)


def test_geometry_is_derived_not_believed(path: Path, tmp_path: Path) -> None:
    window = {"receptive_frames": 71, "stride_frames": 2, "n_steps": 8, "window_frames": 99}
    bad = rewrite(path, tmp_path / "bad.safetensors", {"window": window})
    with pytest.raises(CheckpointError, match="the layers of tc_resnet_8 give .*stride_frames=4"):
        load_checkpoint(bad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, r"missing \['head.dense.bias'\]"),
        (np.zeros(3, np.float32), r"tensor head.dense.bias is float32\[3\]"),
        (np.zeros(12, np.float16), r"is float16\[12\], the architecture needs float32\[12\]"),
        (np.full(12, np.nan, np.float32), "holds NaN or infinity"),
        (np.full(12, -3e36, np.float32), "holds 3e.36, the limit is 1e.12: the file is damaged"),
    ],
)
def test_tensors_that_do_not_fit(path: Path, tmp_path: Path, change, message) -> None:
    bad = rewrite(path, tmp_path / "bad.safetensors", None, {"head.dense.bias": change})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(bad)


def test_unexpected_tensor(path: Path, tmp_path: Path) -> None:
    bad = rewrite(path, tmp_path / "bad.safetensors", None, {"extra": np.zeros(2, np.float32)})
    with pytest.raises(CheckpointError, match=r"unexpected \['extra'\]"):
        load_checkpoint(bad)


def test_a_type_of_number_that_numpy_has_not(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    name, tensor = next((k, v) for k, v in table.items() if k != "__metadata__")
    first, end = tensor["data_offsets"]
    table[name] = tensor | {"dtype": "F8_E4M3", "shape": [end - first]}
    header = json.dumps(table).encode()
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    with pytest.raises(CheckpointError, match="float8_e4m3.*; export it as float32"):
        load_checkpoint(bad)


def test_foreign_safetensors_file(tmp_path: Path) -> None:
    save_file({"x": np.zeros(2, np.float32)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="without a streamcls header; make one with"):
        read_header(tmp_path / "foreign.safetensors")


def test_finding(path: Path) -> None:
    assert find_checkpoint(str(path)) == path
    with pytest.raises(CheckpointError, match="unknown model 'nothing'; models: "):
        find_checkpoint("nothing")
    with pytest.raises(CheckpointError, match="no such file: /no/where.safetensors"):
        find_checkpoint("/no/where.safetensors")


@pytest.mark.parametrize("name", ["x" * 300, f"{'x' * 300}.safetensors"])
def test_a_model_that_cannot_be_looked_at_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="model 'xxx.*': File name too long"):
        find_checkpoint(name)


def test_who_has_no_home_has_the_shipped_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    for variable in ("STATE_DIRECTORY", "XDG_DATA_HOME", "CACHE_DIRECTORY", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert find_checkpoint("commands").is_file()
    assert list_installed() == []
    with pytest.raises(CheckpointError, match="unknown model 'mine'"):
        find_checkpoint("mine")
    with pytest.raises(CheckpointError, match="there is no such home; name a folder"):
        find_checkpoint("~nobody/mine.safetensors")
    assert enable_compilation_cache() is None


def test_saving_where_it_cannot_be_written(path: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write .*: (File exists|Not a directory)"):
        save_checkpoint(tmp_path / "file" / "x.safetensors", checkpoint.model, checkpoint.header)


def test_every_shipped_model_loads_and_has_a_card() -> None:
    names = list_shipped()
    assert {"commands", "digits"} <= set(names)
    for name in names:
        checkpoint = load_checkpoint(find_checkpoint(name))
        assert checkpoint.header.name == name
        assert checkpoint.header.unknown_labels
        card = find_checkpoint(name).with_suffix(".md").read_text()
        for label in checkpoint.header.labels:
            assert label in card


def test_header_says_whether_the_network_can_be_stepped(path: Path, tmp_path: Path) -> None:
    windowed = save_seasoned(tmp_path / "windowed.safetensors", "ds_cnn_s_same")
    assert read_header(windowed).window == WindowGeometry(49, 1, 1, 49, time_valid=False)
    assert not load_checkpoint(windowed).model.time_valid
    # Files of networks that can be stepped are as they were before there were others.
    assert "time_valid" not in json.loads(msgspec.json.encode(read_header(path).window))
    said = json.loads(msgspec.json.encode(read_header(windowed).window)) | {"time_valid": True}
    lying = rewrite(windowed, tmp_path / "lying.safetensors", {"window": said})
    with pytest.raises(CheckpointError, match="layers of ds_cnn_s_same give .*time_valid=False"):
        load_checkpoint(lying)
