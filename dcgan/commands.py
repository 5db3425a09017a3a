"""What the command lines share: reading words, refusing in one line, exit codes. Knows no torch."""

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from typing import Any, NoReturn

from dcgan.cli import BadInput, Result, choose_device, shown

__all__ = [
    "BadInput",
    "Parser",
    "Result",
    "add_command",
    "choose_device",
    "positive",
    "run",
    "shown",
]


class Parser(argparse.ArgumentParser):
    """Takes whole options only, fits help to the terminal, refuses in one line.

    `prog` is "python -m NAME", whose NAME begins every line on stderr.
    """

    def __init__(self, prog: str, description: str | None = None, **options: Any) -> None:
        filled = None if description is None else _fill(description)
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(
            prog, allow_abbrev=False, formatter_class=layout, description=filled, **options
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog.split()[2]}: {shown(message)}\n")


def add_command(
    named: Any, name: str, command: Callable[[argparse.Namespace], Result], text: str
) -> Parser:
    """A subcommand; the first line of its text stands beside its name in the list of them."""
    parser = named.add_parser(name, help=text.partition("\n")[0], description=text)
    offer_json(parser, command)
    return parser


def offer_json(parser: Parser, command: Callable[[argparse.Namespace], Result]) -> None:
    """Let a parser run this command, and print what it did with --json."""
    parser.set_defaults(command=command)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object, with all digits, and all else to stderr",
    )


def run(parser: Parser, words: list[str] | None = None) -> int:
    """Run `command` of the parsed words; 0 done, 1 the disk failed, 130 interrupted, or its own.

    Exits with 2 on bad input. With --json stdout has one object in one line, without NaN.
    """
    arguments = parser.parse_args(words)
    try:
        with redirect_stdout(sys.stderr) if arguments.json else nullcontext():
            code, done = arguments.command(arguments)
        if arguments.json:
            print(json.dumps(done, allow_nan=False, default=str), flush=True)
        return code
    except BadInput as error:
        parser.error(str(error))
    except OSError as error:  # a full disk, for one: it is no fault of the input
        print(f"{parser.prog.split()[2]}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def positive(word: str) -> int:
    """An option's value that is a whole number from 1 up."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a positive number")
    return int(word)


def _fill(text: str) -> str:
    """Paragraphs filled to the width of the terminal; those with indented lines as they are."""
    width = min(100, shutil.get_terminal_size().columns - 2)
    paragraphs = text.rstrip().split("\n\n")
    return "\n\n".join(
        part if "\n " in f"\n{part}" else textwrap.fill(part, width, break_on_hyphens=False)
        for part in paragraphs
    )
