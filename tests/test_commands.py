"""What all command lines do alike: words, refusals, exit codes."""

import argparse
from collections.abc import Callable

import pytest

from dcgan import commands


def parser(command: Callable) -> commands.Parser:
    made = commands.Parser("python -m thing", description="A thing.\n\n    laid out   as written")
    add = made.add_subparsers(required=True, metavar="COMMAND").add_parser("go")
    add.set_defaults(command=command)
    add.add_argument("--number", type=commands.positive, default=1)
    return made


def fail(error: Exception) -> Callable:
    def command(arguments: argparse.Namespace) -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "thing: the following arguments are required: COMMAND\n"),
        (["go", "--number", "0"], "thing: argument --number: '0' is not a positive number\n"),
        (["go", "--number", "²"], "thing: argument --number: '²' is not a positive number\n"),
        (["go", "--num", "2"], "thing: unrecognized arguments: --num 2\n"),
        (["go"], "thing: a.zip\\nb: bad\\x1b\n"),
    ],
)
def test_bad_input_is_one_printable_line_and_exit_code_2(words, line, capsys):
    with pytest.raises(SystemExit) as end:
        commands.run(parser(fail(commands.BadInput("a.zip\nb: bad\x1b"))), words)
    assert (end.value.code, *capsys.readouterr()) == (2, "", line)


@pytest.mark.parametrize(
    ("command", "code", "line"),
    [
        (lambda arguments: arguments.number, 7, ""),
        (fail(OSError(28, "No space left on device")), 1, "thing: [Errno 28] No space left on"),
        (fail(KeyboardInterrupt()), 130, ""),
    ],
)
def test_the_exit_code_is_the_commands_or_says_how_it_ended(command, code, line, capsys):
    assert commands.run(parser(command), ["go", "--number", "7"]) == code
    assert capsys.readouterr().err.startswith(line)


def test_help_is_laid_out_as_it_is_written(capsys):
    with pytest.raises(SystemExit):
        commands.run(parser(fail(ValueError())), ["--help"])
    assert "\n    laid out   as written\n" in capsys.readouterr().out


def test_a_device_is_one_that_is_there():
    assert [commands.choose_device(None, gpus) for gpus in (0, 2)] == ["cpu", "cuda"]
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert commands.choose_device(name, 2) == name
    for name, gpus in (("cuda", 0), ("cuda:2", 2), ("CPU", 0)):
        with pytest.raises(commands.BadInput, match=f"--device {name}: there is only cpu"):
            commands.choose_device(name, gpus)
