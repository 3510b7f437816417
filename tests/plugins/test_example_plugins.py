"""The worked examples that users copy."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import torch
from conftest import EXAMPLES, ROOT
from torch import nn

from evonas.architecture import Architecture
from evonas.commands import checking
from evonas.errors import RecipeError
from evonas.recipe.options import check
from evonas.recipe.registry import Registry
from evonas.spaces.base import SearchSpace, Task
from evonas.testing import check_space

PLUGINS = ROOT / "plugins"
REGISTRY = Registry((PLUGINS,))
TASK = Task(channels=3, height=16, width=16, classes=10)


def make(name: str, **options: int) -> SearchSpace:
    space: SearchSpace = REGISTRY.find("space", name)(**options)
    return space


def chain(architecture: Architecture) -> list[int]:
    depth = int(architecture.choices["depth"])
    return [int(architecture.choices[f"block{i}"]) for i in range(1, depth + 1)]


@pytest.mark.parametrize("name", ["tiny_mlp", "residual_chain"])
def test_examples_keep_the_contract(name: str) -> None:
    assert check_space(make(name), TASK) == []
    assert checking.check(REGISTRY, "space", name) == []


def test_the_examples_that_the_how_to_names_are_there() -> None:
    assert len(EXAMPLES) == len(set(EXAMPLES)) >= 7
    for name in EXAMPLES:
        assert (PLUGINS / f"{name}.py").is_file()


def test_examples_are_known_beside_the_built_in_spaces() -> None:
    assert {"tiny_mlp", "residual_chain", "mbconv"} <= set(REGISTRY.origins("space"))
    assert "tiny_mlp" not in Registry().origins("space")


def test_the_mlp_has_the_layers_and_units_chosen() -> None:
    space = make("tiny_mlp")
    choices = {"layers": 2, "units": 24, "activation": "tanh"}
    network = space.build(space.architecture(choices), TASK)
    linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
    assert [m.out_features for m in linear] == [24, 24, 10]
    assert sum(isinstance(m, nn.Tanh) for m in network.modules()) == 2


def test_a_chain_grows_shrinks_and_changes() -> None:
    space, moves = make("residual_chain", max_blocks=4), Counter[str]()
    parent = space.architecture(
        {"channels": 16, "depth": 3, "block1": 3, "block2": 5, "block3": 7, "block4": 3}
    )
    for seed in range(300):
        child = space.mutate(parent, Random(seed))
        before, after = chain(parent), chain(child)
        if child.choices["channels"] != 16:
            moves["channels"] += 1
            assert after == before
        elif len(after) == 4:
            moves["insert"] += 1
            assert any(after[:i] + after[i + 1 :] == before for i in range(4))
        elif len(after) < 3:
            moves["remove"] += 1
        else:
            moves["change"] += 1
            assert sum(a != b for a, b in zip(after, before, strict=True)) == 1
    assert min(moves[move] for move in ("channels", "insert", "remove", "change")) > 10


def test_blocks_are_inserted_and_removed_at_every_place() -> None:
    space = make("residual_chain", max_blocks=4)
    parent = space.architecture(
        {"channels": 16, "depth": 3, "block1": 3, "block2": 5, "block3": 3, "block4": 3}
    )
    children = {tuple(chain(space.mutate(parent, Random(seed)))) for seed in range(500)}
    assert {(7, 3, 5, 3), (3, 7, 5, 3), (3, 5, 7, 3), (3, 5, 3, 7)} <= children
    assert {(5, 3), (3, 3), (3, 5)} <= children


def test_chains_stay_within_their_bounds() -> None:
    space = make("residual_chain", max_blocks=2)
    for seed in range(100):
        rng = Random(seed)
        architecture = space.sample(rng)
        for _ in range(10):
            architecture = space.mutate(architecture, rng)
            assert 1 <= len(chain(architecture)) <= 2


def test_equal_chains_are_one_architecture() -> None:
    space = make("residual_chain", max_blocks=2)
    one = {"channels": 8, "depth": 1, "block1": 5, "block2": 7}
    assert space.architecture(one) == space.architecture({**one, "block2": 3})
    # 1 or 2 blocks of 3 kernels, 8 numbers of channels
    assert len(list(space.enumerate())) == (3 + 9) * 8


def test_a_chain_has_the_blocks_chosen() -> None:
    space = make("residual_chain", max_blocks=3)
    architecture = space.architecture(
        {"channels": 8, "depth": 2, "block1": 5, "block2": 7, "block3": 3}
    )
    network = space.build(architecture, TASK)
    kernels = [m.kernel_size[0] for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [1, 5, 7]
    assert network(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_a_chain_that_cannot_change_its_length_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"space\.max_blocks: .*not 1"):
        check(REGISTRY.find("space", "residual_chain"), {"max_blocks": 1}, "space")
