"""``python -m streamcls`` is the ``streamcls`` command."""

import sys

from streamcls.cli import main

if __name__ == "__main__":
    sys.exit(main())
