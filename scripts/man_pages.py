"""Write the manual pages, docs/man/*.1, from the command line's own help: `make man`.

One page a command, from the same descriptions, options and examples as `--help`; a test holds the
files against the commands. They go into the wheel as share/man/man1, where man(1) finds them for
every streamcls on PATH.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "man"
_HEADING = re.compile(r"^([a-z][a-z ]*):$")


def render_pages() -> dict[str, str]:
    """Return file name -> roff of every page."""
    # Defaults below the home are written as they are meant, not as they are for whoever runs this.
    os.environ |= {"XDG_CONFIG_HOME": "~/.config", "XDG_DATA_HOME": "~/.local/share"}
    from streamcls.cli import build_parser

    parser = build_parser()
    pages = {"streamcls.1": "\n".join(_page(parser, "classify live audio"))}
    for name, (command, summary) in _commands(parser).items():
        pages[f"streamcls-{name}.1"] = "\n".join(_page(command, summary))
    return {name: text + "\n" for name, text in pages.items()}


def _page(parser: argparse.ArgumentParser, summary: str) -> Iterator[str]:
    name = parser.prog.replace(" ", "-")
    yield f'.TH {_text(name.upper())} 1 "" "streamcls" "User Commands"'
    yield ".SH NAME"
    yield rf"{_text(name)} \- {_text(summary)}"
    yield ".SH SYNOPSIS"
    actions = _commands(parser)
    for command in [one for one, _ in actions.values()] or [parser]:
        yield from _synopsis(command)
    yield ".SH DESCRIPTION"
    yield from _prose(parser.description or "")
    yield from _options(parser, ".SH OPTIONS")
    if actions and " " not in parser.prog:
        yield ".SH COMMANDS"
        for sub, (_, summary) in actions.items():
            yield from (".TP", rf"\fBstreamcls\-{_text(sub)}\fR(1)", _text(summary))
    else:
        for command, _ in actions.values():
            yield f".SH {_text(command.prog.upper())}"
            yield from _prose(command.description or "")
            yield from _options(command, ".SS Options")
    yield from _epilog(parser.epilog or "")
    if " " in parser.prog:
        yield from (".SH SEE ALSO", r"\fBstreamcls\fR(1)")


def _commands(
    parser: argparse.ArgumentParser,
) -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """Return name -> parser and one line of summary of the commands below ``parser``."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {one.dest: one.help or "" for one in action._choices_actions}
            return {name: (one, summaries[name]) for name, one in action.choices.items()}
    return {}


def _synopsis(parser: argparse.ArgumentParser) -> Iterator[str]:
    words = [rf"\fB{_text(parser.prog)}\fR"]
    if _commands(parser):
        words.append(r"\fICOMMAND\fR ...")
    elif any(action.option_strings for action in parser._actions[1:]):
        words.append("[options]")
    for action in parser._actions:
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction):
            word = rf"\fI{_text(_value_name(action))}\fR"
            words.append(f"[{word}]" if action.nargs in ("?", "*") else word)
    yield from (" ".join(words), ".br")


def _options(parser: argparse.ArgumentParser, heading: str) -> Iterator[str]:
    formatter: Any = parser._get_formatter()
    yielded = False
    for group in parser._action_groups:
        shown = [
            action
            for action in group._group_actions
            if not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
            and action.help is not argparse.SUPPRESS
        ]
        if shown and not yielded:
            yield heading
            yielded = True
        if shown and group.title not in ("options", "positional arguments"):
            yield from (".PP", rf"\fB{_text((group.title or '').capitalize())}\fR")
            if group.description:
                yield _text(group.description)
        for action in shown:
            help_text = formatter._expand_help(action) if action.help else ""
            yield from (".TP", _invocation(action), _text(help_text))


def _invocation(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else rf" \fI{_text(_value_name(action))}\fR"
    if not action.option_strings:
        return value.strip()
    return ", ".join(rf"\fB{_text(option)}\fR{value}" for option in action.option_strings)


def _value_name(action: argparse.Action) -> str:
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    name = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    name = name if isinstance(name, str) else " ".join(name)
    return f"{name} ..." if action.nargs in ("*", "+") else name


def _prose(text: str) -> Iterator[str]:
    """Yield paragraphs, and what is indented as it stands."""
    for paragraph in text.split("\n\n"):
        if not paragraph.strip():
            continue
        yield ".PP"
        indented = False
        for line in paragraph.strip("\n").split("\n"):
            if line.startswith("  ") != indented:
                indented = not indented
                yield from (".RS 2", ".nf") if indented else (".fi", ".RE")
            yield _text(line[2:] if indented else line)
        if indented:
            yield from (".fi", ".RE")


def _epilog(text: str) -> Iterator[str]:
    """Yield a section for each `heading:` of a help page's end."""
    body: list[str] = []
    for line in [*text.split("\n"), "end:"]:
        heading = _HEADING.match(line)
        if heading is None:
            body.append(line)
            continue
        yield from _prose("\n".join(body))
        body = []
        if line != "end:":
            yield f".SH {heading[1].upper()}"


def _text(text: str) -> str:
    r"""Return text as roff takes it literally.

    Example:
        >>> print(_text("--set .x\\n"))
        \-\-set .x\en
        >>> print(_text(".conf"))
        \&.conf
    """
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text.startswith((".", "'")) else text


def main() -> int:
    """Write all pages and remove those of commands that are gone."""
    pages = render_pages()
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.1"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        (FOLDER / name).write_text(text)
    print(f"{len(pages)} pages in {FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
