"""MLflow's stores: what a URI may be, how one is opened, what one raises."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from evonas import files
from evonas.errors import OptionError

DEFAULT = "sqlite:///mlruns/mlflow.db"
SQLITE = "sqlite:///"
ARTIFACTS = "artifacts"  # the folder beside a SQLite store
# What a store that is down, full, locked or of another version raises; requests' errors are
# OSErrors, a missing database driver is an ImportError.
ERRORS = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError)
REFUSED = "INVALID_PARAMETER_VALUE"  # Asking again would block what waits behind.
NO_SUCH_RUN = ("RESOURCE_DOES_NOT_EXIST", REFUSED)  # never made, or deleted
_UNQUOTES = make_url(f"{SQLITE}%25").database == "%"  # SQLAlchemy does so since version 2.1.
_REMOTE = r"(?<!sqlite):/*"  # A file's name may hold anything.
_OPEN = r"[a-z0-9+]+://[\w.:/~\[\]-]*"  # It has no place for a secret.
_SCHEME = r"(postgresql|mysql|mssql|http|https|databricks)(\+[a-z0-9]+)?:"


def absolute(uri: str) -> str:
    """The store's URI, independent of the working directory.

    Raises:
        OptionError: If MLflow no longer writes to such a store.
    """
    if (path := file_of(uri)) is not None:
        _, mark, query = uri.partition("?")
        return f"{SQLITE}{_quoted(path.absolute())}{mark}{query}"
    if not re.match(_SCHEME, uri):
        use = "use sqlite:///PATH/mlflow.db or http://SERVER"
        raise OptionError("uri", f"{public(uri)!r} is no store that MLflow still writes to; {use}")
    return uri


def public(text: str) -> str:
    """A URI, or a text with some in it, without users, passwords and queries."""
    alone = re.sub(rf"({_REMOTE})\S*@", r"\1", text)
    return re.sub(rf"({_REMOTE}\S*?)[?#;]\S+", r"\1", alone)


def told_openly(uri: str) -> str:
    """The URI, if it may be written into recipe, journal and MLflow.

    Raises:
        OptionError: If it holds what nobody else should know.
    """
    if re.match(_SCHEME, uri) and not re.fullmatch(_OPEN, uri):
        raise OptionError(
            "uri",
            "what is no plain SCHEME://HOST:PORT/PATH, but has a user, a password or a query, "
            "would be written into the run's files; give it by MLFLOW_TRACKING_URI, or "
            "MLFLOW_TRACKING_USERNAME and _PASSWORD",
        )
    return uri


def file_of(uri: str) -> Path | None:
    """The database file of a SQLite store."""
    if not uri.startswith(SQLITE):
        return None
    text = uri.removeprefix(SQLITE).partition("?")[0]
    return Path(unquote(text) if _UNQUOTES else text)


def _quoted(path: Path) -> str:
    """A path as it stands in a URI: folders may be named ``w%41d``."""
    return str(path).replace("%", "%25").replace("?", "%3F") if _UNQUOTES else str(path)


def client_of(uri: str) -> MlflowClient:
    """A client; a SQLite store is made and migrated here, by one process at a time."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    path = file_of(uri)
    if path is None:
        # MLflow's own defaults keep a dead server's client busy for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        return MlflowClient(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.locked(path.with_name(f"{path.name}.lock")):
        if not path.exists():
            _make(path)
        return _opened(path, uri)


def _opened(path: Path, uri: str) -> MlflowClient:
    # Readers and the writer do not block each other, and a commit is one flush instead of two.
    # Set before MLflow makes its tables, which then takes 2.4 s instead of 6.4 s.
    with closing(sqlite3.connect(path, timeout=20)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    client = MlflowClient(uri)
    client.search_experiments(max_results=1)
    if (quoted := Path(uri.removeprefix(SQLITE)).parent) != path.parent:
        with suppress(OSError):  # MLflow makes that one, too, and leaves it empty
            os.removedirs(quoted)
    return client


def _make(path: Path) -> None:
    """Make a database elsewhere, and put it there whole.

    MLflow makes dozens of tables in some seconds; a database that was cut off in these it neither
    completes nor opens.
    """
    whole = path.with_name(f"{path.name}.new")
    whole.unlink(missing_ok=True)
    with TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        _opened(draft, f"{SQLITE}{_quoted(draft)}")
        with closing(sqlite3.connect(draft)) as source, closing(sqlite3.connect(whole)) as copy:
            source.backup(copy)
    whole.replace(path)


def experiment(client: MlflowClient, name: str, uri: str) -> str:
    """The id of an experiment, which is made if it is not there."""
    path = file_of(uri)
    beside = path.with_name(ARTIFACTS).as_uri() if path else None
    try:
        return str(client.create_experiment(name, beside))
    except MlflowException as error:
        there = error.error_code == "RESOURCE_ALREADY_EXISTS"
        if not there or (found := client.get_experiment_by_name(name)) is None:
            raise
        if found.lifecycle_stage == "deleted":
            raise MlflowException(
                f"experiment {name!r} was deleted: mlflow experiments restore --experiment-id "
                f"{found.experiment_id}, or rename yours: --set tracking.experiment=NAME"
            ) from error
        return str(found.experiment_id)


def first_line(error: Exception) -> str:
    """What an error says, in a line."""
    return public((str(error).splitlines() or [type(error).__name__])[0])[:200]
