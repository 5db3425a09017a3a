"""Which runs exist: factors x levels x seeds. Knows no torch."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from dcgan.config import Config

HERE = Path(__file__).parent
OPTIONS = ("seed", "data", "data_sha256")  # fields of Config that --seeds and --data set
NATIVE_DATA = "cifar10"  # what the study is about; a study of other data says so in its name


class BadStudy(Exception):
    """A study that cannot be run, said in one line."""


@dataclass(frozen=True)
class Study:
    """A grid over some data; `settings` are the fields of Config that every run shares."""

    name: str
    scale: str
    factors: dict[str, list[Any]]
    seeds: list[int]
    settings: dict[str, Any]

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


def define(
    name: str, scale: str, seeds: int | None = None, words: list[str] | None = None
) -> Study:
    """A study at a scale; each word `key=value` narrows a factor or sets a field of Config.

    A factor takes one or more of its levels (`batch=128,512`); any other field of Config takes a
    value for all runs. Raises BadStudy.
    """
    if name not in studies():
        raise BadStudy(f"study {name!r} does not exist: choose from {', '.join(studies())}")
    if scale not in scales():
        raise BadStudy(f"scale {scale!r} does not exist: choose from {', '.join(scales())}")
    if seeds is not None and seeds < 1:
        raise BadStudy(f"seeds={seeds} is not a positive number")
    size = yaml.safe_load((HERE / "scales" / f"{scale}.yaml").read_text())
    factors = yaml.safe_load((HERE / "studies" / f"{name}.yaml").read_text())["factors"]
    study = Study(name, scale, factors, list(range(seeds or size["seeds"])), size["config"])
    for word in words or []:
        study = _apply(study, word)
    return study


def fit(study: Study, data: str, data_sha256: str, available: int) -> Study:
    """The study on some data: no more images than there are."""
    settings = study.settings | {"data": data, "data_sha256": data_sha256}
    for key in "images", "reference_images":
        settings[key] = min(settings[key], available)
    return replace(study, settings=settings)


def runs(study: Study) -> list[Run]:
    """Every run, all cells of a seed before the next seed. Raises BadStudy."""
    cells = list(itertools.product(*study.factors.values()))
    arms = [dict(zip(study.factors, levels, strict=True)) for levels in cells]
    return [
        Run(
            _config(study.settings | arm | {"seed": seed}),
            ",".join(f"{factor}={level}" for factor, level in arm.items()),
        )
        for seed in study.seeds
        for arm in arms
    ]


def _apply(study: Study, word: str) -> Study:
    key, equals, value = word.partition("=")
    known = [*study.factors, *(k for k in Config.model_fields if k not in study.factors)]
    known = [k for k in known if k not in OPTIONS]
    if not equals or key not in known:
        raise BadStudy(f"{word!r} is not key=value with a key among {', '.join(known)}")
    if key not in study.factors:
        return replace(study, settings=study.settings | {key: _value(key, value)})

    levels = {str(level): level for level in study.factors[key]}
    for chosen in value.split(","):
        if chosen not in levels:
            raise BadStudy(f"{key}={chosen} is not a level of {study.name}: {', '.join(levels)}")
    kept = [level for text, level in levels.items() if text in value.split(",")]
    return replace(study, factors=study.factors | {key: kept})


def _value(key: str, text: str) -> Any:
    """The value of one field of Config, checked on its own."""
    field = Config.model_fields[key]
    try:
        return TypeAdapter(Annotated[field.annotation, field]).validate_python(text)
    except ValidationError as error:
        raise BadStudy(f"{key}={text}: {error.errors()[0]['msg']}") from error


def _config(fields: dict[str, Any]) -> Config:
    """The config of these fields, or the first fault in one line."""
    try:
        return Config.model_validate(fields)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        place = f"{key}={fault['input']!r}: " if key else ""
        raise BadStudy(place + fault["msg"].removeprefix("Value error, ")) from error
