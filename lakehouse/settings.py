"""Settings: files in conf/ and LAKEHOUSE_* variables, read once into one typed object."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource
from yaml import YAMLError

from lakehouse.errors import SettingsError

PROJECT = Path(__file__).resolve().parent.parent
CONF = PROJECT / "conf"
PREFIX = "LAKEHOUSE_"


class Settings(BaseSettings):
    """The settings of one process; `load` reads them."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    profile: str = "local"
    root: Path
    spark: str
    declarations: tuple[str, ...]
    models: dict[str, str] = Field(default_factory=dict)
    example: str | None = None
    parallel_tables: int = Field(default=2, ge=1, le=16)
    lock_wait_seconds: float = Field(default=0, ge=0)

    @field_validator("root")
    @classmethod
    def _from_project(cls, root: Path) -> Path:
        return (PROJECT / root.expanduser()).resolve()

    @field_validator("spark")
    @classmethod
    def _shipped(cls, name: str) -> str:
        shipped = sorted(p.name for p in (CONF / "spark").glob("*.conf"))
        if name not in shipped:
            raise ValueError(f"not one of the files in conf/spark: {', '.join(shipped)}")
        return name

    @property
    def landing(self) -> Path:
        return self.root / "landing"

    @property
    def lake(self) -> Path:
        return self.root / "lake"

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def spark_conf(self) -> Path:
        return CONF / "spark" / self.spark

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> str:
        return (self.root / "mlartifacts").as_uri()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **named: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        profile = os.environ.get(f"{PREFIX}PROFILE", "local")
        files = [CONF / f"{profile}.yml", CONF / "base.yml"]
        return (
            named["init_settings"],
            named["env_settings"],
            *(YamlConfigSettingsSource(settings_cls, yaml_file=file) for file in files),
        )


def load(**overrides: Any) -> Settings:
    """Read the settings.

    Raises:
        SettingsError: a profile or key is unknown, a value is missing or not allowed; every problem is listed.
    """
    profile = os.environ.get(f"{PREFIX}PROFILE", "local")
    profiles = sorted(p.stem for p in CONF.glob("*.yml") if p.stem != "base")
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
    except (ValueError, YAMLError) as error:
        raise SettingsError(f"The settings cannot be read: {error}") from None


def _explain(errors: Iterable[Any]) -> str:
    lines = []
    for error in errors:
        key = ".".join(str(part) for part in error["loc"])
        if error["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown setting; allowed: {', '.join(Settings.model_fields)}")
        elif error["type"] == "missing":
            lines.append(f"{key}: missing; set it in conf/base.yml or {PREFIX}{key.upper()}")
        else:
            lines.append(f"{key}={error['input']!r}: {error['msg']}")
    return "The settings are wrong:\n  - " + "\n  - ".join(lines)
