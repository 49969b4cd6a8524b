"""The project's errors. A user's mistake is reported as one of these, never as a stack trace."""

import re
import sysconfig
import traceback
from pathlib import Path

# Where Python and the packages that are installed for it lie.
INSTALL_FOLDERS = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))


def get_first_line(error: BaseException) -> str:
    """The first line of an error's text; its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def redact_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", uri)


def locate_error(error: BaseException) -> str:
    """Where in the user's own code an error arose, in brackets; empty where it did not."""
    if isinstance(error, SyntaxError) and error.filename:
        places = [(Path(error.filename), error.lineno)]
    else:
        places = [(Path(one.filename), one.lineno) for one in reversed(traceback.extract_tb(error.__traceback__))]
    for file, line in places:
        if file.is_file() and not {*INSTALL_FOLDERS, Path(__file__).parent} & {*file.parents} and file.suffix == ".py":
            return f" ({file.parent.name}/{file.name}, line {line})"
    return ""


class LakehouseError(Exception):
    """Base of every error that the project raises on purpose; its text says what was wrong, where, and what to do."""


class SettingsError(LakehouseError):
    """A setting is unknown, missing or has a value that is not allowed."""


class DeclarationError(LakehouseError):
    """The declared tables do not fit together: all problems found are listed."""


class SchemaError(LakehouseError):
    """The columns that a function returned or that a table holds are not those declared."""


class AccountingError(LakehouseError):
    """Rows in do not equal rows written, unchanged, superseded and quarantined: nothing was committed."""


class RuleError(LakehouseError):
    """A row broke a rule whose declared consequence is to fail the run: nothing was committed."""


class SuiteError(LakehouseError):
    """A batch does not meet its table's suite of expectations, or could not be validated: nothing was committed."""


class LedgerError(LakehouseError):
    """A table's log does not hold what the ledger needs: the commit just made is not there, or the log is damaged."""


class StorageError(LakehouseError):
    """The object store cannot be reached, refuses, or does not keep what the lake relies on."""


class SourceError(LakehouseError):
    """A source's database cannot be read, or has rows that would be missed."""


class RollbackError(LakehouseError):
    """A run cannot be taken back: nothing was touched, unless the text says so."""


class VacuumError(LakehouseError):
    """Files cannot be removed, as a registered model needs them or may need them: nothing was."""


class LandingError(LakehouseError):
    """The landing zone does not hold what a batch has on record."""


class LockError(LakehouseError):
    """Another run holds the lake."""


class SessionError(LakehouseError):
    """Spark could not be started."""


class QueryError(LakehouseError):
    """A SQL query is wrong or names an unknown table."""


class ModelError(LakehouseError):
    """A model cannot be trained, found or scored."""


class StackError(LakehouseError):
    """A server cannot be started, or did not come up."""
