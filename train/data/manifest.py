"""``manifest.csv``: path, label, split and group of every clip; the layout all others become."""

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

from streamcls.atomic import write_whole
from train.errors import DataError

MANIFEST_FILE = "manifest.csv"
MANIFEST_FIELDS = ("path", "label", "split", "group")
LABEL_SEPARATOR = ";"
"""Between the labels of a clip that has several; no data set known here has it in a name."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One clip as a data set lists it."""

    path: str
    """Relative to the folder of the data set, with ``/``."""
    label: str
    """One label, or several joined by ``;``."""
    split: str
    """The data set's own word for the side or fold it is on; may be empty."""
    group: str
    """Speaker, actor or recording: all that may not stand on two sides."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels one by one."""
        return tuple(self.label.split(LABEL_SEPARATOR))


def read_manifest(folder: Path) -> list[ManifestRow]:
    """Read ``folder/manifest.csv``.

    Raises:
        DataError: If the file is missing, lacks a column, or has an empty or repeated path.
    """
    path = folder / MANIFEST_FILE
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [f for f in MANIFEST_FIELDS if f not in (reader.fieldnames or [])]
            if missing:
                raise DataError(
                    f"{path}: no column {', '.join(missing)}; the first line must be "
                    f"{','.join(MANIFEST_FIELDS)}"
                )
            rows = [ManifestRow(**{f: line[f] or "" for f in MANIFEST_FIELDS}) for line in reader]
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; give the folder of data sets with --data"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from error
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        if not row.path or not all(row.labels) or not row.group:
            raise DataError(f"{path}:{number}: path, label and group must not be empty")
        if row.path in seen:
            raise DataError(f"{path}:{number}: {row.path} is listed twice; remove one line")
        seen.add(row.path)
    if not rows:
        raise DataError(f"{path}: no clips listed")
    return rows


def write_manifest(rows: Iterable[ManifestRow], path: Path) -> None:
    """Write rows as CSV, the whole file or nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(MANIFEST_FIELDS)
    writer.writerows(astuple(row) for row in rows)
    write_whole(path, text.getvalue().encode())
