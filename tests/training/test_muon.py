"""Muon: orthogonal steps for kernels, SGD for all else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from evonas.training.loop import Settings, parameter_groups
from evonas.training.muon import SCALE, Muon, orthogonalized

SETTINGS = Settings(1, 1, "muon", 0.1, 0.0, 0.0, "none")


@pytest.mark.parametrize("shape", [(16, 27), (64, 30), (8, 8), (1, 9)])
def test_singular_values_become_about_one(shape: tuple[int, int]) -> None:
    outputs, inputs = shape
    rng = torch.Generator().manual_seed(0)
    # As gradients have them, they are a hundred times apart.
    matrix = torch.randn(shape, generator=rng) @ torch.diag(torch.logspace(0, -2, inputs))
    values = torch.linalg.svdvals(orthogonalized(matrix)) / max(1, outputs / inputs) ** 0.5
    assert values.min() > 0.4
    assert values.max() < 1.3


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, 4)
    ).to(memory_format=torch.channels_last)


def test_kernels_that_mix_channels_are_its_own_and_the_classifier_is_not() -> None:
    built = network()
    groups = parameter_groups(built, replace(SETTINGS, weight_decay=0.1))
    (own,) = (group for group in groups if group["orthogonal"])
    assert own["params"] == [built[0].weight]
    assert (own["scale"], own["weight_decay"]) == (SCALE, 0.1)
    assert all(g["scale"] == 1 for g in groups if g is not own)
    for optimizer in ("sgd", "adamw"):
        groups = parameter_groups(built, replace(SETTINGS, optimizer=optimizer))
        assert not any(group["orthogonal"] for group in groups)


def test_a_kernels_step_has_one_length_and_the_rest_step_as_sgd_does() -> None:
    for factor in (1.0, 1000.0):
        built, plain = network(), network()
        plain.load_state_dict(built.state_dict())
        before = built[0].weight.detach().clone()
        muon = Muon([group | {"lr": 0.1} for group in parameter_groups(built, SETTINGS)])
        sgd = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9, nesterov=True)
        for parameter, other in zip(built.parameters(), plain.parameters(), strict=True):
            parameter.grad = factor * torch.ones_like(parameter).cumsum(0)
            other.grad = parameter.grad.clone()
        muon.step()
        sgd.step()
        step = (built[0].weight - before).flatten(1)
        assert 0.06 < torch.linalg.svdvals(step).max() < 0.12
        for (name, one), two in zip(built.named_parameters(), plain.parameters(), strict=True):
            assert name == "0.weight" or torch.equal(one, two)
