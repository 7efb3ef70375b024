"""`streamcls service install|uninstall|status`: the daemon as a service of systemd."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamcls.cli.manual import Page, add_command

if TYPE_CHECKING:
    from streamcls.installation import Scope, Step

_PAGE = Page(
    description="""\
Run the daemon as a service: started at boot, watched, restarted, sandboxed.

Each service has a name and a configuration of that name: /etc/streamcls/NAME.toml, or
~/.config/streamcls/NAME.toml for a service of a user. A service of the system hears ALSA devices;
one of a user hears what the sound server of that user's session offers.""",
    epilog="""\
examples:
  sudo streamcls service install                 with /etc/streamcls/streamcls.toml
  sudo streamcls service install --name porch --config porch.toml
                                                 one more, with a copy of porch.toml
  streamcls service install --user --dry-run     what would be written and called
  streamcls service status                       exit status 1 unless all are running
  journalctl -u streamcls STREAMCLS_STREAM=mic   what was said about one stream

exit status:
  0 done, 1 `status`: a service is not running, 2 it cannot be (says why)""",
)
_INSTALL = Page(
    description="""\
Write the unit, and a first configuration where there is none, then enable and start the service.
Waits until the service is ready. Safe to repeat, for instance after an upgrade.""",
    epilog="",
)
_UNINSTALL = Page(
    description="""\
Stop the service and remove its unit. Its configuration stays, and so does what it has stored:
`systemctl clean --what=all UNIT` removes that before.""",
    epilog="",
)
_STATUS = Page(description="Show the services and how they are.", epilog="")


def add_parser(commands: Any) -> None:
    """Add ``service`` to the commands."""
    parser = add_command(commands, "service", "run as a service of systemd", _PAGE)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    install = add_command(actions, "install", "install, enable and start", _INSTALL)
    _add_scope(install)
    _add_name(install)
    install.add_argument(
        "--config", type=Path, metavar="FILE", help="copy this TOML file to the service's place"
    )
    install.add_argument("--no-start", action="store_true", help="start it at the next boot only")
    _add_dry_run(install)
    install.set_defaults(command=_install)

    uninstall = add_command(actions, "uninstall", "stop and remove", _UNINSTALL)
    _add_scope(uninstall)
    _add_name(uninstall)
    _add_dry_run(uninstall)
    uninstall.set_defaults(command=_uninstall)

    status = add_command(actions, "status", "show how they are", _STATUS)
    _add_scope(status)
    status.add_argument("--json", action="store_true", help="one JSON array instead of text")
    status.set_defaults(command=_status)


def _add_scope(parser: argparse.ArgumentParser) -> None:
    scope = parser.add_mutually_exclusive_group()
    default = "system" if os.geteuid() == 0 else "user"
    for name, meaning in (("system", "a service of the machine"), ("user", "of your session")):
        scope.add_argument(
            f"--{name}",
            dest="scope",
            action="store_const",
            const=name,
            default=default,
            help=f"{meaning} (default {'for root' if name == 'system' else 'for others'})",
        )


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name", default="streamcls", metavar="NAME", help="which service (default %(default)s)"
    )


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")


def _install(arguments: argparse.Namespace) -> int:
    from streamcls.installation import Scope, check_manager, plan_install, unit_name

    scope = Scope(arguments.scope)
    if not arguments.dry_run:
        check_manager(scope, change=True)
    steps = plan_install(scope, arguments.name, arguments.config, start=not arguments.no_start)
    _take(steps, arguments.dry_run)
    if not arguments.dry_run:
        unit = unit_name(arguments.name)
        log = "journalctl -f" if scope is Scope.SYSTEM else "journalctl --user -f"
        print(f"done; its log: {log} -u {unit}")
    return 0


def _uninstall(arguments: argparse.Namespace) -> int:
    from streamcls.installation import Scope, check_manager, plan_uninstall

    scope = Scope(arguments.scope)
    check_manager(scope, change=not arguments.dry_run)
    _take(plan_uninstall(scope, arguments.name), arguments.dry_run)
    if (config := scope.config_path(arguments.name)).exists():
        print(f"{config} stays")
    return 0


def _take(steps: "list[Step]", dry_run: bool) -> None:
    from streamcls.installation import take

    for step in steps:
        print(f"would {step}" if dry_run else step, flush=True)
        if not dry_run:
            take(step)


def _status(arguments: argparse.Namespace) -> int:
    from streamcls.installation import Scope, check_manager, list_services

    scope = Scope(arguments.scope)
    check_manager(scope, change=False)
    services = list_services(scope)
    if arguments.json:
        print(json.dumps(services, indent=2))
    elif not services:
        print(f"no service of this {scope} is loaded; make one: streamcls service install")
    else:
        for service in services:
            _print_service(service, scope)
    running = bool(services) and all(one["ActiveState"] == "active" for one in services)
    return 0 if running else 1


def _print_service(service: dict[str, str], scope: "Scope") -> None:
    unit = service["Id"]
    name = unit.removesuffix(".service").partition("@")[2] or unit.removesuffix(".service")
    print(
        f"{unit}  {service['ActiveState']} ({service['SubState']}) "
        f"since {service['StateChangeTimestamp'] or 'boot'}"
    )
    if service["StatusText"]:
        print(f"  {service['StatusText']}")
    if service["ActiveState"] != "active" and service["Result"] != "success":
        print(f"  ended: {service['Result']}, exit status {service['ExecMainStatus']}")
    print(f"  restarts {service['NRestarts']}, configuration {scope.config_path(name)}")
