"""`streamcls relay`: one endpoint in front of many daemons."""

import argparse
import logging
from pathlib import Path
from typing import Any

from streamcls.cli.flags import add_log_level
from streamcls.cli.manual import Page, add_command
from streamcls.errors import ConfigError

_PAGE = Page(
    description="""\
Forward what several daemons publish to one endpoint, until interrupted. Subscribers connect to
--front as if it were a daemon; the daemons may come and go. Messages carry the run of their
daemon, so give streams names that are unique in the fleet, and the rest sorts itself out.

Predictions, events, health and heartbeats pass; requests (status, replay) do not: those go to
each daemon's own control endpoint.""",
    epilog="""\
examples:
  streamcls relay --back tcp://192.0.2.7:5570 --back tcp://192.0.2.8:5570
      Two daemons on tcp://127.0.0.1:5580, for programs on this machine.
  streamcls relay --front tcp://0.0.0.0:5580 --keys /etc/streamcls/keys --back tcp://127.0.0.1:5570
      For other machines, encrypted, known clients only.
  streamcls listen tcp://127.0.0.1:5580""",
)


def add_parser(commands: Any) -> None:
    """Add ``relay`` to the commands."""
    parser = add_command(commands, "relay", "one endpoint in front of many daemons", _PAGE)
    parser.add_argument(
        "--front",
        default="tcp://127.0.0.1:5580",
        metavar="URL",
        help="where subscribers connect (default %(default)s)",
    )
    parser.add_argument(
        "--back",
        action="append",
        required=True,
        metavar="URL",
        help="publish.endpoint of a daemon; may be repeated",
    )
    security = parser.add_argument_group("security")
    security.add_argument(
        "--keys", type=Path, metavar="DIR", help="encrypt the front; made by `streamcls keys new`"
    )
    security.add_argument(
        "--client-key", type=Path, metavar="FILE", help="our private key for the daemons"
    )
    security.add_argument(
        "--server-key",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="public key of the daemons: one for all, or one for each --back in their order",
    )
    security.add_argument(
        "--insecure", action="store_true", help="allow a front beyond this machine without keys"
    )
    add_log_level(parser)
    parser.set_defaults(command=_relay)


def _relay(arguments: argparse.Namespace) -> int:
    from streamcls.publish.keys import ServerKeys
    from streamcls.relay import Relay, run_relay

    logging.basicConfig(
        level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    keys = None if arguments.keys is None else ServerKeys.load(arguments.keys)
    relay = Relay(
        arguments.front,
        arguments.back,
        keys=keys,
        back_keys=_read_back_keys(arguments),
        insecure=arguments.insecure,
    )
    return run_relay(relay)


def _read_back_keys(arguments: argparse.Namespace) -> Any:
    from streamcls.publish.keys import ClientKeys

    servers = arguments.server_key
    if (arguments.client_key is None) != (not servers):
        raise ConfigError(["--client-key and --server-key belong together; give both or neither"])
    if not servers:
        return None
    if len(servers) == 1:
        return ClientKeys.load(arguments.client_key, servers[0])
    if len(servers) != len(arguments.back):
        raise ConfigError(
            [f"{len(servers)} --server-key for {len(arguments.back)} --back; give one, or as many"]
        )
    return {
        back: ClientKeys.load(arguments.client_key, server)
        for back, server in zip(arguments.back, servers, strict=True)
    }
