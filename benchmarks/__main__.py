"""List the benchmarks: ``python -m benchmarks``; run one: ``python -m benchmarks.NAME``."""

import ast
from pathlib import Path


def main() -> None:
    """Print each benchmark with the first line of what it says about itself."""
    print("Run one with `python -m benchmarks.NAME` (--help says more):\n")
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text())
        # A benchmark can be run; what the others share cannot.
        if path.stem != "__main__" and any(isinstance(node, ast.If) for node in tree.body):
            summary = (ast.get_docstring(tree) or "").splitlines()[0]
            print(f"  {path.stem:<12} {summary}")


if __name__ == "__main__":
    main()
