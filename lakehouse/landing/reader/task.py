"""Tasks to read landed files, as text for processes elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.sources import Source, source
from lakehouse.landing.manifest import LandedFile
from lakehouse.landing.reader.compression import DEFAULT_LIMITS, UnpackLimits
from lakehouse.landing.reader.conformance import BatchStamp
from lakehouse.storage.location import Location
from lakehouse.storage.s3 import S3Path


@dataclass(frozen=True)
class StagingTask:
    """Files of a batch to read.

    Attributes:
        landing: the landing zone.
        existing_columns: columns of the table with their types. A column that a contract added keeps its type.
        limits: how far a file may unpack.
    """

    source: Source
    files: tuple[LandedFile, ...]
    landing: Location
    stamp: BatchStamp
    existing_columns: Mapping[str, str] = field(default_factory=dict)
    limits: UnpackLimits = DEFAULT_LIMITS

    def to_json(self) -> str:
        """Return the task as text."""
        declared = self.source
        return json.dumps(
            {
                "source": {
                    "name": declared.name,
                    "landing": declared.landing,
                    "format": declared.format,
                    "columns": dict(declared.columns),
                    "options": dict(declared.options),
                    "header_names": dict(declared.header_names),
                    "path_columns": declared.path_columns,
                },
                "contract": asdict(declared.contract),
                "files": [asdict(file) for file in self.files],
                "landing": str(self.landing),
                "stamp": [self.stamp.batch, self.stamp.created_at.isoformat()],
                "existing_columns": dict(self.existing_columns),
                "limits": asdict(self.limits),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> StagingTask:
        """Return the task of a text."""
        fields = json.loads(text)
        return cls(
            source(**fields["source"], contract=Contract(**fields["contract"])),
            tuple(LandedFile(**file) for file in fields["files"]),
            parse_location(fields["landing"]),
            BatchStamp(fields["stamp"][0], datetime.fromisoformat(fields["stamp"][1])),
            fields["existing_columns"],
            UnpackLimits(**fields["limits"]),
        )


def parse_location(text: str) -> Location:
    """Return the place of a text that `str` made."""
    return S3Path.parse(text) if text.startswith("s3://") else Path(text)
