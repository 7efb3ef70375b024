"""Files that are there whole or not at all."""

import os
import shutil
import tempfile
from pathlib import Path


def write_whole(path: Path, content: bytes, mode: int = 0o644, group: str | None = None) -> None:
    """Write a file atomically: temporary file in the same folder, fsync, rename.

    Args:
        path: Its folder is made if need be.
        content: All of it.
        mode: Who may do what with it; never more than that while it is written.
        group: Its group; None leaves the writer's.

    Raises:
        OSError: It cannot be written; a file that was there before is untouched.
        LookupError: There is no such group; likewise.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if group is not None:
                shutil.chown(temporary, group=group)
            temporary.chmod(mode)
            temporary.replace(path)
        except (OSError, LookupError):
            temporary.unlink(missing_ok=True)
            raise
