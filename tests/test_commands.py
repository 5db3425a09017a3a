"""What all command lines do alike: words, refusals, exit codes."""

import argparse
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dcgan import commands


def parser(command: Callable) -> commands.Parser:
    made = commands.Parser("python -m thing", description="A thing.\n\n    laid out   as written")
    named = made.add_subparsers(required=True, metavar="COMMAND")
    add = commands.add_command(named, "go", command, "Go.")
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
        (lambda arguments: (arguments.number, {}), 7, ""),
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


def test_json_is_one_line_of_stdout_and_the_words_go_to_stderr(capsys):
    def command(arguments: argparse.Namespace) -> commands.Result:
        print("words")
        return 3, {"path": Path("a/b"), "value": 1 / 3, "none": None}

    assert commands.run(parser(command), ["go", "--json"]) == 3
    line = '{"path": "a/b", "value": 0.3333333333333333, "none": null}\n'
    assert capsys.readouterr() == (line, "words\n")
    assert commands.run(parser(command), ["go"]) == 3
    assert capsys.readouterr() == ("words\n", "")


def test_json_has_no_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        commands.run(parser(lambda arguments: (0, {"value": float("nan")})), ["go", "--json"])


def every_command(made: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and all below it."""
    yield made
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from every_command(each)


def of_the_project() -> list[argparse.ArgumentParser]:
    """All parsers of the command lines that dcgan.cli does not run yet."""
    names = ("experiments", "reports")
    made = [importlib.import_module(f"{name}.__main__")._parser() for name in names]
    return [each for parser in made for each in every_command(parser)]


@pytest.fixture
def everything(monkeypatch) -> list[argparse.ArgumentParser]:
    """The same, on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    return of_the_project()


def unexplained(made: argparse.ArgumentParser) -> Iterator[str]:
    """The options that do not say what they are, or what holds without them."""
    groups = [group for group in made._mutually_exclusive_groups if group.required]
    needed = [action for group in groups for action in group._group_actions]
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        has_none = action.required or action.nargs == 0 or action in needed
        if not action.help or not (has_none or "default: " in action.help):
            yield action.dest


def test_help_fits_80_columns_and_explains_every_word(everything):
    for made in everything:
        assert [line for line in made.format_help().split("\n") if len(line) > 80] == []
        assert f"\n    {' '.join(made.prog.split()[:3])} " in made.description
        assert list(unexplained(made)) == [], made.prog


def test_no_two_commands_begin_their_help_alike(everything):
    first = [made.description.partition("\n\n")[0] for made in everything]
    assert len({*first}) == len(first) > 10


def test_every_command_offers_json_unless_it_hands_the_terminal_on(everything):
    leaves = [made for made in everything if made.get_default("command")]
    without = [made.prog for made in leaves if "--json" not in made._option_string_actions]
    assert without == ["python -m experiments dashboard", "python -m experiments sync"]


CHEAP = (
    "experiments ablation --plan --scale smoke --data shapes --out {tmp}/none",
    "experiments status {study}",
    "experiments export {study} -o {tmp}/study.zip",
    "experiments reproduce {study}/norm=none,head=conv,batch=128/seed=0 --print",
    "experiments sweep ablation",
    "reports --from {study} --to {tmp}/report",
)


@pytest.mark.parametrize("words", CHEAP)
def test_the_json_of_a_command_is_one_object_in_one_line(words, pair, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    study = pair.runs[0].parents[1]
    package, *given = words.format(study=study, tmp=tmp_path).split()
    command = importlib.import_module(f"{package}.__main__")
    assert command.main([*given, "--json"]) == 0
    line = capfd.readouterr().out
    assert line.count("\n") == 1
    assert line.endswith("}\n")
    assert isinstance(json.loads(line, parse_constant=pytest.fail), dict)
