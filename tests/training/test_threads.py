from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from evonas.training import devices


def test_they_are_one_or_one_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    networks = [nn.Conv2d(1, 4, 3), nn.Conv2d(1, 40, 3)]
    classifiers = [nn.Sequential(n, nn.AdaptiveAvgPool2d(1), nn.Flatten()) for n in networks]
    assert devices.fastest_threads(classifiers, (1, 8, 8)) in (1, devices.cores())
    assert torch.get_num_threads() == before


def test_who_set_the_variable_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with devices.cpu_threads(3):
        assert devices.fastest_threads([nn.Conv2d(1, 1, 1)], (1, 8, 8)) == 3


def test_they_are_put_back() -> None:
    before = torch.get_num_threads()
    with devices.cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with devices.cpu_threads(None):
        assert torch.get_num_threads() == before


@pytest.mark.parametrize("users", ["ACTIVE", None])
def test_threads_that_wait_sleep_unless_the_user_says_otherwise(users: str | None) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": users} if users else {}
    code = "import evonas, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout.decode().split() == [users or "PASSIVE", "False"]
