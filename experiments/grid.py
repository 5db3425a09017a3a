"""Which runs exist: factors x levels x seeds. Knows no torch."""

import itertools
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from dcgan.config import Config, fault

HERE = Path(__file__).parent
OPTIONS = ("seed", "data", "data_sha256")  # fields of Config that differ or come with the data
NATIVE_DATA = "cifar10"  # what the study is about; a study of other data says so in its name
MOST_RUNS = 10_000
MOST_YAML_BYTES, MOST_YAML_DEPTH = 1 << 16, 3

# How a number is written. 1e4 and 1_000 are no whole numbers here, nor is 010 any number.
WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})", re.ASCII)
NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)?(\.[0-9]+)?(?<=[0-9])(e[+-]?[0-9]+)?", re.I | re.ASCII)
ARM_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}", re.ASCII)


class BadStudy(Exception):
    """A study that cannot be run, said in one line."""


@dataclass(frozen=True)
class Study:
    """A grid over some data; `settings` are the fields of Config that every run shares.

    Its factors are fields of Config, all levels crossed; or there is one, `arm`, whose levels have
    names and set several fields at a time.
    """

    name: str
    scale: str
    factors: dict[str, list[Any]]
    seeds: list[int]
    settings: dict[str, Any]
    arms: dict[str, dict[str, Any]]  # what each level of the factor `arm` sets, if there is one

    @property
    def folder(self) -> str:
        """`ablation-small` on CIFAR-10, `ablation-small-shapes` on other data."""
        data = self.settings.get("data", NATIVE_DATA)
        return "-".join([self.name, self.scale] + ([] if data == NATIVE_DATA else [data]))


@dataclass(frozen=True)
class Run:
    """One cell of the grid with one seed; its folder says what it is."""

    config: Config
    arm: str  # "norm=none,head=conv,batch=128"

    @property
    def folder(self) -> str:
        return f"{self.arm}/seed={self.config.seed}"

    def __str__(self) -> str:
        return f"{self.arm} seed={self.config.seed}"


def studies() -> list[str]:
    return sorted(path.stem for path in (HERE / "studies").glob("*.yaml"))


def scales() -> list[str]:
    return sorted(path.stem for path in (HERE / "scales").glob("*.yaml"))


@dataclass(frozen=True)
class Node:
    """A part of a YAML file; scalars stay text, whose meaning is their field's to say."""

    line: int
    content: "str | list[Node] | dict[str, Node]"


def define(
    name: str, scale: str, seeds: int | None = None, words: list[str] | None = None
) -> Study:
    """A study at a scale; each word `key=value` narrows a factor or sets a field of Config.

    A factor takes one or more of its levels (`batch=128,512`); any other field of Config takes a
    value for all runs. The levels of `seed` are 0 to seeds - 1 where `seeds` is given, and any
    seeds where it is not. Raises BadStudy.
    """
    words = words or []
    if name not in studies():
        raise BadStudy(f"study {name!r} does not exist: choose from {', '.join(studies())}")
    usual, settings = _scale(scale)
    if seeds is not None and seeds < 1:
        raise BadStudy(f"seeds={seeds} is not a positive number")
    factors, arms = _read(f"studies/{name}.yaml", parse_study)
    keys = [word.partition("=")[0] for word in words]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise BadStudy(f"{_shown(twice)} is given twice")

    # The seeds are counted before a list of them is made.
    of_seeds = [word for word in words if word.startswith("seed=")]
    chosen = _seeds(of_seeds[0], seeds) if of_seeds else []
    count, cells = len(chosen) or seeds or usual, math.prod(map(len, factors.values()))
    if count * cells > MOST_RUNS:
        raise BadStudy(f"seeds={count} makes {count * cells:,} runs, over {MOST_RUNS:,}")
    study = Study(name, scale, factors, chosen or list(range(count)), settings, arms)
    for word in words:
        study = study if word in of_seeds else _apply(study, word)
    return study


def fit(study: Study, data: str, data_sha256: str, available: int) -> Study:
    """The study on some data: no more images than there are."""
    settings = study.settings | {"data": data, "data_sha256": data_sha256}
    for key in "images", "reference_images":
        settings[key] = min(settings.get(key, Config.model_fields[key].default), available)
    return replace(study, settings=settings)


@cache
def epochs_of(scale: str) -> int:
    """The length of a run at a scale, where no word sets another one. Raises BadStudy."""
    return _scale(scale)[1].get("epochs", Config.model_fields["epochs"].default)


def runs(study: Study) -> list[Run]:
    """Every run, all cells of a seed before the next seed. Raises BadStudy."""
    levels = itertools.product(*study.factors.values())
    cells = [dict(zip(study.factors, each, strict=True)) for each in levels]
    return [
        Run(
            _config(study.settings | fields(cell, study.arms) | {"seed": seed}),
            ",".join(f"{factor}={level}" for factor, level in cell.items()),
        )
        for seed in study.seeds
        for cell in cells
    ]


def fields(cell: dict[str, Any], arms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The fields of Config that the levels of a cell set."""
    return arms[cell["arm"]] if arms else cell


def unite(stored: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """What two study.json of one study planned and used together: levels, seeds, epochs, commits.

    Of two lengths the longer one is planned. The claims are those that the stored one started with,
    if it says which.
    """
    levels = define(stored["study"], stored["scale"]).factors
    there = {key: stored["factors"][key] + added["factors"][key] for key in levels}
    commits = [*stored["commit"].split(", "), *added["commit"].split(", ")]
    claims = {"claims": stored.get("claims", {})} if "claims" in stored | added else {}
    usual = Config.model_fields["epochs"].default
    epochs = max(each["settings"].get("epochs", usual) for each in (stored, added))
    return {
        "factors": {key: [one for one in levels[key] if one in there[key]] for key in levels},
        "seeds": sorted({*stored["seeds"], *added["seeds"]}),
        "settings": stored["settings"] | added["settings"] | {"epochs": epochs},
        "commit": ", ".join(dict.fromkeys(commits)),
        **claims,
    }


# --- Words of the command line --------------------------------------------------------------------


def _seeds(word: str, count: int | None) -> list[int]:
    """The seeds that a word `seed=1,3` chooses, of the first `count` where that is given."""
    chosen = [_value("seed", text) for text in word.removeprefix("seed=").split(",")]
    if len(set(chosen)) < len(chosen):
        raise BadStudy(f"{_shown(word)} has a seed twice")
    if count and max(chosen) >= count:
        raise BadStudy(f"seed={max(chosen)} is not one of --seeds {count}: 0 to {count - 1}")
    return sorted(chosen)


def _apply(study: Study, word: str) -> Study:
    key, equals, value = word.partition("=")
    known = [*study.factors, "seed", *(k for k in _settable() if k not in study.factors)]
    if not equals or key not in known:
        raise BadStudy(f"{word!r} is not key=value with a key among {', '.join(known)}")
    if key not in study.factors:
        return replace(study, settings=study.settings | {key: _value(key, value)})

    levels, chosen = {str(level): level for level in study.factors[key]}, value.split(",")
    for text in chosen:
        if text not in levels:
            where = f"{key}={_shown(text)} is not a level of {study.name}"
            raise BadStudy(f"{where}: {', '.join(levels)}")
    if len(set(chosen)) < len(chosen):
        raise BadStudy(f"{key}={value} has a level twice")
    kept = [level for text, level in levels.items() if text in chosen]
    return replace(study, factors=study.factors | {key: kept})


def _settable() -> list[str]:
    return [key for key in Config.model_fields if key not in OPTIONS]


def _variable() -> list[str]:
    """What may tell arms apart: how long a run goes on is not part of what it is."""
    return [key for key in _settable() if key != "epochs"]


def _value(key: str, text: str) -> Any:
    """What a text means as the value of one field of Config; raises BadStudy with both."""
    kind = type(Config.model_fields[key].default)  # int, float or str
    if kind is not str and not (WHOLE if kind is int else NUMBER).fullmatch(text):
        raise BadStudy(f"{key}={_shown(text)} is not a {'whole ' * (kind is int)}number")
    value = kind(text)
    tiny = kind is float and abs(value) < sys.float_info.min
    if tiny and re.match("[+-]?[0.]*[1-9]", text):
        raise BadStudy(f"{key}={_shown(text)} is too small to be kept in all its digits")
    try:
        return _adapter(key).validate_python(value)
    except ValidationError as error:
        raise BadStudy(f"{key}={_shown(text)}: {error.errors()[0]['msg']}") from error


@cache
def _adapter(key: str) -> TypeAdapter:
    field = Config.model_fields[key]
    config = ConfigDict(strict=True, allow_inf_nan=False)
    return TypeAdapter(Annotated[field.annotation, field], config=config)


def _shown(text: str) -> str:
    """A foreign text in an error of one line."""
    text = text if len(text) <= 60 else f"{text[:60]}..."
    return text if text.isprintable() else ascii(text)


# --- scales/*.yaml and studies/*.yaml -------------------------------------------------------------


def _scale(name: str) -> tuple[int, dict[str, Any]]:
    if name not in scales():
        raise BadStudy(f"scale {name!r} does not exist: choose from {', '.join(scales())}")
    return _read(f"scales/{name}.yaml", parse_scale)


def _read(name: str, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse((HERE / name).read_bytes())
    except BadStudy as error:
        raise BadStudy(f"{name}, {error}") from error


def parse_scale(data: bytes) -> tuple[int, dict[str, Any]]:
    """The seeds and the settings that a scale's file gives; raises BadStudy with the line."""
    root = _entries(_parse(data), ["seeds", "config"])
    for key in ("seeds", "config"):
        if key not in root:
            raise BadStudy(f"line 1: {key} is missing")
    seeds = _text("seeds", root["seeds"])
    if not WHOLE.fullmatch(seeds) or int(seeds) < 1:
        raise BadStudy(f"line {root['seeds'].line}: seeds={_shown(seeds)} is not a positive number")
    settings = _entries(root["config"], _settable())
    return int(seeds), {key: _setting(key, node) for key, node in settings.items()}


def parse_study(data: bytes) -> tuple[dict[str, list[Any]], dict[str, dict[str, Any]]]:
    """The factors with their levels, and the named arms if these are what a study's file gives.

    Raises BadStudy with the line.
    """
    root = _entries(_parse(data), ["factors", "arms"])
    if len(root) == 2:
        raise BadStudy("line 1: factors and arms exclude each other")
    if "factors" in root:
        return _factors(root["factors"]), {}
    arms = _arms(root["arms"])
    return {"arm": list(arms)}, arms


def _factors(root: Node) -> dict[str, list[Any]]:
    factors = {}
    for key, node in _entries(root, _variable()).items():
        if not isinstance(node.content, list) or not node.content:
            raise BadStudy(f"line {node.line}: {key} is not a list of levels")
        factors[key] = [_setting(key, level) for level in node.content]
        if len(set(factors[key])) < len(factors[key]):
            raise BadStudy(f"line {node.line}: {key} has a level twice")
    return factors


def _arms(root: Node) -> dict[str, dict[str, Any]]:
    """Name -> what the arm sets; the baseline sets nothing: `baseline: {}`."""
    if not isinstance(root.content, dict) or not root.content:
        raise BadStudy(f"line {root.line}: arms is not a mapping of names to settings")
    arms: dict[str, dict[str, Any]] = {}
    for name, node in root.content.items():
        if not ARM_NAME.fullmatch(name):
            raise BadStudy(f"line {node.line}: {_shown(name)} is no name of an arm: a-z, 0-9, -")
        entries = {} if node.content == {} else _entries(node, _variable())
        arms[name] = {key: _setting(key, setting) for key, setting in entries.items()}
        if twin := next((x for x in arms if x != name and arms[x] == arms[name]), None):
            raise BadStudy(f"line {node.line}: {name} sets what {twin} sets")
    return arms


def _setting(key: str, node: Node) -> Any:
    text = _text(key, node)
    try:
        return _value(key, text)
    except BadStudy as error:
        raise BadStudy(f"line {node.line}: {error}") from error


def _text(key: str, node: Node) -> str:
    if not isinstance(node.content, str):
        raise BadStudy(f"line {node.line}: {key} is not a single value")
    return node.content


def _entries(node: Node, known: list[str]) -> dict[str, Node]:
    """The entries of a mapping that has some, each of a known name."""
    if not isinstance(node.content, dict) or not node.content:
        raise BadStudy(f"line {node.line}: not a mapping with a key among {', '.join(known)}")
    for key, value in node.content.items():
        if key not in known:
            raise BadStudy(f"line {value.line}: {_shown(key)} is not a key: {', '.join(known)}")
    return node.content


def _parse(data: bytes) -> Node:
    """A YAML file as it is written: one document, no anchors, no tags, no key twice."""
    if len(data) > MOST_YAML_BYTES:
        raise BadStudy(f"line 1: a file of over {MOST_YAML_BYTES >> 10} KiB")
    try:
        events = yaml.parse(data.decode(), yaml.SafeLoader)
        next(events)
        if isinstance(next(events), yaml.StreamEndEvent):
            raise BadStudy("line 1: the file is empty")
        root = _node(next(events), events, MOST_YAML_DEPTH)
        next(events)
        if not isinstance(end := next(events), yaml.StreamEndEvent):
            raise BadStudy(f"line {end.start_mark.line + 1}: a second document")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadStudy(f"line {line}: not UTF-8") from error
    except yaml.YAMLError as error:
        mark, said = (getattr(error, f"problem{name}", None) for name in ("_mark", ""))
        line = mark.line + 1 if mark else 1
        raise BadStudy(f"line {line}: not YAML: {_shown(said or 'a control character')}") from error
    return root


def _node(event: Any, events: Iterator[Any], depth: int) -> Node:
    """The node that begins with an event; `depth` is how many levels there may be from here."""
    line = event.start_mark.line + 1
    if event.anchor or isinstance(event, yaml.AliasEvent):
        raise BadStudy(f"line {line}: anchors and aliases are not read")
    if event.tag:
        raise BadStudy(f"line {line}: the tag {_shown(event.tag)} is not read")
    if isinstance(event, yaml.ScalarEvent):
        return Node(line, event.value)
    if not depth:
        raise BadStudy(f"line {line}: nested too deep")

    if isinstance(event, yaml.SequenceStartEvent):
        items = _until(events, yaml.SequenceEndEvent)
        return Node(line, [_node(item, events, depth - 1) for item in items])
    entries: dict[str, Node] = {}
    for first in _until(events, yaml.MappingEndEvent):
        key = _node(first, events, 0).content
        if key in entries:
            raise BadStudy(f"line {first.start_mark.line + 1}: {_shown(key)} is there twice")
        entries[key] = _node(next(events), events, depth - 1)
    return Node(line, entries)


def _until(events: Iterator[Any], end: type) -> Iterator[Any]:
    return itertools.takewhile(lambda event: not isinstance(event, end), events)


# --- Configs --------------------------------------------------------------------------------------


def _config(fields: dict[str, Any]) -> Config:
    """The config of these fields, or the first fault in one line."""
    try:
        return Config.model_validate(fields)
    except ValidationError as error:
        raise BadStudy(fault(error)) from error
