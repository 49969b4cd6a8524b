"""Settings: files in conf/ and LAKEHOUSE_* variables, parsed once into one typed object."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from dotenv import load_dotenv
from pydantic import (
    Field,
    PlainValidator,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from lakehouse.errors import SettingsError, redact_password
from lakehouse.project import find_root
from lakehouse.resources import find_spark_file, list_spark_files
from lakehouse.storage.location import Location
from lakehouse.storage.s3 import S3Path

PREFIX = "LAKEHOUSE_"
_VARIABLE = re.compile(r"\$\{(\w+)\}")
# Characters of a path that have a meaning in a URL of delta-rs or in a pattern of Spark.
_RESERVED_CHARACTERS = set("%[]{}*?^|\\")


def _parse_location(text: str | Location, info: ValidationInfo) -> Location:
    if isinstance(text, S3Path):
        return text
    scheme, _, rest = str(text).rpartition("://")
    if scheme in ("s3", "s3a"):
        return S3Path.parse(f"s3://{rest}")
    if scheme:
        raise ValueError("a lake must be in a folder or in s3://bucket/prefix")
    folder = Path(info.data["project"], Path(text).expanduser()).resolve()
    if reserved := sorted({*str(folder)} & _RESERVED_CHARACTERS):
        raise ValueError(
            f"the path has {' '.join(reserved)}, which readers of Delta tables interpret. Choose another path"
        )
    return folder


# Names are data. A module to import, or a part of a table's or an experiment's name, must match a strict pattern.
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\z")]
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*\z")]


@dataclass(frozen=True)
class SparkAdditions:
    """Additions of an entry point to the Spark properties of the profile.

    Attributes:
        overlays: Names of property files on top of the profile's, in order: later ones win.
        properties: Properties on top of all files.
        before_session: Called before a session starts; they raise SessionError if the session could not work.
    """

    overlays: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    before_session: tuple[Callable[[], object], ...] = ()


class Settings(BaseSettings):
    """The settings of one process. `load` reads them."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    project: Path = Field(default_factory=find_root)
    """The project's folder. By default the nearest one with `conf/base.yml`."""
    profile: str = "local"
    """The profile: its file in `conf/` overrides `base.yml`."""
    root: Annotated[Location, PlainValidator(_parse_location)]
    """The place of the landing zone, lake, MLflow's database and logs. A relative path starts at the project."""
    log_folder: Path | None = None
    """The local folder of logs. By default `logs` below the root. Required where the root is a bucket."""
    mlflow: str = ""
    """The address of an MLflow server. By default MLflow is an SQLite file below the root. Required for a bucket."""
    spark: str
    """The file of Spark properties in `conf/spark`. The platform's file of that name gives those that it lacks."""
    spark_master: str = ""
    """Spark's master, such as `spark://host:7077`. By default Spark runs in the process that starts it."""
    gpu: Literal["", "on", "explain"] = ""
    """A GPU for Spark. With `explain`, the log lists what would run on one."""
    gpu_jar: Path | None = None
    """The jar of the RAPIDS plugin, for machines without a network. By default it is downloaded."""
    gpu_training: Literal["", "on"] = ""
    """A GPU for training: pandas, scikit-learn and Spark's MLlib by RAPIDS."""
    declarations: tuple[ModuleName, ...]
    """The packages and modules that declare sources and tables."""
    models: dict[ModelName, ModuleName] = Field(default_factory=dict)
    """The modules that declare models, by name. Models of one task compete for its champion."""
    example: ModuleName | None = None
    """The module that runs the commands of the example."""
    page: ModuleName | None = None
    """The module of the web page, which `lakehouse app` has Streamlit run."""
    parallel_tables: int = Field(default=2, ge=1, le=16)
    """The number of independent tables that are written at the same time."""
    max_unpacked_bytes: int = Field(default=8 << 30, ge=1)
    """The number of bytes to which a landed file may unpack. A larger one is rejected while it is read."""
    max_unpacked_ratio: int = Field(default=200, ge=1)
    """The multiple of its size to which a landed file may unpack. Up to 1 MiB is always accepted."""
    strict: bool = False
    """A run exits with 3 if files are rejected or rows quarantined, as with `lakehouse run --strict`."""
    lock_wait_seconds: float = Field(default=0, ge=0)
    """The time that a run waits for another run on the same lake."""
    foreign_commits: Literal["warn", "refuse"] = "warn"
    """Commits of other writers in a table. A run names them, and with `refuse` takes none of their rows."""
    lineage: str = Field(default="", pattern="^(https?://[^@]*)?$")
    """The address of an OpenLineage server. By default events go to `lineage.jsonl` beside the logs."""
    dask: str = Field(default="", pattern=r"^((tcp|tls)://[^@\s]+)?$")
    """The address of a Dask scheduler for `lakehouse tune --on dask`. By default workers start on this machine."""
    _spark_additions: SparkAdditions = PrivateAttr(default_factory=SparkAdditions)

    @field_validator("spark")
    @classmethod
    def _check_spark(cls, name: str, info: ValidationInfo) -> str:
        own = (file.name for file in info.data["project"].joinpath("conf", "spark").glob("*.conf"))
        allowed = sorted(file for file in {*own, *list_spark_files()} if not file.startswith("gpu"))
        if name not in allowed:
            raise ValueError(f"not one of the files in conf/spark: {', '.join(allowed)}")
        return name

    @model_validator(mode="after")
    def _check_combinations(self) -> Settings:
        if isinstance(self.root, S3Path) and not (self.log_folder and self.mlflow):
            raise ValueError(
                "a root in a bucket needs log_folder, a local folder, and mlflow, the address of a tracking server"
            )
        if self.gpu_training and self.spark_master and self.gpu != "on":
            raise ValueError(
                "gpu_training on a cluster needs LAKEHOUSE_GPU=on as well, which assigns the GPUs to executors"
            )
        return self

    @property
    def landing(self) -> Location:
        return self.root / "landing"

    @property
    def lake(self) -> Location:
        return self.root / "lake"

    @property
    def logs(self) -> Path:
        """The local folder for the log of each run, by default below the root."""
        return self.project / (self.log_folder or f"{self.root}/logs")

    @property
    def trainings(self) -> Path:
        """The local folder for trainings that MLflow does not have yet."""
        return self.logs / "trainings"

    @property
    def conf(self) -> Path:
        return self.project / "conf"

    def find_spark_files(self, name: str) -> list[Path]:
        """Return the files of that name of Spark's configuration: the platform's, then the project's."""
        files = (find_spark_file(name), self.conf / "spark" / name)
        return [file for file in dict.fromkeys(files) if file.exists()]

    @property
    def spark_additions(self) -> SparkAdditions:
        return self._spark_additions

    def with_spark(self, additions: SparkAdditions) -> Settings:
        """Return a copy with these additions in place of those that an earlier call made."""
        copy = self.model_copy()
        copy._spark_additions = additions
        return copy

    @property
    def tracking_uri(self) -> str:
        return self.mlflow or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> str:
        """The URI below which new experiments store their files; empty where a tracking server decides."""
        return "" if self.mlflow else Path(str(self.root), "mlartifacts").as_uri()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        *sources: PydanticBaseSettingsSource,
        **sources_by_name: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        profile = os.environ.get(f"{PREFIX}PROFILE", "local")
        conf = Path(sources_by_name["init_settings"]().get("project") or find_root(), "conf")
        files = [conf / f"{profile}.yml", conf / "base.yml"]
        return (
            sources_by_name["init_settings"],
            sources_by_name["env_settings"],
            *(InitSettingsSource(settings_cls, _read_file(file)) for file in files if file.exists()),
        )


def _read_file(file: Path) -> dict[str, Any]:
    """Read a settings file without the settings that the environment overrides.

    In a value, ${NAME} stands for an environment variable.
    """
    content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    values = {key: value for key, value in content.items() if f"{PREFIX}{key.upper()}" not in os.environ}
    names = {name for value in values.values() if isinstance(value, str) for name in _VARIABLE.findall(value)}
    if missing := sorted(name for name in names if not os.environ.get(name)):
        raise SettingsError(
            f"{file.name} needs {', '.join(missing)} in the environment or in .env. Set them, or run `make env`."
        )
    return {
        key: _VARIABLE.sub(lambda match: os.environ[match[1]], value) if isinstance(value, str) else value
        for key, value in values.items()
    }


def load(**overrides: Any) -> Settings:
    """Read the settings. First set the variables of .env that the environment of this process lacks.

    Raises:
        SettingsError: A profile or key is unknown, or a value is missing or not allowed. Every problem is listed.
    """
    project = overrides.setdefault("project", find_root())
    load_dotenv(project / ".env")
    profile = os.environ.get(f"{PREFIX}PROFILE", "local")
    profiles = sorted(p.stem for p in project.joinpath("conf").glob("*.yml") if p.stem != "base")
    if profile not in profiles:
        raise SettingsError(f"{PREFIX}PROFILE={profile!r} is not a profile; conf/ has: {', '.join(profiles)}.")
    allowed = sorted(f"{PREFIX}{name.upper()}" for name in Settings.model_fields)
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in allowed)
    if unknown:
        raise SettingsError(f"Unknown setting {', '.join(unknown)}; allowed: {', '.join(allowed)}.")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError(_explain(error.errors())) from None
    # A settings file is no YAML, or a variable is no JSON.
    except (ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"The settings cannot be read: {error}") from None


def _explain(errors: Iterable[Any]) -> str:
    lines = []
    for error in errors:
        key = ".".join(str(part) for part in error["loc"])
        if error["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown setting; allowed: {', '.join(Settings.model_fields)}")
        elif error["type"] == "missing":
            lines.append(f"{key}: missing; set it in conf/base.yml or {PREFIX}{key.upper()}")
        elif not key:  # The error concerns several settings. Their values may be secrets.
            lines.append(error["msg"])
        else:
            lines.append(f"{key}={redact_password(repr(error['input']))}: {error['msg']}")
    return "The settings are wrong:\n  - " + "\n  - ".join(lines)
