"""Names that mutation leaves alone, and the weights that a space's networks share by them."""

from __future__ import annotations

from random import Random

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from evonas.architecture import Architecture
from evonas.errors import InvalidArchitecture
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.mbconv import MBConv
from evonas.spaces.nasbench201 import NASBench201
from evonas.spaces.parts.supernet import Supernet
from evonas.spaces.plain_cnn import PlainCNN
from evonas.trial import Limit

TASK = Task(channels=3, height=9, width=8, classes=5)
SPACES: dict[str, SearchSpace] = {
    "plain_cnn": PlainCNN(3, 32),
    "mbconv": MBConv(2, 16),
    "mbconv_of_one_width": MBConv(2, 8),
    "nasbench201": NASBench201(channels=2, cells=2),
}
each_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def drawn(space: SearchSpace, count: int) -> list[Architecture]:
    return [space.sample(Random(seed)) for seed in range(count)]


def shapes(space: SearchSpace, architecture: Architecture) -> dict[str, torch.Size]:
    with torch.device("meta"):
        network = space.build(architecture, TASK)
    return {name: parameter.shape for name, parameter in network.named_parameters()}


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, *TASK.input_shape, generator=torch.Generator().manual_seed(0))


def randomised(space: SearchSpace) -> Supernet:
    """No two elements equal, not even in biases and normalisation."""
    supernet = space.build_supernet(TASK)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.uniform_(-0.5, 0.5)
    return supernet


def largest(space: SearchSpace) -> Architecture:
    return space.architecture({name: d.values()[-1] for name, d in space.domains.items()})


@each_space
def test_mutants_keep_the_names_of_what_the_mutation_left_alone(space: SearchSpace) -> None:
    for seed, parent in enumerate(drawn(space, 30)):
        child = space.mutate(parent, Random(seed))
        (changed,) = (n for n in space.domains if parent.choices[n] != child.choices[n])
        before, after = shapes(space, parent), shapes(space, child)
        assert all(before[name][2:] == after[name][2:] for name in before.keys() & after.keys())
        if changed[0] == "k" or changed.startswith("depth"):
            less, more = sorted((before, after), key=len)
            assert less.items() <= more.items()


def test_a_convolution_of_another_kernel_has_another_name() -> None:
    space = NASBench201(channels=2, cells=1)
    parent = space.architecture(dict.fromkeys(space.domains, "nor_conv_3x3"))
    child = space.architecture({**parent.choices, "edge_0_2": "nor_conv_1x1"})
    before, after = shapes(space, parent), shapes(space, child)
    assert before.keys() - after.keys()
    assert all(".0_2_nor_conv_3x3." in name for name in before.keys() - after.keys())
    assert all(before[name] == after[name] for name in before.keys() & after.keys())


@each_space
@pytest.mark.parametrize("training", [True, False])
def test_a_path_computes_what_its_own_network_does(space: SearchSpace, training: bool) -> None:
    supernet = randomised(space).train(training)
    for architecture in (*drawn(space, 8), largest(space)):
        network = supernet.extract(architecture)
        network.train()  # a path normalises by the batch, in evaluation too
        assert torch.equal(supernet(images(), architecture), network(images()))


@each_space
def test_every_architecture_is_covered(space: SearchSpace) -> None:
    with torch.device("meta"):
        supernet = space.build_supernet(TASK)
        for architecture in (*drawn(space, 40), largest(space)):
            supernet.extract(architecture)


@pytest.mark.parametrize("space", [PlainCNN(2, 12), MBConv(1, 12)], ids=["plain_cnn", "mbconv"])
def test_no_shared_parameter_is_larger_than_the_networks_need(space: SearchSpace) -> None:
    with torch.device("meta"):
        supernet = space.build_supernet(TASK)
    sizes: dict[str, list[int]] = {}
    for architecture in (*drawn(space, 100), largest(space)):
        for name, shape in shapes(space, architecture).items():
            before = sizes.get(name, [0] * len(shape))
            sizes[name] = [max(pair) for pair in zip(before, shape, strict=True)]
    shared = {
        n.removeprefix("_shared.").replace("/", "."): p for n, p in supernet.named_parameters()
    }
    assert {name: list(p.shape) for name, p in shared.items()} == sizes


def test_gradients_reach_the_corners_that_a_path_uses_and_nothing_else() -> None:
    space = SPACES["plain_cnn"]
    supernet = space.build_supernet(TASK)
    path = space.architecture(
        {"k1": 1, "k2": 2, "k3": 1, "k4": 1, "c1": 4, "c2": 8, "c3": 32, "c4": 4}
    )
    used = shapes(space, path)
    supernet(images(), path).square().sum().backward()
    for name, parameter in supernet.named_parameters():
        shape = used.get(name.removeprefix("_shared.").replace("/", "."))
        if shape is None:
            assert parameter.grad is None
            continue
        assert parameter.grad is not None
        inside = torch.zeros_like(parameter, dtype=torch.bool)
        inside[tuple(slice(size) for size in shape)] = True
        assert not parameter.grad[~inside].any()
        if parameter.ndim > 1:
            assert parameter.grad[inside].any()


def test_training_a_path_changes_the_paths_that_share_its_weights() -> None:
    space = SPACES["plain_cnn"]
    supernet = space.build_supernet(TASK)
    wide, small = largest(space), space.point("small")
    before = supernet(images(), small).detach()
    optimizer = torch.optim.SGD(supernet.parameters(), 0.1)
    supernet(images(), wide).square().sum().backward()
    optimizer.step()
    assert not torch.allclose(before, supernet(images(), small))


def test_what_is_extracted_is_a_copy() -> None:
    space = SPACES["mbconv"]
    supernet = randomised(space)
    architecture = space.sample(Random(0))
    network = supernet.extract(architecture)
    before = supernet(images(), architecture)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(supernet(images(), architecture), before)


def test_every_weight_of_the_largest_networks_is_initialised() -> None:
    for space in SPACES.values():
        supernet = space.build_supernet(TASK)
        for architecture in drawn(space, 10):
            for name, parameter in supernet.extract(architecture).named_parameters():
                if parameter.ndim > 1:
                    assert parameter.count_nonzero() > 0.99 * parameter.numel(), name


@each_space
def test_a_path_makes_no_tensors_of_its_own_on_the_cpu(space: SearchSpace) -> None:
    """On a fake GPU, which computes shapes and devices alone."""
    with FakeTensorMode():
        with torch.device("cuda"):
            supernet, batch = space.build_supernet(TASK), torch.empty(2, *TASK.input_shape)
        logits = supernet(batch, space.sample(Random(0)))
        assert logits.shape == (2, TASK.classes)
        assert logits.device.type == "cuda"


def test_a_network_beyond_the_largest_is_refused() -> None:
    space = PlainCNN(1, 8)
    supernet = space.build_supernet(TASK)
    small = space.scaled(largest(space), 0.5)
    assert supernet(images(), small).shape == (3, 5)
    for wrong in (space.scaled(largest(space), 2), space.scaled(largest(space), depth=2)):
        with pytest.raises(InvalidArchitecture, match="supernet holds no stage1_block"):
            supernet(images(), wrong)


class OneName(PlainCNN):
    """Networks of two kinds whose tensors have the same names."""

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        if architecture.choices["k1"] == 1:
            return nn.Sequential(nn.Conv2d(3, 4, 1))
        return nn.Sequential(nn.Linear(3, 4))


def test_two_kinds_of_tensor_cannot_share_a_name() -> None:
    space = OneName(2, 8)
    kinds = [space.architecture({**largest(space).choices, "k1": k}) for k in (1, 2)]
    with pytest.raises(InvalidArchitecture, match="two kinds of tensor are named '0/weight'"):
        Supernet(space, TASK, kinds)


def test_a_space_offers_none_by_default() -> None:
    class Bare(SearchSpace):
        def build(self, architecture: Architecture, task: Task) -> nn.Module:
            return nn.Identity()

    with pytest.raises(InvalidArchitecture, match="offers no supernet"):
        Bare().build_supernet(TASK)


@each_space
def test_limits_change_nothing(space: SearchSpace) -> None:
    limited = space.limited({"params": Limit(max=1)}, TASK)
    names = [dict(s.build_supernet(TASK).named_parameters()).keys() for s in (limited, space)]
    assert names[0] == names[1]
