"""What the command lines share: refusals in one line, exit codes, --json. Knows no torch.

A command is a function with click's options that returns a Result; its docstring is its help.
"""

import inspect
import json
import platform
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import click

# What a command returns: its exit code, and what it did, as --json prints it.
Result = tuple[int, dict[str, Any]]

POSITIVE = click.IntRange(min=1)
PATH = click.Path(path_type=Path)
JSON = "print one JSON object, in full precision, and everything else to stderr"


class BadInput(Exception):
    """Something the user gave cannot be used, said in one line."""


class Command(click.Command):
    """A command that returns a Result; it offers --json, but where it hands the terminal on."""

    def __init__(self, name: str | None, offers_json: bool = True, **attributes: Any) -> None:
        text = inspect.cleandoc(attributes["help"])
        attributes["help"] = paragraphs(text)
        attributes.setdefault("short_help", text.partition("\n\n")[0])
        settings = {"max_content_width": 100, "show_default": True}
        super().__init__(name, context_settings=settings, **attributes)
        if offers_json:
            self.params.append(click.Option(["--json", "as_json"], is_flag=True, help=JSON))

    def invoke(self, ctx: click.Context) -> int:
        as_json = ctx.params.pop("as_json", False)
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            code, done = super().invoke(ctx)
        if as_json:
            print(json.dumps(done, allow_nan=False, default=str), flush=True)
        return code


class Group(click.Group):
    """The commands of one package; `replaced`: what commands were called -> what is said now."""

    command_class = Command

    def __init__(self, name: str, text: str, replaced: dict[str, str] | None = None) -> None:
        about = {"help": paragraphs(text), "context_settings": {"max_content_width": 100}}
        super().__init__(name, no_args_is_help=False, **about)
        self.replaced = replaced or {}

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        if args[0] in self.replaced:
            raise BadInput(f"{args[0]}: this command {self.replaced[args[0]]}")
        return super().resolve_command(ctx, args)


def run(command: click.Command, arguments: list[str] | None = None) -> int:
    """Run a package's command line; returns its exit code.

    0 done, 1 the disk failed, 2 bad input, 130 interrupted, or what the command returned. With
    --json stdout has one object in one line, without NaN.
    """
    try:
        return command.main(arguments, f"python -m {command.name}", standalone_mode=False)
    except click.ClickException as error:
        message, code = one_line(error.format_message()), 2
    except BadInput as error:
        message, code = str(error), 2
    except OSError as error:  # a full disk, for one: it is no fault of the input
        message, code = str(error), 1
    except click.Abort:
        return 130
    print(f"{command.name}: {shown(message)}", file=sys.stderr)
    return code


def options(*chosen: Callable) -> Callable:
    """A decorator that adds several arguments and options, in their order in the help."""

    def add(command: Callable) -> Callable:
        for option in reversed(chosen):
            command = option(command)
        return command

    return add


def paragraphs(text: str) -> str:
    """A text for click, which fills its paragraphs, but for those with indented lines."""
    parts = text.strip("\n").split("\n\n")
    return "\n\n".join(f"\b\n{part}" if "\n " in f"\n{part}" else part for part in parts)


def one_line(text: object) -> str:
    """A message of any shape, such as a library's error, in one line."""
    return " ".join(str(text).split())


def first_line(error: BaseException | None) -> str:
    """The kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def shown(message: str) -> str:
    """A text in one line, whatever is in it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)


def duration(seconds: float) -> str:
    """Seconds for people: `45 s`, `7 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def left(seconds: float | None) -> str:
    return "time left not known yet" if seconds is None else f"{duration(seconds)} left"


def aligned(columns: list[str], rows: list[list[Any]]) -> str:
    """A table of names, set left, and numbers; what does not fit the terminal follows below."""
    names, *others = zip(columns, *(map(_cell, row) for row in rows), strict=True)
    names = [cell.ljust(max(map(len, names))) for cell in names]
    blocks = [[names]]
    for column in others:
        padded = [cell.rjust(max(map(len, column))) for cell in column]
        width = sum(len(x[0]) + 2 for x in (*blocks[-1], padded)) - 2
        if len(blocks[-1]) > 1 and width > shutil.get_terminal_size().columns:
            blocks.append([names])
        blocks[-1].append(padded)
    rows_of_blocks = (zip(*block, strict=True) for block in blocks)
    return "\n\n".join("\n".join("  ".join(x).rstrip() for x in rows) for rows in rows_of_blocks)


def _cell(cell: Any) -> str:
    if cell is None:
        return "–"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def choose_device(wanted: str | None, gpus: int) -> str:
    """`cpu`, `cuda` or `cuda:N`; without a wish the first GPU where there is one."""
    if wanted is None:
        return "cuda" if gpus else "cpu"
    known = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{i}" for i in range(gpus))]
    if wanted not in known:
        raise BadInput(f"--device {wanted}: there is only {', '.join(known)}")
    return wanted


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
