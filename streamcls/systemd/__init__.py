"""Unit files and the first configuration of a service; data only, see `streamcls.installation`."""

from pathlib import Path

UNIT_DIRECTORY = Path(__file__).parent
