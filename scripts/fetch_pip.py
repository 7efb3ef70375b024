"""Fetch pip's wheel for a Python that has neither pip nor ensurepip: fetch_pip.py DESTINATION.

The digest comes from the index over TLS; a download that does not match it is not written.
Only the standard library, and only what old Pythons (3.8) understand.
"""

import hashlib
import json
import sys
import urllib.parse
import urllib.request
from pathlib import Path

INDEX = "https://pypi.org/pypi/pip/json"
TIMEOUT_S = 60


def main() -> int:
    """Write the newest pip wheel to the path given as the only argument."""
    with urllib.request.urlopen(INDEX, timeout=TIMEOUT_S) as response:
        files = json.load(response)["urls"]
    wheel = next(file for file in files if file["filename"].endswith(".whl"))
    url = urllib.parse.urljoin(INDEX, wheel["url"])
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        content = response.read()
    if hashlib.sha256(content).hexdigest() != wheel["digests"]["sha256"]:
        print(f"fetch_pip: {wheel['filename']} does not match its digest", file=sys.stderr)
        return 1
    Path(sys.argv[1]).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
