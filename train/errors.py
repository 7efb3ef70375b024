"""Errors of the trainer; like the daemon's, each names the value, the limit and the remedy."""

from streamcls.errors import StreamclsError


class DataError(StreamclsError):
    """A data set is missing, damaged, mislabelled or would leak between train and test."""


class RecipeError(StreamclsError):
    """A recipe is unknown or one of its settings has a wrong name, type or range."""


class RunError(StreamclsError):
    """A run folder is missing, incomplete or belongs to another recipe."""
