"""The package as it is released, built once."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT


class Release(NamedTuple):
    """The two files of a release, and an environment in which to install them."""

    wheel: Path
    sdist: Path
    environ: Mapping[str, str]
    """uv is on PATH, and installs the versions of uv.lock, which it has at hand."""


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("release")
    path = f"{os.environ['PATH']}:{ROOT / '.uv' / 'bin'}"  # where scripts/bootstrap.sh brings it
    if (uv := shutil.which("uv", path=path)) is None:
        pytest.skip("no uv on PATH or in .uv/bin, where scripts/bootstrap.sh puts it")
    constraints = folder / "constraints.txt"
    export = [uv, "export", "-q", "--frozen", "--no-hashes", "--no-emit-project", "--all-extras"]
    subprocess.run([*export, "-o", constraints], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    # The wheel is built from the sdist, so the sdist is complete.
    subprocess.run([uv, "build", "-q", "--out-dir", folder, ROOT], check=True)
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith("STREAMCLS_")
    }
    environ.pop("VIRTUAL_ENV", None)
    environ |= {"PATH": f"{Path(uv).parent}:{path}", "UV_CONSTRAINT": str(constraints)}
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Release(wheel, sdist, environ)
