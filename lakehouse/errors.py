"""The project's errors. A user's mistake is reported as one of these, never as a stack trace."""


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


class LedgerError(LakehouseError):
    """A table's log does not hold what the ledger needs: the commit just made is not there, or the log is damaged."""


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
