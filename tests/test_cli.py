"""What the command lines do alike: words, refusals, exit codes, --json, help."""

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from dcgan import cli
from dcgan.config import Config

PACKAGES = ("dcgan", "eval", "experiments", "reports")


def group_of(command: Callable) -> cli.Group:
    """A package with one command, which takes a word and a number."""
    group = cli.Group("thing", "A thing.")
    number = click.option("--number", type=cli.POSITIVE, default=1, help="how many")
    word = click.argument("word", default="a")
    group.command("go", help="Go.")(word(number(command)))
    return group


def failing(error: BaseException) -> Callable:
    def command(word: str, number: int) -> cli.Result:
        raise error

    return command


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "thing: Missing command.\n"),
        (["went"], "thing: No such command 'went'.\n"),
        (["go", "--number", "0"], "thing: Invalid value for '--number': 0 is not in the range"),
        (["go", "--num", "2"], "thing: No such option '--num'."),
        (["go"], "thing: a.zip\\nb: bad\\x1b\n"),
    ],
)
def test_bad_input_is_one_printable_line_and_exit_code_2(words, line, capsys):
    code = cli.run(group_of(failing(cli.BadInput("a.zip\nb: bad\x1b"))), words)
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(line)


@pytest.mark.parametrize(
    ("command", "code", "line"),
    [
        (lambda word, number: (number, {}), 7, ""),
        (failing(OSError(28, "No space left on device")), 1, "thing: [Errno 28] No space left on"),
        (failing(KeyboardInterrupt()), 130, ""),
    ],
)
def test_the_exit_code_is_the_commands_or_says_how_it_ended(command, code, line, capsys):
    assert cli.run(group_of(command), ["go", "--number", "7"]) == code
    assert capsys.readouterr().err.strip().startswith(line)


def test_json_is_one_line_of_stdout_and_the_words_go_to_stderr(capsys):
    def command(word: str, number: int) -> cli.Result:
        print("words")
        return 3, {"path": Path("a/b"), "value": 1 / 3, "none": None}

    assert cli.run(group_of(command), ["go", "--json"]) == 3
    line = '{"path": "a/b", "value": 0.3333333333333333, "none": null}\n'
    assert capsys.readouterr() == (line, "words\n")
    assert cli.run(group_of(command), ["go"]) == 3
    assert capsys.readouterr() == ("words\n", "")
    with pytest.raises(ValueError, match="not JSON compliant"):
        cli.run(group_of(lambda word, number: (0, {"value": float("nan")})), ["go", "--json"])


def test_help_shows_what_a_command_does_and_its_defaults(capsys):
    for words, line in (["--help"], "\n  go  Go.\n"), (["go", "--help"], "  [default: 1; x>=1]\n"):
        assert cli.run(group_of(failing(KeyError())), words) == 0
        assert line in capsys.readouterr().out


def every_command() -> Iterator[tuple[str, click.Command]]:
    """Every command of the packages, and what is typed for it."""
    for package in PACKAGES:
        module = importlib.import_module(f"{package}.__main__")
        for value in vars(module).values():
            if isinstance(value, click.Group):
                yield f"python -m {package}", value
                for name, command in value.commands.items():
                    yield f"python -m {package} {name}", command
            elif isinstance(value, click.Command) and value.name == package:
                yield f"python -m {package}", value


COMMANDS = dict(every_command())


@pytest.mark.parametrize("typed", COMMANDS)
def test_help_fits_80_columns_and_explains_every_option(typed):
    command = COMMANDS[typed]
    with click.Context(command, info_name=typed, terminal_width=80) as context:
        shown = command.get_help(context)
    assert [line for line in shown.split("\n") if len(line) > 80] == []
    assert f"\n      {typed} " in shown
    for option in (x for x in command.params if isinstance(x, click.Option)):
        assert option.help, option.name
        default = option.default is not None or "default: " in option.help
        assert default or option.required or option.is_flag, option.name


def test_every_command_offers_json_unless_it_hands_the_terminal_on():
    leaves = {typed: c for typed, c in COMMANDS.items() if not isinstance(c, click.Group)}
    without = [typed for typed, c in leaves.items() if "as_json" not in {p.name for p in c.params}]
    assert without == ["python -m experiments dashboard", "python -m experiments sync"]


def test_the_help_of_a_study_names_every_key_with_its_values_and_default():
    command = COMMANDS["python -m experiments ablation"]
    with click.Context(command, info_name="x", terminal_width=80) as context:
        lines = [line.split() for line in command.get_help(context).split("\n")]
    named = {line[0] for line in lines if line}
    assert {*Config.model_fields} - named == {"seed", "data", "data_sha256"}
    assert ["norm", "none|batch", "none"] in lines
    assert ["beta1", "number", "0.5"] in lines


CHEAP = (
    "experiments ablation --plan --scale smoke --data shapes --out {tmp}/none",
    "experiments status {study}",
    "experiments export {study} -o {tmp}/study.zip",
    "experiments reproduce {study}/norm=none,head=conv,batch=128/seed=0 --print",
    "reports --from {study} --to {tmp}/report",
)


@pytest.mark.parametrize("typed", CHEAP)
def test_the_json_of_a_command_is_one_object_in_one_line(typed, pair, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    study = pair.folder
    package, *given = typed.format(study=study, tmp=tmp_path).split()
    assert importlib.import_module(f"{package}.__main__").main([*given, "--json"]) == 0
    line = capfd.readouterr().out
    assert line.count("\n") == 1
    assert isinstance(json.loads(line, parse_constant=pytest.fail), dict)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("experiments banks x --banks 3", "is called resample, and its option --sets"),
        ("experiments sweep x", "is gone: --engine ray spreads the runs of a study over machines"),
        ("eval audit x --data x", "is gone: the report says how far to trust scores, resample"),
    ],
)
def test_a_command_that_was_replaced_is_refused_with_the_new_word(capsys, words, line):
    package, *given = words.split()
    assert importlib.import_module(f"{package}.__main__").main(given) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{package}: {given[0]}: this command {line}")
    assert said.count("\n") == 1


def test_a_device_is_one_of_this_machine():
    assert [cli.choose_device(None, gpus) for gpus in (0, 2)] == ["cpu", "cuda"]
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert cli.choose_device(name, 2) == name
    for name, gpus in (("cuda", 0), ("cuda:2", 2), ("CPU", 0)):
        with pytest.raises(cli.BadInput, match=f"--device {name}: there is only cpu"):
            cli.choose_device(name, gpus)
