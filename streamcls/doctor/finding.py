"""What a check says: how bad it is, what was seen, what helps."""

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import NamedTuple

from streamcls.errors import StreamclsError


class Grade(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    """The daemon works, but worse than it could."""
    FAIL = "fail"
    """`streamcls run` with this configuration would not do what it says."""


class Finding(NamedTuple):
    """One line of the report."""

    name: str
    grade: Grade
    seen: str
    remedy: str = ""


def attempt(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what ``check`` finds; what it raises is a finding as well."""
    try:
        yield from check()
    except StreamclsError as error:
        yield Finding(name, Grade.FAIL, str(error))
    except Exception as error:  # noqa: BLE001 - one broken check must not hide the others
        seen = f"this check itself failed: {error!r}"
        yield Finding(name, Grade.FAIL, seen, "please report this with the output of --json")
