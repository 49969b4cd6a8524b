"""Additions of LAKEHOUSE_GPU to the settings of Spark: property files and the plugin's jar."""

from __future__ import annotations

from functools import partial

from lakehouse.gpu.device import require_device
from lakehouse.gpu.plugin import fetch_jar, get_jar_path
from lakehouse.settings import Settings, SparkAdditions


def configure_spark(settings: Settings) -> Settings:
    """Return the settings with the property files and the jar that `settings.gpu` asks for.

    Nothing is fetched or checked before a session starts: most commands start none.
    """
    if not settings.gpu:
        return settings
    # On the class path: Spark would copy a jar of spark.jars.packages, all of its gigabyte, whenever a session starts.
    jar = str(get_jar_path(settings))
    return settings.with_spark(
        SparkAdditions(
            overlays=_list_overlays(settings),
            properties={"spark.driver.extraClassPath": jar, "spark.executor.extraClassPath": jar},
            before_session=(partial(_prepare_session, settings),),
        )
    )


def _list_overlays(settings: Settings) -> tuple[str, ...]:
    if settings.gpu == "explain":
        return ("gpu.conf", "gpu-explain.conf")
    names = ["gpu.conf", f"gpu-{settings.spark}", *(["gpu-training.conf"] if settings.gpu_training else [])]
    return tuple(name for name in names if settings.find_spark_files(name))


def _prepare_session(settings: Settings) -> None:
    # A cluster's executors look for their own device.
    if settings.gpu == "on" and (not settings.spark_master or settings.spark_master.startswith("local")):
        require_device()
    fetch_jar(settings)
