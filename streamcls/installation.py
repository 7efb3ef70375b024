"""The daemon as a systemd service: which files that needs, and what the manager has to be told.

`plan_install` and `plan_uninstall` look, check everything that can be checked, and return the
steps without taking one; `take` takes a step. So ``--dry-run`` shows exactly what would happen.
Called by the command line only; the daemon knows nothing of how it was installed.
"""

import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from streamcls.atomic import write_whole
from streamcls.config import Config, load_config, stream_table
from streamcls.errors import StreamclsError

DEFAULT_NAME = "streamcls"
_PACKAGE = Path(__file__).parent
UNIT_DIRECTORY = next(
    folder for folder in (_PACKAGE / "systemd", _PACKAGE.parent / "systemd") if folder.is_dir()
)
"""Unit files and first configuration: in the package, or beside it in a checkout."""
SHIPPED_PROGRAM = "/usr/local/bin/streamcls"
"""What the unit files start; replaced by the program of this installation."""
BOOTED = Path("/run/systemd/system")
"""Exists exactly where systemd is the running manager, see sd_booted(3)."""
GROUP = "audio"
_HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user")))
"""What ProtectHome= hides from the system's services."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SHOWN = (
    "Id LoadState ActiveState SubState StatusText StateChangeTimestamp NRestarts Result "
    "ExecMainStatus MainPID"
)


class ServiceError(StreamclsError):
    """A service cannot be installed, removed or asked as things are."""


class Scope(StrEnum):
    """Whose service it is."""

    SYSTEM = "system"
    USER = "user"

    @property
    def systemctl(self) -> tuple[str, ...]:
        """The command that reaches the manager."""
        return ("systemctl",) if self is Scope.SYSTEM else ("systemctl", "--user")

    @property
    def _configuration(self) -> Path:
        if self is Scope.SYSTEM:
            return Path("/etc")
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")

    @property
    def unit_directory(self) -> Path:
        """Where an administrator's, or the user's own, unit files are."""
        return self._configuration / "systemd" / self.value

    def config_path(self, name: str) -> Path:
        """Return the configuration of the service ``name``, as its unit file has it."""
        return self._configuration / "streamcls" / f"{name}.toml"


def state_directory(config: Path) -> Path | None:
    """Return where the service of the system with this configuration keeps its state.

    Example:
        >>> print(state_directory(Path("/etc/streamcls/porch.toml")))
        /var/lib/streamcls-porch
        >>> state_directory(Path("porch.toml")) is None
        True
    """
    name = config.stem
    if config.absolute() != Scope.SYSTEM.config_path(name):
        return None
    return Path("/var/lib") / (name if name == DEFAULT_NAME else f"{DEFAULT_NAME}-{name}")


@dataclass(frozen=True, slots=True)
class Write:
    """Write a whole file, atomically."""

    path: Path
    text: str
    mode: int = 0o644
    group: str | None = None

    def __str__(self) -> str:
        return f"write {self.path}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a file, and its folder if that was only for it."""

    path: Path

    def __str__(self) -> str:
        return f"remove {self.path}"


@dataclass(frozen=True, slots=True)
class Call:
    """Call a program."""

    command: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.command)


@dataclass(frozen=True, slots=True)
class Start:
    """Start or restart a service, and wait until it is ready."""

    scope: "Scope"
    unit: str

    @property
    def command(self) -> tuple[str, ...]:
        """What is called."""
        return (*self.scope.systemctl, "restart", self.unit)

    def __str__(self) -> str:
        return shlex.join(self.command)


Step = Write | Remove | Call | Start


def unit_name(name: str) -> str:
    """Return the unit of a service.

    Example:
        >>> unit_name("streamcls"), unit_name("porch")
        ('streamcls.service', 'streamcls@porch.service')

    Raises:
        ServiceError: The name is not one.
    """
    if not _NAME.fullmatch(name):
        raise ServiceError(
            f"--name {name}: must be up to 64 letters, digits, _ and -, starting with a letter or "
            f"digit"
        )
    return f"{DEFAULT_NAME}.service" if name == DEFAULT_NAME else f"{DEFAULT_NAME}@{name}.service"


def plan_install(scope: Scope, name: str, given: Path | None, start: bool = True) -> list[Step]:
    """Return the steps that make the service ``name`` run now and at every boot.

    Args:
        scope: Whose service.
        name: Of service and configuration; ``streamcls`` is the plain one.
        given: A configuration to install; None keeps the one that is there or writes a first one.
        start: Also start it, or restart it if it runs.

    Raises:
        ServiceError: The service could not run so; says all reasons that were found.
        ConfigError: The configuration is wrong.
    """
    unit = unit_name(name)
    target = scope.config_path(name)
    source = given or (target if target.exists() else UNIT_DIRECTORY / "default.toml")
    config = load_config(source, environ={})
    program = find_program()
    problems = [*_find_path_problems(config, source), *_find_hidden(scope, config, program)]
    if given is not None and target.exists() and target.read_bytes() != given.read_bytes():
        problems.append(f"{target} exists and differs from {given}; edit or remove it")
    if problems:
        raise ServiceError("\n  ".join(["this cannot run as a service:", *problems]))

    steps: list[Step] = []
    if source != target:
        # Not for everybody: a configuration may hold the passwords of cameras.
        private = (0o640, GROUP) if scope is Scope.SYSTEM else (0o600, None)
        steps.append(Write(target, source.read_text(), *private))
    template = unit.replace(f"@{name}.", "@.")
    folder = UNIT_DIRECTORY / "user" if scope is Scope.USER else UNIT_DIRECTORY
    text = (folder / template).read_text().replace(SHIPPED_PROGRAM, _quote(program))
    steps.append(Write(scope.unit_directory / template, text))
    if manager_version() >= 254:
        text = (UNIT_DIRECTORY / "systemd-254.conf").read_text()
        steps.append(Write(_drop_in(scope, template), text))
    steps.append(Call((*scope.systemctl, "daemon-reload")))
    steps.append(Call((*scope.systemctl, "enable", unit)))
    if start:
        steps.append(Start(scope, unit))
    return steps


def plan_uninstall(scope: Scope, name: str) -> list[Step]:
    """Return the steps that stop the service and remove its unit; its configuration stays.

    Raises:
        ServiceError: There is no such service.
    """
    unit = unit_name(name)
    template = unit.replace(f"@{name}.", "@.")
    path = scope.unit_directory / template
    if not path.exists():
        raise ServiceError(f"there is no {path}: the service is not installed")
    steps: list[Step] = [Call((*scope.systemctl, "disable", "--now", unit))]
    # The template stays as long as another service is made from it, running or not.
    enabled = {link.name for link in scope.unit_directory.glob(f"*.wants/{DEFAULT_NAME}@*.service")}
    others = ({one["Id"] for one in list_services(scope)} | enabled) - {unit}
    if "@" not in unit or not any("@" in other for other in others):
        steps += [Remove(one) for one in (_drop_in(scope, template), path) if one.exists()]
    return [*steps, Call((*scope.systemctl, "daemon-reload"))]


def take(step: Step) -> None:
    """Take one step.

    Raises:
        ServiceError: It failed; says how.
    """
    try:
        match step:
            case Write():
                write_whole(step.path, step.text.encode(), step.mode, step.group)
            case Remove():
                step.path.unlink()
                if step.path.parent.suffix == ".d" and not any(step.path.parent.iterdir()):
                    step.path.parent.rmdir()
            case Call():
                _call(step.command)
            case Start():
                _start(step)
    except OSError as error:
        raise ServiceError(f"cannot {step}: {error.strerror}") from None
    except LookupError:
        raise ServiceError(
            f"there is no group {GROUP}, to which sound devices belong; make it: groupadd {GROUP}"
        ) from None


def list_services(scope: Scope) -> list[dict[str, str]]:
    """Return what the manager says of every service of ours that it knows.

    Returns:
        For each the properties of systemctl(1) ``show``: ``Id``, ``ActiveState``, ...

    Raises:
        ServiceError: The manager cannot be asked.
    """
    patterns = (f"{DEFAULT_NAME}.service", f"{DEFAULT_NAME}@*.service")
    properties = f"--property={','.join(_SHOWN.split())}"
    said = _call((*scope.systemctl, "show", properties, *patterns))
    services = [
        {name: value for name, _, value in (line.partition("=") for line in block.splitlines())}
        for block in said.strip().split("\n\n")
        if block
    ]
    return [service for service in services if service["LoadState"] != "not-found"]


def find_program() -> Path:
    """Return the `streamcls` of this installation.

    Raises:
        ServiceError: There is none beside this Python.
    """
    program = Path(sys.executable).parent / "streamcls"
    if not os.access(program, os.X_OK):
        raise ServiceError(f"there is no {program}; install the package: deploy/install.sh")
    return program


def check_manager(scope: Scope, *, change: bool) -> None:
    """Check that there is a manager to talk to, and that we may.

    Args:
        scope: Whose manager.
        change: Something is to be changed.

    Raises:
        ServiceError: systemd is not running here, or this needs root.
    """
    if not BOOTED.is_dir():
        raise ServiceError(
            f"systemd does not run this machine (there is no {BOOTED}), as in most containers; "
            f"start the daemon yourself: streamcls run CONFIG"
        )
    if scope is Scope.USER and not os.environ.get("XDG_RUNTIME_DIR"):
        raise ServiceError(
            "no session (XDG_RUNTIME_DIR is not set): log in as this user rather than through su "
            "or sudo, or use --system"
        )
    if change and scope is Scope.SYSTEM and os.geteuid() != 0:
        raise ServiceError("a service of the system needs root: use sudo, or else --user")


def manager_version() -> int:
    """Return the version of systemd; 0 where there is none."""
    try:
        said = subprocess.run(["systemctl", "--version"], capture_output=True, text=True).stdout
    except OSError:
        return 0
    found = re.match(r"systemd (\d+)", said)
    return int(found[1]) if found else 0


def _drop_in(scope: Scope, template: str) -> Path:
    return scope.unit_directory / f"{template}.d" / "streamcls.conf"


def _quote(path: Path) -> str:
    """Return a path as ExecStart= takes it."""
    text = str(path).replace("%", "%%")
    return f'"{text}"' if " " in text else text


def _find_path_problems(config: Config, source: Path) -> Iterator[str]:
    """Yield what means something else where a service runs."""
    for key, path in _paths(config):
        if not path.is_absolute():
            yield f'{source}: {key} names the relative "{path}"; write an absolute path'


def _paths(config: Config) -> Iterator[tuple[str, Path]]:
    if config.model.endswith(".safetensors") or "/" in config.model:
        yield "model", Path(config.model)
    for name, stream in config.streams.items():
        kind, _, rest = stream.source.partition(":")
        if kind == "file":
            yield f"{stream_table(name)}.source", Path(rest)


def _find_hidden(scope: Scope, config: Config, program: Path) -> Iterator[str]:
    """Yield what a service of the system, which is another user without homes, cannot read."""
    if scope is Scope.USER:
        return
    interpreter = Path(sys.executable).resolve()
    needed = {"the program": program, "its Python": interpreter, **dict(_paths(config))}
    for what, path in needed.items():
        if any(path.is_relative_to(hidden) for hidden in _HIDDEN):
            yield f"{what} is {path}, in a home, which is hidden from services"
        elif not path.exists():
            yield f"{what} is {path}, which does not exist"
        elif (closed := _find_closed(path)) is not None:
            yield f"{what} is {path}, but {closed} is not for everybody to read"
        else:
            continue
        if path in (program, interpreter):
            yield "  remedy: deploy/install.sh installs for all users; or use --user"


def _find_closed(path: Path) -> Path | None:
    """Return the first of a path's folders, or itself, that not everybody may read."""
    for part in (*reversed(path.parents), path):
        mode = part.stat().st_mode
        needed = stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
        if not mode & needed:
            return part
    return None


def _start(step: Start) -> None:
    try:
        _call(step.command)
    except ServiceError:
        scope = () if step.scope is Scope.SYSTEM else ("--user",)
        journal = ("journalctl", *scope, "-u", step.unit, "-n", "5", "-o", "cat", "--no-pager")
        said = subprocess.run(journal, capture_output=True, text=True).stdout.rstrip()
        raise ServiceError(
            f"{step.unit} does not start; what its log says last (systemd tries on):\n{said}"
        ) from None


def _call(command: tuple[str, ...]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if result.returncode != 0:
        said = (result.stderr or result.stdout).strip()
        raise ServiceError(f"{shlex.join(command)} failed: {said}")
    return result.stdout
