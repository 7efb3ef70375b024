"""``python -m train``; ``--help`` lists the commands, which are in `train.cli`."""

import sys

from train.cli import main

if __name__ == "__main__":
    sys.exit(main())
