"""The checksum file of a version, as Spark writes it. It shows readers a log that was cut, or lacks its last commit."""

from __future__ import annotations

import json
import logging
from typing import Any

from lakehouse.deltalog.table_log import TableLog
from lakehouse.errors import StorageError, get_first_line
from lakehouse.storage import location

logger = logging.getLogger(__name__)


def write_checksum(log: TableLog) -> None:
    """Write the checksum file of the log's version. A failure leaves the version without one, and is logged.

    Source: Delta protocol, "Version Checksum File".
    """
    checksum = {
        "tableSizeBytes": log.count_bytes(),
        "numFiles": log.count_files(),
        "numMetadata": 1,
        "numProtocol": 1,
        "metadata": _describe_metadata(log),
        "protocol": _describe_protocol(log),
    }
    file = log.path / "_delta_log" / f"{log.version:020d}.crc"
    try:
        location.put(file, json.dumps(checksum, separators=(",", ":")).encode())
    except (OSError, StorageError) as error:
        logger.warning("%s was not written (%s).", file, get_first_line(error))


def _describe_metadata(log: TableLog) -> dict[str, Any]:
    metadata = log.delta_table.metadata()
    return {
        "id": str(metadata.id),
        "format": {"provider": "parquet", "options": {}},
        "schemaString": log.delta_table.schema().to_json(),
        "partitionColumns": metadata.partition_columns,
        "configuration": metadata.configuration,
        "createdTime": metadata.created_time,
    }


def _describe_protocol(log: TableLog) -> dict[str, Any]:
    protocol = log.delta_table.protocol()
    features = {"readerFeatures": protocol.reader_features, "writerFeatures": protocol.writer_features}
    return {
        "minReaderVersion": protocol.min_reader_version,
        "minWriterVersion": protocol.min_writer_version,
        **{name: names for name, names in features.items() if names is not None},
    }
