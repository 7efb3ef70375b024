"""Small trees in the layouts of public data sets, made of real clips where there are any."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile as sf

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def real_clips(n: int) -> list[tuple[np.ndarray, int]]:
    """Return ``n`` different clips, real ones where ../shared/data is there, else noise bursts."""
    paths = sorted((SHARED / "fsdd" / "audio").rglob("*.flac"))[: 25 * n : 25]
    if len(paths) == n:
        return [sf.read(path, dtype="float32") for path in paths]
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(2_000 + i).astype(np.float32), 8_000) for i in range(n)]


def write_tree(folder: Path, files: Sequence[str], tables: dict[str, str]) -> Path:
    """Write a different clip to each of ``files`` and the text of each table."""
    for name, (audio, rate_hz) in zip(files, real_clips(len(files)), strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, audio, rate_hz)
    for name, text in tables.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def write_manifest(folder: Path, rows: Sequence[tuple[str, str, str, str]]) -> None:
    """Write ``manifest.csv``."""
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split", "group"))
        writer.writerows(rows)


TREES: dict[str, tuple[list[str], dict[str, str], list[tuple[str, str, str, str]]]] = {
    "speech-commands": (
        [
            "yes/0a7c_nohash_0.wav",
            "yes/0b40_nohash_0.wav",
            "no/0a7c_nohash_1.wav",
            "_background_noise_/pink_noise.wav",
        ],
        {
            "validation_list.txt": "yes/0b40_nohash_0.wav\n",
            "testing_list.txt": "no/0a7c_nohash_1.wav\nno/gone_nohash_0.wav\n",
        },
        [
            ("_background_noise_/pink_noise.wav", "silence", "", "_background_noise_/pink_noise"),
            ("no/0a7c_nohash_1.wav", "no", "testing", "0a7c"),
            ("yes/0a7c_nohash_0.wav", "yes", "training", "0a7c"),
            ("yes/0b40_nohash_0.wav", "yes", "validation", "0b40"),
        ],
    ),
    "esc50": (
        ["audio/1-100032-A-0.wav", "audio/2-1-A-36.wav"],
        {
            "meta/esc50.csv": "filename,fold,target,category,esc10,src_file,take\n"
            "1-100032-A-0.wav,1,0,dog,True,100032,A\n"
            "2-1-A-36.wav,2,36,vacuum_cleaner,False,1,A\n"
        },
        [
            ("audio/1-100032-A-0.wav", "dog", "fold_1", "100032"),
            ("audio/2-1-A-36.wav", "vacuum_cleaner", "fold_2", "1"),
        ],
    ),
    "urbansound8k": (
        ["audio/fold5/100032-3-0-0.wav"],
        {
            "metadata/UrbanSound8K.csv": "slice_file_name,fsID,start,end,salience,fold,classID,"
            "class\n100032-3-0-0.wav,100032,0.0,0.317551,1,5,3,dog_bark\n"
        },
        [("audio/fold5/100032-3-0-0.wav", "dog_bark", "fold_5", "100032")],
    ),
    "gtzan": (
        ["genres/blues/blues.00000.wav", "genres/rock/rock.00001.wav"],
        {},
        [
            ("genres/blues/blues.00000.wav", "blues", "", "blues.00000"),
            ("genres/rock/rock.00001.wav", "rock", "", "rock.00001"),
        ],
    ),
    "ravdess": (
        [
            "Actor_01/03-01-05-01-02-01-01.wav",
            "Actor_02/03-01-01-01-02-01-02.wav",
            "Actor_02/01-01-01-01-02-01-02.wav",
        ],
        {},
        [
            ("Actor_01/03-01-05-01-02-01-01.wav", "angry", "", "actor_01"),
            ("Actor_02/03-01-01-01-02-01-02.wav", "neutral", "", "actor_02"),
        ],
    ),
    "fsd50k": (
        ["FSD50K.dev_audio/64760.wav", "FSD50K.dev_audio/16399.wav", "FSD50K.eval_audio/37.wav"],
        {
            "FSD50K.ground_truth/dev.csv": "fname,labels,mids,split\n"
            '64760,"Bark,Dog","/m/05tny_,/m/0bt9lr",train\n16399,Rain,/m/06mb1,val\n',
            "FSD50K.ground_truth/eval.csv": "fname,labels,mids\n37,Dog,/m/0bt9lr\n",
            "FSD50K.metadata/dev_clips_info_FSD50K.json": '{"64760": {"uploader": "anna"}, '
            '"16399": {"uploader": "bert"}}',
        },
        [
            ("FSD50K.dev_audio/64760.wav", "Bark;Dog", "train", "uploader/anna"),
            ("FSD50K.dev_audio/16399.wav", "Rain", "val", "uploader/bert"),
            ("FSD50K.eval_audio/37.wav", "Dog", "test", "clip/37"),
        ],
    ),
    "audioset": (
        ["audio/Y--PJHxphWEs.wav", "audio/-0RWZT-miFs_420.000.wav"],
        {
            "eval_segments.csv": "# Segments csv created Sun Mar  5 10:54:25 2017\n"
            "# num_ytids=3\n# YTID, start_seconds, end_seconds, positive_labels\n"
            '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/m/0bt9lr"\n'
            '-0RWZT-miFs, 420.000, 430.000, "/m/0bt9lr"\nvanished000, 0.000, 10.000, "/m/09x0r"\n',
            "class_labels_indices.csv": 'index,mid,display_name\n0,/m/09x0r,"Speech"\n'
            '1,/m/0bt9lr,"Dog"\n',
        },
        [
            ("audio/Y--PJHxphWEs.wav", "Speech;Dog", "test", "--PJHxphWEs"),
            ("audio/-0RWZT-miFs_420.000.wav", "Dog", "test", "-0RWZT-miFs"),
        ],
    ),
    "classes": (
        ["train/dog/rex/1.wav", "test/dog/bello/1.wav", "test/rain/2.wav"],
        {"train/README.txt": "not audio"},
        [
            ("test/dog/bello/1.wav", "dog", "test", "bello"),
            ("test/rain/2.wav", "rain", "test", "test/rain/2.wav"),
            ("train/dog/rex/1.wav", "dog", "train", "rex"),
        ],
    ),
}
"""Layout -> files, tables, rows that must come out (path, label, split, group)."""
