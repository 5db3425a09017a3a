"""Which runs exist: factors x levels x seeds. Knows no torch."""

import itertools
import math
import re
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from dcgan.cli import BadInput
from dcgan.config import Config, fault

HERE = Path(__file__).parent
OPTIONS = ("seed", "data", "data_sha256")  # fields of Config that differ or come with the data
NATIVE_DATA = "cifar10"  # what the study is about; a study of other data says so in its name
MOST_RUNS = 10_000

# How a number is written. 1e4 and 1_000 are no whole numbers here, nor is 010 any number.
WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})", re.ASCII)
NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)?(\.[0-9]+)?(?<=[0-9])(e[+-]?[0-9]+)?", re.I | re.ASCII)
ARM_NAME = r"^[a-z0-9][a-z0-9.-]{0,31}$"


class BadStudy(BadInput, ValueError):
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


class ScaleFile(BaseModel, extra="forbid"):
    """scales/*.yaml: how many seeds, and the fields of Config that make the scale."""

    seeds: PositiveInt
    config: dict[str, Any]

    @field_validator("config")
    @classmethod
    def _has_fields(cls, texts: dict[str, Any]) -> dict[str, Any]:
        return _settings(texts, _settable())


class StudyFile(BaseModel, extra="forbid"):
    """studies/*.yaml: levels of fields of Config to be crossed, or arms and what each one sets."""

    factors: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    arms: dict[Annotated[str, Field(pattern=ARM_NAME)], dict[str, Any]] = {}

    @field_validator("factors")
    @classmethod
    def _has_levels(cls, texts: dict[str, list[Any]]) -> dict[str, list[Any]]:
        levels = {
            key: [_settings({key: text}, _variable())[key] for text in column]
            for key, column in texts.items()
        }
        if twice := [key for key, column in levels.items() if len({*column}) < len(column)]:
            raise BadStudy(f"{twice[0]} has a level twice")
        return levels

    @field_validator("arms")
    @classmethod
    def _has_arms(cls, texts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        arms = {name: _settings(fields, _variable()) for name, fields in texts.items()}
        for one, other in itertools.combinations(arms, 2):
            if arms[one] == arms[other]:
                raise BadStudy(f"{other} sets what {one} sets")
        return arms

    @model_validator(mode="after")
    def _has_one_kind(self) -> Self:
        if bool(self.factors) == bool(self.arms):
            raise BadStudy("a study has factors, or it has arms")
        return self


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
    file = read(HERE / f"studies/{name}.yaml", StudyFile, _Text)
    factors, arms = file.factors or {"arm": [*file.arms]}, file.arms
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


def merge(stored: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
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


def keys() -> list[tuple[str, str, str]]:
    """The keys of `key=value`: each with the values that it takes, and its default."""
    rows = []
    for key in _settable():
        field = Config.model_fields[key]
        kind = {int: "whole number", float: "number", str: "text"}.get(field.annotation, "")
        values = "|".join(map(str, get_args(field.annotation))) or kind
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        bounds = [
            f"{sign} {bound:g}"
            for name, sign in signs.items()
            for bound in (getattr(each, name, None) for each in field.metadata)
            if bound is not None
        ]
        rows.append((key, " ".join([values, " and ".join(bounds)]).strip(), str(field.default)))
    return rows


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


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no key stands twice; the usual loader keeps the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise BadStudy(f"line {node.start_mark.line + 1}: {twice[0]} is there twice")
        return super().construct_mapping(node, deep)


class _Text(_UniqueKeys):
    """YAML whose scalars stay text, for their fields to read."""

    yaml_implicit_resolvers = {}  # noqa: RUF012


def read(path: Path, kind: Any, loader: type[_UniqueKeys] = _UniqueKeys) -> Any:
    """A YAML file as a type of pydantic's; raises BadStudy with its name and the key, or line."""
    name = "/".join(path.parts[-2:])
    try:
        return TypeAdapter(kind).validate_python(yaml.load(path.read_text("utf-8"), loader))
    except ValidationError as error:
        first = error.errors()[0]
        keys = "".join(f"{part}: " for part in first["loc"])
        raise BadStudy(f"{name}: {keys}{first['msg'].removeprefix('Value error, ')}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise BadStudy(f"{name}: {' '.join(str(error).split())}") from error


def _scale(scale: str) -> tuple[int, dict[str, Any]]:
    """The seeds of a scale, and the fields of Config that it sets; raises BadStudy."""
    if scale not in scales():
        raise BadStudy(f"scale {scale!r} does not exist: choose from {', '.join(scales())}")
    file = read(HERE / f"scales/{scale}.yaml", ScaleFile, _Text)
    return file.seeds, file.config


def _settings(texts: dict[str, Any], known: list[str]) -> dict[str, Any]:
    """What the texts of a mapping mean as fields of Config."""
    for key, text in texts.items():
        if key not in known:
            raise BadStudy(f"{_shown(key)} is not a key: {', '.join(known)}")
        if not isinstance(text, str):
            raise BadStudy(f"{key} is not a single value")
    return {key: _value(key, text) for key, text in texts.items()}


# --- Configs --------------------------------------------------------------------------------------


def _config(fields: dict[str, Any]) -> Config:
    """The config of these fields, or the first fault in one line."""
    try:
        return Config.model_validate(fields)
    except ValidationError as error:
        raise BadStudy(fault(error)) from error
