"""Errors of the platform. A user's mistake is reported as one of them, never as a stack trace.

LakehouseError
├── SettingsError       a setting is unknown, missing or not allowed
├── MissingExtraError   a package of an extra is not installed
├── DeclarationError    the declared tables do not fit together
├── StackError          a server does not start
├── SessionError        Spark does not start
├── LockError           another run holds the lake
├── StorageError        the object store or the machine fails
├── LedgerError         a table's log is damaged
├── DamagedFileError    a file of a table is damaged
├── MissingStateError   a manifest or a quarantine is missing
├── ForeignCommitError  another writer changed a table
├── CommitConflictError another writer committed first
│
│   input
├── LandingError        the landing zone lacks recorded files
│   └── WorkerLostError a process of Spark ended while it read landed files
├── SourceError         a source's database cannot be read
│
│   a write that stops before its commit
├── SchemaError         columns differ from the declared ones
├── RuleError           a row violates a rule that fails the run
├── SuiteError          a batch violates its suite of expectations
├── AccountingError     row counts do not add up
│
│   one command
├── QueryError          a SQL query is wrong
├── RollbackError       a run cannot be rolled back
├── VacuumError         files cannot be removed
└── ModelError          a model cannot be trained, found or scored
"""

import re
import sysconfig
import traceback
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# Folders of Python and of its installed packages.
INSTALL_FOLDERS = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))


def get_first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type where it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def escape_controls(text: str) -> str:
    r"""Replace characters that act on a terminal or hide, such as escape sequences, by escapes such as \x1b.

    Names and values from outside may hold them. Invisible joiners stay, as words and emojis need them.
    """
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if _is_control(c) else c for c in text)


def _is_control(character: str) -> bool:
    """Return True for control and format characters, line separators, and halves of a surrogate pair."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in "\u200c\u200d"


def redact_password(uri: str) -> str:
    """Replace the user and password in a URI by asterisks."""
    return re.sub(r"//[^/@]*@", "//***@", uri)


def locate_error(error: BaseException) -> str:
    """Return the place in the user's own code that raised an error, in brackets; empty where there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        places = [(Path(error.filename), error.lineno)]
    else:
        places = [(Path(frame.filename), frame.lineno) for frame in reversed(traceback.extract_tb(error.__traceback__))]
    for file, line in places:
        if file.suffix == ".py" and not {*INSTALL_FOLDERS, Path(__file__).parent} & {*file.parents}:
            with suppress(OSError):  # Access to the code may be denied as well.
                if file.is_file():
                    return f" ({file.parent.name}/{file.name}, line {line})"
    return ""


class LakehouseError(Exception):
    """Base of every error that the platform raises on purpose.

    The text names the object, the problem and the next step.
    """


class SettingsError(LakehouseError):
    """A setting is unknown or missing, or its value is not allowed."""


class MissingExtraError(LakehouseError):
    """A package is missing that an extra of the distribution installs."""


class DeclarationError(LakehouseError):
    """The declared tables do not fit together. Every problem is listed."""


class SchemaError(LakehouseError):
    """The columns of a function's result or of a table differ from the declared ones."""


class AccountingError(LakehouseError):
    """Input rows do not equal written, unchanged, superseded and quarantined rows. Nothing was committed."""


class RuleError(LakehouseError):
    """A row violates a rule that is declared to fail the run. Nothing was committed."""


class SuiteError(LakehouseError):
    """A batch violates its table's suite of expectations, or cannot be validated. Nothing was committed."""


class LedgerError(LakehouseError):
    """A table's log is damaged, or lacks a commit or a change that the ledger needs."""


class DamagedFileError(LakehouseError):
    """A file of a table is damaged, or the disk did not store it.

    Attributes:
        path: The file.
    """

    def __init__(self, text: str, path: str) -> None:
        super().__init__(text)
        self.path = path


class MissingStateError(LakehouseError):
    """A manifest or a quarantine that the ledger knows is missing. Nothing was changed.

    Attributes:
        table: The table that needs it.
        paths: The missing files or folders.
    """

    def __init__(self, text: str, table: str, paths: Sequence[str]) -> None:
        super().__init__(text)
        self.table = table
        self.paths = tuple(paths)


class ForeignCommitError(LakehouseError):
    """Another writer changed the rows of a table, and the settings refuse its rows. Nothing was changed.

    Attributes:
        table: The table that would take the rows.
    """

    def __init__(self, text: str, table: str) -> None:
        super().__init__(text)
        self.table = table


class CommitConflictError(LakehouseError):
    """Another writer committed to a table first. Nothing was committed."""


class StorageError(LakehouseError):
    """The object store cannot be reached, rejects a request, or lacks a guarantee that the lake needs.

    Or the machine cannot read its files: access is denied, too many files are open, the disk fails.
    """


class SourceError(LakehouseError):
    """A source's database cannot be read, or has rows that an extract would miss."""


class RollbackError(LakehouseError):
    """A run cannot be rolled back. Nothing was changed, unless the text says so."""


class VacuumError(LakehouseError):
    """Files cannot be removed, because a registered model needs them or may need them. Nothing was removed."""


class LandingError(LakehouseError):
    """The landing zone does not have the recorded files of a batch."""


class WorkerLostError(LandingError):
    """A process of Spark ended while it read landed files."""


class LockError(LakehouseError):
    """Another run holds the lake."""


class SessionError(LakehouseError):
    """Spark cannot be started."""


class QueryError(LakehouseError):
    """A SQL query is wrong or names an unknown table."""


class ModelError(LakehouseError):
    """A model cannot be trained, found or scored."""


class StackError(LakehouseError):
    """A server cannot be started, or does not answer."""
