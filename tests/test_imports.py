"""Import direction: `cli -> daemon -> stages`, no stage imports a later one, `train` beside them.

Read from the syntax trees, so that imports inside functions and under TYPE_CHECKING count.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FOUNDATION = {"types", "units", "errors", "atomic", "latency", "products"}
STAGES = (
    "clock",
    "ring",
    "capture",
    "features",
    "models",
    "header",
    "checkpoint",
    "engine",
    "postprocess",
    "publish",
)
"""Earlier before later; the capture thread writes into the ring, so the ring comes first."""
CLIENTS = ("inbox", "client", "textline", "livetable", "listen")
KEYS = {"publish.key_files", "publish.keys", "publish.auth"}
"""Keys and CURVE, for both ends of every socket."""
CLIENT_SIDE = {"publish.schema", "publish.endpoint", *KEYS, *CLIENTS}
SOCKETS = {"publish.endpoint", "publish.service", "publish.wakeup", *KEYS}
"""Listening and being woken up; what every socket needs, not only the publisher's."""
SERVING = {*FOUNDATION, *STAGES, "ingest", "config", "notify", "summary"}
DAEMON_SIDE = {
    *SERVING, "served", "suitability", "stream", "inputs", "change", "roster", "registrar",
    "reload", "daemon",
}  # fmt: skip

ALLOWED: dict[str, set[str]] = {
    # streamcls/__init__.py runs before every import of anything else: what it names for
    # programs that embed streamcls it loads on first use only (tests/test_classifier.py).
    "": {"types", "postprocess.settings", "classifier"},
    "types": set(),
    "units": set(),
    "errors": set(),
    "atomic": set(),
    "latency": set(),
    "products": set(),
    "zoo": set(),
    "notify": set(),
    "logs": set(),
    "installation": {*FOUNDATION, "config"},
    # The check of an endpoint has one home; zmq is all that it pulls in. So have the settings of
    # events and the rules that they make, which pull in nothing.
    "config": {
        *FOUNDATION,
        "publish.endpoint",
        "postprocess.settings",
        "postprocess.rules",
    },
    **{stage: {*FOUNDATION, *STAGES[:index]} for index, stage in enumerate(STAGES)},
    **{key: {*FOUNDATION, *CLIENT_SIDE} for key in CLIENTS},
    "signals": set(),
    "importers": {*FOUNDATION, *STAGES[: STAGES.index("engine")]},
    "classifier": {*FOUNDATION, *STAGES[: STAGES.index("publish")]},
    "ingest": {*FOUNDATION, "capture", *SOCKETS},
    "send": {*FOUNDATION, "clock", "ring", "capture", *SOCKETS, "signals"},
    "relay": {*FOUNDATION, *SOCKETS, "signals", "publish.schema", "publish.subscriptions"},
    "served": SERVING,
    "suitability": {*FOUNDATION, "config", "header", "postprocess"},
    "stream": {*SERVING, "served", "suitability"},
    "inputs": {*SERVING, "stream", "suitability"},
    "roster": {*SERVING, "served", "stream"},
    "change": {*SERVING, "served", "stream"},
    "registrar": {*SERVING, "served", "stream", "change", "roster"},
    "reload": {*SERVING, "served", "stream", "suitability", "registrar"},
    "daemon": {*DAEMON_SIDE, "signals"},
    "summary": FOUNDATION,
    # It waits for nothing that the daemon loads.
    "demo": {*FOUNDATION, *CLIENT_SIDE},
    "bench": {*FOUNDATION, *CLIENT_SIDE},
    "cli": {
        *DAEMON_SIDE,
        *CLIENT_SIDE,
        "demo",
        "bench",
        "send",
        "relay",
        "logs",
        "signals",
        "installation",
        "doctor",
        "importers",
    },
    "doctor": {*DAEMON_SIDE, *CLIENT_SIDE, "installation", "signals"},
    "__main__": {"cli"},
    # The stream evaluation listens through what embedding programs use, and tries thresholds on the
    # daemon's own event detector: what is measured must be what is shipped.
    "train": {
        *FOUNDATION,
        "features",
        "models",
        "header",
        "checkpoint",
        "engine",
        "zoo",
        "classifier",
        "postprocess",
    },
}
"""Component -> the components (or single modules) it may import besides itself."""
ALLOWED["header"].add("zoo")


def component(module: str) -> str:
    """Return the part of the product that a dotted module belongs to."""
    package, _, rest = module.partition(".")
    return "train" if package == "train" else rest.partition(".")[0]


def imported_modules(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Yield the absolute names of our own modules that a syntax tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".") if is_package else module.split(".")[:-1]
            base = parts[: len(parts) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            # "from streamcls import ring" names a module, "from streamcls.ring import Ring" not.
            names = [
                f"{source}.{alias.name}" if source == "streamcls" else source
                for alias in node.names
            ]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in ("streamcls", "train"))


def find_violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return each import of ``source`` that its component may not make."""
    importer = component(module)
    if importer not in ALLOWED:
        return [f"{module}: new component {importer!r}; say in ALLOWED what it may import"]
    allowed = ALLOWED[importer]
    found = []
    for name in imported_modules(ast.parse(source), module, is_package):
        if name == "streamcls" or component(name) in {importer, *allowed}:
            continue
        inside = f"{name.removeprefix('streamcls.')}."
        if not any(inside.startswith(f"{one}.") for one in allowed):
            found.append(f"{module} imports {name}")
    return found


FILES = sorted(
    path for package in ("streamcls", "train") for path in (ROOT / package).rglob("*.py")
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_imports_only_what_comes_before_it(path: Path):
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    assert find_violations(path.read_text(), module, is_package) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("streamcls.ring", "from streamcls.capture.feeder import Feeder"),
        ("streamcls.capture.device", "from streamcls import engine"),
        ("streamcls.capture.device", "from ..engine import Engine"),
        ("streamcls.features.mel", "import streamcls.models.registry"),
        ("streamcls.engine.slots", "if TYPE_CHECKING:\n    from streamcls.publish import schema"),
        ("streamcls.publish.publisher", "def f():\n    from streamcls.daemon import run_daemon"),
        ("streamcls.client", "from streamcls.publish.publisher import Publisher"),
        ("streamcls.listen", "import streamcls.engine"),
        ("streamcls.config.checks", "from streamcls.publish.schema import SCHEMA"),
        ("streamcls.daemon", "from streamcls.cli import main"),
        ("streamcls.models.registry", "import train.loop"),
        ("train.loop", "from streamcls.daemon import run_daemon"),
        ("train.loop", "from streamcls import publish"),
        ("streamcls.surprise", ""),
    ],
)
def test_wrong_directions_are_found(module: str, source: str):
    assert find_violations(source, module) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("streamcls.publish.publisher", "from streamcls.publish.schema import SCHEMA"),
        ("streamcls.publish.publisher", "from .schema import SCHEMA"),
        ("streamcls.client", "from streamcls.publish.schema import SCHEMA"),
        ("streamcls.engine.slots", "from streamcls.models import Classifier\nimport numpy"),
        ("streamcls.cli.run", "from streamcls.daemon import run_daemon"),
        ("train.loop", "from streamcls.features.mel import mel_filter_bank\nimport train.data"),
    ],
)
def test_right_directions_are_allowed(module: str, source: str):
    assert find_violations(source, module) == []
