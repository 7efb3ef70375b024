"""`streamcls keys new|show`: who the daemon is, and who may connect to it."""

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamcls.cli.manual import Page, add_command

if TYPE_CHECKING:
    from streamcls.publish.keys import ClientKeys

_PAGE = Page(
    description="""\
Make and list the keys that encrypt the daemon's sockets and say who may connect.

The daemon has one key pair. Each client has its own, and rights: to listen (predictions,
events, health), to send (audio for a remote: stream) and to control.""",
    epilog="""\
examples:
  streamcls keys new                                     once: the daemon's own pair
  streamcls keys new --name porch --rights listen,send   a client's pair, let in from now on
  streamcls keys show                                    who may do what
  rm ~/.config/streamcls/keys/clients/porch.pub          lets porch in no more

The daemon uses them when the configuration names their folder:
  [security]
  keys = "/home/me/.config/streamcls/keys"

A client needs its own private file and the daemon's server.pub:
  streamcls listen tcp://HOST:5570 --client-key porch.key --server-key server.pub""",
)
_NEW = Page(
    description="""\
Make a key pair: the daemon's own, or with --name a client's. Nothing is ever overwritten, and
private keys are never printed; they go into files that only you can read.

A client may also make its pair itself, on its own machine, so that the private key never
travels: give its clients/NAME.pub to whoever runs the daemon, who checks the rights in it and
puts it into the daemon's clients folder.""",
    epilog="",
)
_SHOW = Page(
    description="List the daemon's public key and its clients with their rights.", epilog=""
)


def add_parser(commands: Any) -> None:
    """Add ``keys`` to the commands."""
    parser = add_command(commands, "keys", "make and list keys: who may connect", _PAGE)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    new = add_command(actions, "new", "make a key pair", _NEW)
    _add_folder(new)
    new.add_argument("--name", metavar="NAME", help="of a client; without it, the daemon's pair")
    new.add_argument(
        "--rights",
        type=_words,
        metavar="RIGHT,...",
        help="of the client: listen, send, control (default: listen)",
    )
    new.set_defaults(command=_new)

    show = add_command(actions, "show", "list the keys", _SHOW)
    _add_folder(show)
    show.add_argument("--json", action="store_true", help="one JSON object instead of text")
    show.set_defaults(command=_show)


def add_client_keys(parser: argparse.ArgumentParser) -> None:
    """Add the two files with which a client connects to a daemon that has keys."""
    group = parser.add_argument_group("keys", "both of them, for a daemon that has keys")
    group.add_argument(
        "--client-key", type=Path, metavar="FILE", help="this client's private key, NAME.key"
    )
    group.add_argument(
        "--server-key", type=Path, metavar="FILE", help="the daemon's public key, server.pub"
    )


def read_client_keys(arguments: argparse.Namespace) -> "ClientKeys | None":
    """Return the keys that `add_client_keys` named; None if none.

    Raises:
        PublishError: Only one of them is given, or a file cannot be used.
    """
    from streamcls.errors import PublishError
    from streamcls.publish.keys import ClientKeys

    client_key, server_key = arguments.client_key, arguments.server_key
    if client_key is None and server_key is None:
        return None
    if client_key is None or server_key is None:
        missing = "--client-key NAME.key" if client_key is None else "--server-key server.pub"
        raise PublishError(f"{missing} is missing: a daemon with keys needs both")
    return ClientKeys.load(client_key, server_key)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir",
        type=_expand,
        default=_default_folder(),
        metavar="DIR",
        help="folder of the keys (default %(default)s)",
    )


def _default_folder() -> str:
    """Return the folder as text: it is expanded when it is used, for not everybody has a home."""
    return f"{os.environ.get('XDG_CONFIG_HOME') or '~/.config'}/streamcls/keys"


def _expand(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text}: this user has no home; name a folder") from None


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _new(arguments: argparse.Namespace) -> int:
    from streamcls.errors import PublishError
    from streamcls.publish.keys import create_client, create_server, parse_rights

    folder: Path = arguments.dir.absolute()
    if arguments.name is None:
        if arguments.rights is not None:
            raise PublishError("--rights are a client's: say which one with --name NAME")
        public = create_server(folder)
        print(f"made the daemon's keys in {folder}; now")
        print(
            f"  tell the daemon:  [security]\n                    keys = {json.dumps(str(folder))}"
        )
        print(f"  give to clients:  {public}")
        print(
            f"  let a client in:  streamcls keys new --dir {shlex.quote(str(folder))} "
            f"--name NAME --rights listen,send,control"
        )
        return 0
    rights = parse_rights(arguments.rights or ["listen"])
    private, public = create_client(folder, arguments.name, rights)
    print(f"made the keys of {arguments.name}, who may {', '.join(sorted(rights))}")
    print(f"  for the client only:  {private}")
    print(f"  for the daemon:       {public}")
    print("A daemon that uses this folder lets the client in from now on.")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from streamcls.publish.keys import ServerKeys

    keys = ServerKeys.load(arguments.dir)
    clients = keys.allowed.clients()
    problems = list(keys.allowed.problems.values())
    if arguments.json:
        facts = {
            "server": keys.pair.public.decode(),
            "clients": [
                {"name": c.name, "public": c.public.decode(), "rights": sorted(c.rights)}
                for c in clients
            ],
            "problems": problems,
        }
        print(json.dumps(facts, indent=2))
    else:
        width = max([len("server"), *(len(client.name) for client in clients)])
        print(f"{'server':<{width}}  {keys.pair.public.decode()}")
        for client in clients:
            rights = ", ".join(sorted(client.rights)) or "nothing"
            print(f"{client.name:<{width}}  {client.public.decode()}  may {rights}")
        for problem in problems:
            print(f"ignored: {problem}")
    return 2 if problems else 0
