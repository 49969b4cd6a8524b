"""Settings: files in conf/ and LAKEHOUSE_* variables, read once into one typed object."""

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
from lakehouse.storage.location import Location
from lakehouse.storage.s3 import S3Path

PREFIX = "LAKEHOUSE_"
_VARIABLE = re.compile(r"\$\{(\w+)\}")


# In a path: a delta-rs URL's own characters, and Spark's patterns.
_RESERVED_CHARACTERS = set("%[]{}*?^|\\")


def _parse_location(text: str | Location, info: ValidationInfo) -> Location:
    if isinstance(text, S3Path):
        return text
    scheme, _, rest = str(text).rpartition("://")
    if scheme in ("s3", "s3a"):
        return S3Path.parse(f"s3://{rest}")
    if scheme:
        raise ValueError("a lake lies in a folder or in s3://bucket/prefix")
    folder = Path(info.data["project"], Path(text).expanduser()).resolve()
    if odd := sorted({*str(folder)} & _RESERVED_CHARACTERS):
        raise ValueError(
            f"its path has {' '.join(odd)}, which readers of Delta tables take for something else: choose another"
        )
    return folder


# Names are data: what is imported, or becomes part of a table's or an experiment's name, is a name and nothing else.
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\z")]
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*\z")]


@dataclass(frozen=True)
class SparkAdditions:
    """What an entry point adds to the Spark properties of the profile.

    Attributes:
        overlays: Property files on top of the profile's, in order: later ones win.
        properties: Properties on top of all files.
        before_session: Called before a session starts; they raise SessionError if the session could not work.
    """

    overlays: tuple[Path, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    before_session: tuple[Callable[[], object], ...] = ()


class Settings(BaseSettings):
    """The settings of one process; `load` reads them."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    project: Path = Field(default_factory=find_root)
    profile: str = "local"
    root: Annotated[Location, PlainValidator(_parse_location)]
    log_folder: Path | None = None
    mlflow: str = ""
    spark: str
    spark_master: str = ""
    gpu: Literal["", "on", "explain"] = ""
    gpu_jar: Path | None = None
    gpu_training: Literal["", "on"] = ""
    declarations: tuple[ModuleName, ...]
    models: dict[ModelName, ModuleName] = Field(default_factory=dict)
    example: ModuleName | None = None
    parallel_tables: int = Field(default=2, ge=1, le=16)
    lock_wait_seconds: float = Field(default=0, ge=0)
    lineage: str = Field(default="", pattern="^(https?://[^@]*)?$")
    dask: str = Field(default="", pattern=r"^((tcp|tls)://[^@\s]+)?$")
    _spark_additions: SparkAdditions = PrivateAttr(default_factory=SparkAdditions)

    @field_validator("spark")
    @classmethod
    def _check_spark(cls, name: str, info: ValidationInfo) -> str:
        folder = info.data["project"] / "conf" / "spark"
        shipped = sorted(p.name for p in folder.glob("*.conf") if not p.name.startswith("gpu"))
        if name not in shipped:
            raise ValueError(f"not one of the files in conf/spark: {', '.join(shipped)}")
        return name

    @model_validator(mode="after")
    def _check_combinations(self) -> Settings:
        if isinstance(self.root, S3Path) and not (self.log_folder and self.mlflow):
            raise ValueError(
                "a root in a bucket needs log_folder, a local folder, and mlflow, a tracking server's address"
            )
        if self.gpu_training and self.spark_master and self.gpu != "on":
            raise ValueError(
                "gpu_training on a cluster needs LAKEHOUSE_GPU=on as well, which hands its GPUs out to executors"
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
        """A local folder for the log of each run, by default below the root."""
        return self.project / (self.log_folder or f"{self.root}/logs")

    @property
    def trainings(self) -> Path:
        """A local folder for trainings that MLflow does not have yet."""
        return self.logs / "trainings"

    @property
    def conf(self) -> Path:
        return self.project / "conf"

    @property
    def spark_conf(self) -> Path:
        return self.conf / "spark" / self.spark

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
        """The URI below which new experiments keep their files; empty where a tracking server decides."""
        return "" if self.mlflow else Path(str(self.root), "mlartifacts").as_uri()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **named: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        profile = os.environ.get(f"{PREFIX}PROFILE", "local")
        conf = Path(named["init_settings"]().get("project") or find_root(), "conf")
        files = [conf / f"{profile}.yml", conf / "base.yml"]
        return (
            named["init_settings"],
            named["env_settings"],
            *(InitSettingsSource(settings_cls, _read_file(file)) for file in files if file.exists()),
        )


def _read_file(file: Path) -> dict[str, Any]:
    """A settings file, in whose values ${NAME} stands for a variable of the environment, without what the environment sets itself."""
    said = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    said = {key: value for key, value in said.items() if f"{PREFIX}{key.upper()}" not in os.environ}
    names = {name for value in said.values() if isinstance(value, str) for name in _VARIABLE.findall(value)}
    if missing := sorted(name for name in names if not os.environ.get(name)):
        raise SettingsError(
            f"{file.name} needs {', '.join(missing)} in the environment or in .env (`make env` writes one)."
        )
    return {k: _VARIABLE.sub(lambda one: os.environ[one[1]], v) if isinstance(v, str) else v for k, v in said.items()}


def load(**overrides: Any) -> Settings:
    """Read the settings, and for this process the variables in .env that the environment does not have.

    Raises:
        SettingsError: a profile or key is unknown, a value is missing or not allowed; every problem is listed.
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
    # A settings file that is not YAML, a variable that is not the JSON it should be.
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
        elif not key:  # of several settings together: their values may hold secrets
            lines.append(error["msg"])
        else:
            lines.append(f"{key}={redact_password(repr(error['input']))}: {error['msg']}")
    return "The settings are wrong:\n  - " + "\n  - ".join(lines)
