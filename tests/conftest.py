"""What every test runs under: JAX on the CPU, quiet, and no configuration from outside.

Set at import, before any test module imports JAX.
"""

import os
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
for _variable in [name for name in os.environ if name.startswith("STREAMCLS_")]:
    del os.environ[_variable]

# A loaded machine is no reason to fail; the same examples every time, so failures repeat.
hypothesis.settings.register_profile("streamcls", deadline=None, derandomize=True)
hypothesis.settings.load_profile("streamcls")

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of labelled recordings; skips the test where it is not at hand."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no labelled audio in {SHARED_DATA}")
    return SHARED_DATA
