"""PostgreSQL and MLflow's server, started by the lines of docs/cluster.md, and ended again."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import ROOT

HOST, PORT = "127.0.0.1", "5000"  # of MLflow's server, as the page has it
PATIENCE = 900.0  # seconds for whatever is waited for: who fails is noticed, who is slow is not
_INSTALLED = Path("/usr/lib/postgresql")  # Debian keeps most of it out of PATH
_OWNER = "postgres"  # It does not run as root; Debian's package makes this user.


def line(begin: str, changes: Mapping[str, str]) -> str:
    """The page's line that begins so, with some of its text changed.

    What is to be changed and is not there is an error: the page says something else then.
    """
    lines = (ROOT / "docs" / "cluster.md").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith(begin))
    for old, new in changes.items():
        assert old in found, f"{old!r} is not in {found!r}"
        found = found.replace(old, new)
    return found


def words(begin: str, changes: Mapping[str, str]) -> list[str]:
    """The same as words."""
    return shlex.split(line(begin, changes), comments=True)


def wait_until(holds: Callable[[], object], what: str) -> None:
    """Wait for something."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.2)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return str(probe.getsockname()[1])


@contextmanager
def postgresql(password: str) -> Iterator[dict[str, str]]:
    """A server on loopback, in a folder that goes with it; what its clients' environment says."""
    found = sorted(_INSTALLED.glob("*/bin/initdb")) or [shutil.which("initdb")]
    if found[-1] is None:
        pytest.fail("needs PostgreSQL: apt-get install postgresql", pytrace=False)
    programs = Path(found[-1]).parent
    folder, port = Path(tempfile.mkdtemp(prefix="evonas-postgresql-")), free_port()
    (folder / "password").write_text(password)
    owner = {}
    if os.getuid() == 0:
        group = pwd.getpwnam(_OWNER).pw_gid
        owner = {"user": _OWNER, "group": group, "extra_groups": [group]}
        for path in (folder, folder / "password"):
            shutil.chown(path, _OWNER)
    places = ("-D", folder / "data")
    secret = ("--auth=scram-sha-256", f"--pwfile={folder / 'password'}", f"--username={_OWNER}")
    network = (f"listen_addresses={HOST}", f"port={port}", "unix_socket_directories=")
    settings = [word for setting in (*network, "fsync=off") for word in ("-c", setting)]
    try:
        made = [programs / "initdb", *places, *secret, "--no-sync"]
        subprocess.run(made, check=True, cwd=folder, stdout=subprocess.DEVNULL, **owner)
        server = subprocess.Popen([programs / "postgres", *places, *settings], cwd=folder, **owner)
        try:
            ready = [programs / "pg_isready", "-q", "-h", HOST, "-p", port]
            wait_until(lambda: subprocess.run(ready).returncode == 0, "PostgreSQL answers")
            path = os.pathsep.join((str(programs), os.environ["PATH"]))
            yield {"PGHOST": HOST, "PGPORT": port, "PATH": path}
        finally:
            server.send_signal(signal.SIGINT)  # a fast shutdown: clients are cut off
            server.wait(PATIENCE)
    finally:
        shutil.rmtree(folder)


def make_database(clients: Mapping[str, str], admin: str, password: str, folder: Path) -> Path:
    """Make MLflow's user and database as the page does; the file with the user's password."""
    as_admin = {**os.environ, **clients, "PGUSER": _OWNER, "PGPASSWORD": admin}
    for begin in ("createuser ", "createdb "):
        # Without a terminal of its own the password is asked for on stdin, twice.
        subprocess.run(
            words(begin, {}),
            env=as_admin,
            input=f"{password}\n" * 2,
            text=True,
            check=True,
            start_new_session=True,
        )
    kept = line("echo ", {"PASSWORD": password, "5432": clients["PGPORT"]})
    subprocess.run(kept, shell=True, check=True, env={**os.environ, "HOME": str(folder)})
    return folder / ".pgpass"


@dataclass
class MLflowServer:
    """MLflow's server, killed and started as often as one likes.

    Attributes:
        environment: Of its process.
        folder: For what it is given to keep.
        port: Where it listens.
        groups: The process groups of all that were started.
    """

    environment: Mapping[str, str]
    folder: Path
    port: str = field(default_factory=free_port)
    groups: list[int] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        changes = {"/srv/artifacts": str(self.folder / "artifacts")}
        command = [sys.executable, "-m", *words("mlflow server ", changes)]
        with (self.folder / "server.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--port", self.port, "--workers", "2"],
                # What it runs in the background by default is for those who trace chats.
                env={**self.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.groups.append(process.pid)
        self._process = process
        wait_until(self._answers, f"MLflow's server answers; see {log.name}")

    def kill(self) -> None:
        """``kill -9``, of its workers as well."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)

    def stop(self) -> None:
        """End it as its owner would; then it must be gone."""
        self._process.terminate()
        self._process.wait(PATIENCE)
        wait_until(lambda: not any(map(_has_members, self.groups)), "MLflow's processes are gone")

    def _answers(self) -> bool:
        assert self._process.poll() is None, "MLflow's server ended"
        with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
            return True
        return False


def _has_members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def speakers(port: str) -> set[int]:
    """The processes that are connected to a port of this machine, as Linux says."""
    server = f"0100007F:{int(port):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[2] == server}
    found = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # the process, or its file, is gone meanwhile
            if os.readlink(descriptor) in sockets:
                found.add(int(descriptor.parts[2]))
    return found
