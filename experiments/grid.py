"""Which runs exist: factors x levels x seeds. Knows no torch."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError, model_validator

from dcgan.cli import BadInput, one_line
from dcgan.config import Config, fault

HERE = Path(__file__).parent
OPTIONS = ("seed", "data", "data_sha256")  # fields of Config that differ or come with the data
SETTABLE = [key for key in Config.model_fields if key not in OPTIONS]  # by a word, scale or study
NATIVE_DATA = "cifar10"  # what the study is about; a study of other data says so in its name


class BadStudy(BadInput, ValueError):
    """A study that cannot be run, said in one line."""


@dataclass(frozen=True)
class Study:
    """A grid over some data: fields of Config, all levels crossed, or the one factor `arm`."""

    name: str
    scale: str
    factors: dict[str, list[Any]]
    seeds: list[int]
    settings: dict[str, Any]  # the fields of Config that every run shares
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


def levels(name: str) -> str:
    """An arm's or a run's name without those of the factors: `none,conv,128 seed=0`."""
    arm, space, seed = name.partition(" ")
    return ",".join(part.partition("=")[2] for part in arm.split(",")) + space + seed


def factors(arm: str) -> str:
    """What an arm's name is made of: `norm,head,batch`."""
    return ",".join(part.partition("=")[0] for part in arm.split(","))


def names(kind: str) -> list[str]:
    """All "studies" or "scales"."""
    return sorted(path.stem for path in (HERE / kind).glob("*.yaml"))


def about(study: str) -> str:
    """What a study is: the comment that its file begins with."""
    lines = (HERE / "studies" / f"{study}.yaml").read_text("utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.removeprefix("# ") for line in comment)


def define(name: str, scale: str, seeds: int | None = None, overrides: Iterable[str] = ()) -> Study:
    """A study at a scale; each word `key=value` narrows a factor or sets a field of Config.

    A factor takes one or more of its levels (`batch=128,512`), `seed` any seeds, or those below
    `seeds` where it is given; any other field takes a value for all runs. Raises BadStudy.
    """
    study, usual = _read("studies", name, StudyFile), _read("scales", scale, ScaleFile)
    factors = {**study.factors} or {"arm": [*study.arms]}
    given = _by_key(overrides, [*dict.fromkeys([*factors, "seed", *SETTABLE])])
    for key in factors.keys() & given.keys():
        factors[key] = _narrowed(name, key, factors[key], given.pop(key))
    chosen = [*range(usual.seeds if seeds is None else seeds)]
    if "seed" in given:
        chosen = _seeds(given.pop("seed"), seeds)
    settings = usual.config | {key: _value(key, text) for key, text in given.items()}
    return Study(name, scale, factors, chosen, settings, study.arms)


def stored(info: dict[str, Any]) -> Study:
    """The study that a study.json describes."""
    keys = ("study", "scale", "factors", "seeds", "settings")
    return Study(*(info[key] for key in keys), info.get("arms", {}))


def has_changed(study: Study) -> bool:
    """Whether the file of a stored study has other factors now, or lacks some of its levels."""
    known = define(study.name, study.scale).factors
    same = known.keys() == study.factors.keys()
    return not same or any({*levels} - {*known[key]} for key, levels in study.factors.items())


def differences(study: Study, other: Study) -> list[tuple[str, Any, Any]]:
    """Each setting of which two studies have other values, `epochs` left out, and the arms."""
    values, others = (
        Config.model_construct(**x.settings).model_dump(exclude={"epochs"}) | {"arms": x.arms}
        for x in (study, other)
    )
    return [(key, value, others[key]) for key, value in values.items() if value != others[key]]


def fit(study: Study, data: str, data_sha256: str, available: int) -> Study:
    """The study on some data: no more images than there are."""
    settings = study.settings | {"data": data, "data_sha256": data_sha256}
    for key in "images", "reference_images":
        settings[key] = min(settings.get(key, Config.model_fields[key].default), available)
    return replace(study, settings=settings)


@cache
def epochs_of(scale: str) -> int:
    """The length of a run at a scale, where no word sets another one. Raises BadStudy."""
    settings = _read("scales", scale, ScaleFile).config
    return settings.get("epochs", Config.model_fields["epochs"].default)


def runs(study: Study) -> list[Run]:
    """Every run, all cells of a seed before the next seed. Raises BadStudy."""
    made = []
    for seed, *levels in itertools.product(study.seeds, *study.factors.values()):
        cell = dict(zip(study.factors, levels, strict=True))
        set_here = study.arms[cell["arm"]] if study.arms else cell
        try:
            config = Config.model_validate(study.settings | set_here | {"seed": seed})
        except ValidationError as error:
            raise BadStudy(fault(error)) from error
        made.append(Run(config, ",".join(f"{factor}={level}" for factor, level in cell.items())))
    return made


def merge(stored: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """What two study.json of one study planned and used together: levels, seeds, epochs, commits.

    Of two lengths the longer one is planned. The claims are those that the stored one started with,
    if it says which.
    """
    levels = define(stored["study"], stored["scale"]).factors
    used = {key: stored["factors"][key] + added["factors"][key] for key in levels}
    commits = [*stored["commit"].split(", "), *added["commit"].split(", ")]
    claims = {"claims": stored.get("claims", {})} if "claims" in stored | added else {}
    epochs = max(info["settings"]["epochs"] for info in (stored, added))
    return {
        "factors": {key: [x for x in levels[key] if x in used[key]] for key in levels},
        "seeds": sorted({*stored["seeds"], *added["seeds"]}),
        "settings": stored["settings"] | added["settings"] | {"epochs": epochs},
        "commit": ", ".join(dict.fromkeys(commits)),
        **claims,
    }


def differing(info: dict[str, Any]) -> list[str]:
    """The words `key=value` that turn the settings of a scale into those of a study.json."""
    data = info["data"]
    plain = fit(define(info["study"], info["scale"]), data["name"], data["sha256"], data["images"])
    usual = Config.model_construct(**plain.settings).model_dump()
    own = {key: x for key, x in info["settings"].items() if key not in OPTIONS}
    return [f"{key}={x}" for key, x in own.items() if x != usual.get(key)]


def keys() -> list[tuple[str, str, str]]:
    """The keys of `key=value`: each with the values that it takes, and its default."""
    kinds = {"integer": "whole number", "number": "number", "string": "text"}
    schemas, rows = Config.model_json_schema()["properties"], []
    for key in SETTABLE:
        values = "|".join(map(str, schemas[key].get("enum", []))) or kinds[schemas[key]["type"]]
        rows.append((key, values, str(schemas[key]["default"])))
    return rows


def _by_key(overrides: Iterable[str], known: list[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or key not in known:
            raise BadStudy(f"{word!r} is not key=value with a key among {', '.join(known)}")
        if key in given:
            raise BadStudy(f"{key} is given twice")
        given[key] = text
    return given


def _narrowed(study: str, key: str, levels: list[Any], text: str) -> list[Any]:
    """The levels of a factor that a text names, in the study's order."""
    by_name, chosen = {str(level): level for level in levels}, text.split(",")
    for name in chosen:
        if name not in by_name:
            raise BadStudy(f"{key}={name} is not a level of {study}: {', '.join(by_name)}")
    return [level for name, level in by_name.items() if name in chosen]


def _seeds(text: str, count: int | None) -> list[int]:
    """The seeds that a text names, of the first `count` where that is given."""
    chosen = {_value("seed", part) for part in text.split(",")}
    if count and max(chosen) >= count:
        raise BadStudy(f"seed={max(chosen)} is not one of --seeds {count}: 0 to {count - 1}")
    return sorted(chosen)


def _value(key: str, text: str) -> Any:
    """What a text means as the value of a field of Config, which checks it; raises BadStudy."""
    kind = type(Config.model_fields[key].default)  # int, float or str
    try:
        return kind(text)
    except ValueError as error:
        raise BadStudy(f"{key}={text} is not a {'whole ' * (kind is int)}number") from error


def _settable(fields: dict[str, Any]) -> dict[str, Any]:
    if unknown := [key for key in fields if key not in SETTABLE]:
        raise BadStudy(f"{unknown[0]} is not a key: {', '.join(SETTABLE)}")
    return fields


Settings = Annotated[dict[str, Any], AfterValidator(_settable)]  # fields of Config


class ScaleFile(BaseModel, extra="forbid"):
    """scales/*.yaml: how many seeds, and the fields of Config that make the scale."""

    seeds: int = Field(ge=1)
    config: Settings


class StudyFile(BaseModel, extra="forbid"):
    """studies/*.yaml: levels of fields of Config to be crossed, or arms and what each one sets."""

    factors: Annotated[
        dict[str, Annotated[list[Any], Field(min_length=1)]], AfterValidator(_settable)
    ] = {}
    arms: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,31}$")], Settings] = {}

    @model_validator(mode="after")
    def _is_a_grid(self) -> Self:
        if bool(self.factors) == bool(self.arms):
            raise BadStudy("a study has factors, or it has arms")
        changed = {*self.factors, *itertools.chain(*self.arms.values())}
        if "epochs" in changed:
            raise BadStudy("epochs is no factor: a longer run is the same run")
        if "resolution" in changed:
            raise BadStudy("resolution is no factor: scores of other images cannot be compared")
        return self


def _read(kind: str, name: str, schema: type) -> Any:
    """One file of the "studies" or "scales"; raises BadStudy."""
    if name not in (known := names(kind)):
        raise BadStudy(f"{name!r} is not among the {kind}: {', '.join(known)}")
    return read(HERE / kind / f"{name}.yaml", schema)


class Loader(yaml.CSafeLoader):
    """YAML in which 2e-4 is a number, as it is in YAML 1.2."""


EXPONENT = re.compile(r"[-+]?[0-9.]+e[-+]?[0-9]+$", re.IGNORECASE)
Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, [*"-+.0123456789"])


def read(path: Path, schema: Any) -> Any:
    """The content of a YAML file by its schema; raises BadInput with the key or the line."""
    name = "/".join(path.parts[-2:])
    try:
        return TypeAdapter(schema).validate_python(yaml.load(path.read_text("utf-8"), Loader))
    except ValidationError as error:
        first = error.errors()[0]
        keys = "".join(f"{part}: " for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise BadInput(f"{name}: {keys}{said}") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{name}: {one_line(error)}") from error
