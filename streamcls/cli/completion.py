"""`streamcls completion`: what a shell needs to complete commands, options and files."""

import argparse
from pathlib import Path
from typing import Any

from streamcls.cli.manual import Page, add_command

_PAGE = Page(
    description="Print the completion script of a shell, made from the commands as they are.",
    epilog="""\
examples:
  streamcls completion bash > ~/.local/share/bash-completion/completions/streamcls
  streamcls completion zsh > ~/.zfunc/_streamcls      with ~/.zfunc in fpath
  streamcls completion fish > ~/.config/fish/completions/streamcls.fish
  eval "$(streamcls completion bash)"                 in this shell only""",
)


def add_parser(commands: Any) -> None:
    """Add ``completion`` to the commands."""
    parser = add_command(commands, "completion", "print a completion script", _PAGE)
    parser.add_argument("shell", choices=("bash", "zsh", "fish", "tcsh"), help="which shell")
    parser.set_defaults(command=_print_script)


def _print_script(arguments: argparse.Namespace) -> int:
    import shtab

    from streamcls.cli import build_parser

    parser = build_parser()
    _complete_paths(parser, shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(parser, arguments.shell))
    return 0


def _complete_paths(parser: argparse.ArgumentParser, file: Any, folder: Any) -> None:
    """Let every argument that is a path be completed as one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_paths(command, file, folder)
        elif action.type is Path or action.metavar == "DIR":
            action.complete = folder if action.metavar == "DIR" else file  # type: ignore[attr-defined]
