"""`streamcls doctor`: does everything work here, and if not, what helps?"""

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

from streamcls.cli.flags import add_configuration, add_overrides, read_overrides
from streamcls.cli.manual import Page, add_command
from streamcls.signals import leave_on_interrupt

if TYPE_CHECKING:
    from streamcls.doctor import Finding

_PAGE = Page(
    description="""\
Look at everything `streamcls run` needs with the same arguments: software, configuration, audio,
sockets, accelerator, cache, clock, limits, service. Opens what the daemon would open, for a moment,
and changes nothing; if the daemon runs already it is asked instead.

Each line is ok, warn (works, but worse than it could) or fail (would not work), with a remedy.""",
    epilog="""\
examples:
  streamcls doctor                                  the default microphone and model
  streamcls doctor /etc/streamcls/streamcls.toml    what a service has
  streamcls doctor --json | jq '.findings[] | select(.grade != "ok")'

exit status:
  0 nothing failed, 1 something did""",
)


def add_parser(commands: Any) -> None:
    """Add ``doctor`` to the commands."""
    parser = add_command(commands, "doctor", "find out what works here", _PAGE)
    add_configuration(parser)
    add_overrides(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.set_defaults(command=_examine)


def _examine(arguments: argparse.Namespace) -> int:
    import logging

    with leave_on_interrupt():
        from streamcls.doctor import Grade, examine
        from streamcls.installation import state_directory

    # A service finds the models that were pulled for it; so shall we.
    if arguments.config is not None and (state := state_directory(arguments.config)) is not None:
        os.environ.setdefault("STATE_DIRECTORY", str(state))

    # What goes wrong is in the findings; warnings of libraries would stand between them.
    logging.basicConfig(level=logging.CRITICAL)
    findings: list[Finding] = []
    for finding in examine(arguments.config, read_overrides(arguments)):
        findings.append(finding)
        if not arguments.json:
            _print_finding(finding)
    failed = sum(finding.grade is Grade.FAIL for finding in findings)
    if arguments.json:
        facts = {"ok": failed == 0, "findings": [finding._asdict() for finding in findings]}
        print(json.dumps(facts, indent=2))
    else:
        warned = sum(finding.grade is Grade.WARN for finding in findings)
        print(f"\n{len(findings)} findings: {failed} failed, {warned} to look at")
    return 1 if failed else 0


def _print_finding(finding: "Finding") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    style = {"ok": "green", "warn": "yellow", "fail": "bold red"}[finding.grade]
    seen = Text(finding.seen)
    if finding.remedy:
        seen.append(f"\n→ {finding.remedy}", "cyan")
    table = Table.grid(padding=(0, 2))
    table.add_column(width=4, style=style)
    table.add_column(width=14)
    table.add_column(overflow="fold")
    table.add_row(finding.grade, finding.name, seen)
    console = Console(highlight=False)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        print(line.rstrip(), flush=True)  # without the blanks that fill up the last column
