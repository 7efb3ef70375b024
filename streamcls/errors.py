"""Errors a person can act on: each message names the value, the limit and the remedy.

Every error that reaches the command line is a `StreamclsError`; the CLI prints its message
without a traceback and exits with `exit_code`. Anything else that escapes is a bug.
"""


class StreamclsError(Exception):
    """Base of all expected failures; `str(error)` is the whole message for the user."""

    exit_code = 2


class ConfigError(StreamclsError):
    """The configuration is wrong; `problems` lists every finding, one line each."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("\n".join(problems))


class SourceError(StreamclsError):
    """An audio source cannot be opened or read (missing file, unknown device, bad format)."""


class CheckpointError(StreamclsError):
    """A checkpoint is missing, damaged, of another schema or does not fit its architecture."""


class ModelError(StreamclsError):
    """A model or architecture name is unknown, or its geometry does not allow what was asked."""


class PublishError(StreamclsError):
    """A socket cannot be bound or the request is refused by the security rules."""


class DownloadError(StreamclsError):
    """A file cannot be fetched, or what came is not the file that was asked for."""


class ReloadError(StreamclsError):
    """A running daemon cannot change to this configuration or model, and goes on as it was."""
