"""What the command lines share: reading words, refusing in one line, exit codes. Knows no torch."""

import argparse
import json
import sys
from typing import Any, NoReturn


class BadInput(Exception):
    """Something the user gave cannot be used, said in one line."""


class Parser(argparse.ArgumentParser):
    """Takes whole options only, shows help as it is written, refuses in one line.

    `prog` is "python -m NAME", whose NAME begins every line on stderr.
    """

    def __init__(self, prog: str, **options: Any) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, allow_abbrev=False, formatter_class=layout, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog.split()[2]}: {shown(message)}\n")


def run(parser: Parser, words: list[str] | None = None) -> int:
    """Run `command` of the parsed words; 0 done, 1 the disk failed, 130 interrupted, or its own.

    Exits with 2 on bad input.
    """
    arguments = parser.parse_args(words)
    try:
        return arguments.command(arguments)
    except BadInput as error:
        parser.error(str(error))
    except OSError as error:  # a full disk, for one: it is no fault of the input
        print(f"{parser.prog.split()[2]}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def shown(message: str) -> str:
    """A text in one line, whatever is in it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)


def print_json(value: dict[str, Any]) -> None:
    """What --json promises: one object in one line of stdout, full precision, no NaN."""
    print(json.dumps(value, allow_nan=False), flush=True)


def positive(word: str) -> int:
    """An option's value that is a whole number from 1 up."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a positive number")
    return int(word)


def choose_device(wanted: str | None, gpus: int) -> str:
    """`cpu`, `cuda` or `cuda:N`; without a wish the first GPU where there is one."""
    if wanted is None:
        return "cuda" if gpus else "cpu"
    there = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{i}" for i in range(gpus))]
    if wanted not in there:
        raise BadInput(f"--device {wanted}: there is only {', '.join(there)}")
    return wanted
