"""A container's limits, in real control groups where this process may make some."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evonas.training import containers, devices

pytestmark = pytest.mark.faults("13: a container's memory and cores are seen")

GB = 1_000_000_000
FILES = {  # per controller: what version 1 calls the limits, and what version 2 does
    "memory": ({"memory.limit_in_bytes": str(2 * GB)}, {"memory.max": str(2 * GB)}),
    "cpu": ({"cpu.cfs_quota_us": "150000"}, {"cpu.max": "150000 100000"}),
}


def own(controller: str) -> tuple[Path, int]:
    """Folder and version of the group of this process that has the controller."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, names, path = line.split(":", 2)
        if number != "0" and controller in names.split(","):
            return Path("/sys/fs/cgroup", names, path.strip("/")), 1
    return Path("/sys/fs/cgroup", path.strip("/")), 2


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A group below that of this process, limited in memory or CPU time."""
    controller = request.param
    try:
        parent, version = own(controller)
        folder = parent / f"evonas-test-{os.getpid()}"
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control groups may be made here: {error}")
    try:
        for name, value in FILES[controller][version - 1].items():
            if not (folder / name).exists():
                pytest.skip(f"the group has no {name}")
            (folder / name).write_text(value)
        yield folder
    finally:
        folder.rmdir()


def inside(folder: Path, expression: str) -> float:
    """What a process of the group says."""
    code = (
        f"open({str(folder / 'cgroup.procs')!r}, 'w').write('0')\n"
        f"from evonas.training import containers, devices\nprint({expression})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.parametrize("group", ["memory"], indirect=True)
def test_no_more_memory_is_free_than_the_container_has(group: Path) -> None:
    assert 0 < inside(group, "containers.free_memory()") < 2 * GB


@pytest.mark.parametrize("group", ["cpu"], indirect=True)
def test_no_more_cores_are_used_than_the_container_may(group: Path) -> None:
    assert inside(group, "containers.cpus()") == 1.5
    assert inside(group, "devices.cores()") == min(2, len(os.sched_getaffinity(0)))


def test_without_limits_all_of_the_machine_is_there() -> None:
    assert containers.free_memory() > 1e6
    assert 1 <= devices.cores() <= (os.cpu_count() or 1)
    assert containers.cpus() > 0


def test_a_group_as_version_two_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files, where the kernel has the other version."""
    monkeypatch.setattr(containers, "_groups", lambda controller: iter([tmp_path]))
    for content, quota in (("max 100000", math.inf), ("50000 100000", 0.5)):
        (tmp_path / "cpu.max").write_text(content)
        assert containers.cpus() == quota
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 200\n")
    assert containers.free_memory() > 1e6
    (tmp_path / "memory.max").write_text("1000\n")
    assert containers.free_memory() == 1000 - 700 + 200
