"""Weights of a relative: what grew computes what it computed before, what shrank fits."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from random import Random

import pytest
import torch
from torch import nn

from evonas.architecture import Architecture, Value
from evonas.spaces.base import SearchSpace, Task
from evonas.spaces.mbconv import MBConv
from evonas.spaces.nasbench201 import NASBench201
from evonas.spaces.parts.blocks import Chain, ConvNorm, mbconv
from evonas.spaces.plain_cnn import PlainCNN
from evonas.training.inheritance import CanBecomeIdentity, transplant

TASK = Task(3, 16, 16, 5)
PLAIN, MBCONV, CELLS = PlainCNN(3, 24), MBConv(3, 24), NASBench201(4, 1)
SPACES = pytest.mark.parametrize("space", [PLAIN, MBCONV, CELLS], ids=lambda s: s.name)
IMAGES = torch.randn(8, *TASK.input_shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def outputs(network: nn.Module) -> torch.Tensor:
    """Logits in train mode, in which normalisation goes by the batch; nothing else is changed."""
    before = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        logits: torch.Tensor = network.train()(IMAGES)
    grown = network.state_dict()
    for name, tensor in before.items():
        if "running" in name or "tracked" in name:
            grown[name].copy_(tensor)
    return logits


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative to what varies between images: a constant would hide it."""
    return float(((one - other).norm() / (one - one.mean(0)).norm()).detach())


def parent_of(space: SearchSpace, choices: dict[str, Value]) -> nn.Module:
    """A network with weights as after a training: no bias and no scale is what it began as."""
    network = space.build(space.architecture(choices), TASK)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
            elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                module.bias.normal_(0, 0.3)
        network.train()
        for _ in range(3):
            network(IMAGES)
    return network


def grown(space: SearchSpace, kind: str, rng: Random) -> tuple[dict[str, Value], dict[str, Value]]:
    """Choices of a parent, and of a child that has more of one of them."""
    choices = dict(space.sample(rng).choices)
    name = rng.choice([n for n in space.domains if n.rstrip("1234") == kind])
    values = list(space.domains[name].values())
    lower = rng.randrange(len(values) - 1)
    choices[name] = values[lower]
    return choices, choices | {name: rng.choice(values[lower + 1 :])}


def shares_shortcuts(parent: nn.Module, child: nn.Module) -> bool:
    """Whether no projection of the parent had to become an identity."""
    here, there = ({n for n, _ in m.named_modules()} for m in (parent, child))
    kinds = [{n: type(m) for n, m in network.named_modules()} for network in (parent, child)]
    return all(
        not (issubclass(kinds[0][n], nn.Conv2d) and issubclass(kinds[1][n], nn.Identity))
        for n in here & there
    )


GROWTH = [
    *((PLAIN, kind, 1e-3) for kind in ("k", "c")),
    (MBCONV, "depth", 0.1),
    *((MBCONV, kind, 1e-3) for kind in ("stem", "channels", "expansion")),
]


@pytest.mark.parametrize(
    ("space", "kind", "tolerance"), GROWTH, ids=lambda v: getattr(v, "name", str(v))
)
@pytest.mark.parametrize("seed", range(4))
def test_what_grew_computes_what_it_did(
    space: SearchSpace, kind: str, tolerance: float, seed: int
) -> None:
    before, after = grown(space, kind, Random(seed))
    parent, child = parent_of(space, before), space.build(space.architecture(after), TASK)
    transplant(child, parent.state_dict())
    if shares_shortcuts(parent, child):
        assert difference(outputs(parent), outputs(child)) < tolerance


@SPACES
def test_the_same_architecture_is_the_same_network(space: SearchSpace) -> None:
    for seed in range(5):
        architecture = space.sample(Random(seed))
        parent = parent_of(space, dict(architecture.choices))
        child = space.build(architecture, TASK)
        assert transplant(child, parent.state_dict()) == 1.0
        for name, tensor in parent.state_dict().items():
            assert torch.equal(child.state_dict()[name], tensor), name
        assert torch.equal(outputs(parent), outputs(child))
        assert torch.equal(parent.eval()(IMAGES), child.eval()(IMAGES))


def gradients(network: nn.Module) -> dict[str, float]:
    """Of a loss: the largest of every parameter."""
    network.zero_grad(set_to_none=True)
    labels = torch.arange(len(IMAGES)) % TASK.classes
    nn.functional.cross_entropy(network.train()(IMAGES), labels).backward()
    return {
        name: 0.0 if p.grad is None else float(p.grad.abs().max())
        for name, p in network.named_parameters()
    }


@SPACES
@pytest.mark.parametrize("seed", range(4))
def test_a_child_has_finite_weights_a_share_and_gradients(space: SearchSpace, seed: int) -> None:
    """Of mutants, as a search makes them, and of strangers."""
    rng = Random(seed)
    first = space.sample(rng)
    parent = parent_of(space, dict(first.choices))
    for second in (space.mutate(first, rng), space.sample(rng)):
        child = space.build(second, TASK)
        shapes = {name: tensor.shape for name, tensor in child.state_dict().items()}
        share = transplant(child, parent.state_dict())
        assert 0 < share <= 1
        found = child.state_dict()
        assert {name: tensor.shape for name, tensor in found.items()} == shapes
        assert all(tensor.isfinite().all() for tensor in found.values())
        assert all(p.requires_grad and p.is_leaf for p in child.parameters())
        assert outputs(child).isfinite().all()


@pytest.mark.parametrize(
    ("space", "kind"), [(s, k) for s, k, _ in GROWTH], ids=lambda v: getattr(v, "name", str(v))
)
def test_what_is_new_learns(space: SearchSpace, kind: str) -> None:
    """After one step at the latest: what is read at zero weight first has to be read."""
    for seed in range(4):
        before, after = grown(space, kind, Random(seed))
        parent, child = parent_of(space, before), space.build(space.architecture(after), TASK)
        alone = gradients(space.build(space.architecture(after), TASK))
        transplant(child, parent.state_dict())
        optimizer = torch.optim.SGD(child.parameters(), 0.1)
        first = gradients(child)
        optimizer.step()
        second = gradients(child)
        known = parent.state_dict()
        new = [name for name, _ in child.named_parameters() if name not in known]
        assert all(second[name] > 0 for name in new if alone[name] > 1e-5), seed
        grew = [n for n, p in child.named_parameters() if n in known and known[n].shape != p.shape]
        assert all(first[name] > 0 for name in grew), "there is an overlap, and it learns at once"


def test_shrinking_crops_channels_from_the_end() -> None:
    for seed in range(5):
        for space, kind in ((PLAIN, "c"), (MBCONV, "channels"), (MBCONV, "expansion")):
            small, large = grown(space, kind, Random(seed))
            parent, child = parent_of(space, large), space.build(space.architecture(small), TASK)
            share = transplant(child, parent.state_dict())
            assert share > 0
            known = parent.state_dict()
            for name, tensor in child.state_dict().items():
                if name not in known or ".shortcut." in name:
                    continue
                leading = known[name][tuple(slice(size) for size in tensor.shape)]
                assert torch.equal(tensor, leading), name


def test_fewer_blocks_are_the_first_blocks() -> None:
    choices = dict(PLAIN.sample(Random(0)).choices)
    parent = parent_of(PLAIN, choices | {"k2": 3})
    child = PLAIN.build(PLAIN.architecture(choices | {"k2": 1}), TASK)
    assert transplant(child, parent.state_dict()) == 1.0
    known = parent.state_dict()
    assert all(torch.equal(tensor, known[name]) for name, tensor in child.state_dict().items())


def test_an_edge_that_changed_starts_fresh_and_the_others_do_not() -> None:
    kept = dict.fromkeys(CELLS.domains, "nor_conv_3x3")
    parent = parent_of(CELLS, kept)
    child = CELLS.build(CELLS.architecture(kept | {"edge_0_1": "nor_conv_1x1"}), TASK)
    fresh = copy.deepcopy(child.state_dict())
    share = transplant(child, parent.state_dict())
    known, found = parent.state_dict(), child.state_dict()
    trainable = {name: p.numel() for name, p in child.named_parameters()}
    for name, tensor in found.items():
        assert torch.equal(tensor, known[name] if name in known else fresh[name])
    copied = sum(size for name, size in trainable.items() if name in known)
    assert share == pytest.approx(copied / sum(trainable.values()))
    assert 0.5 < share < 1


class Kernels(nn.Sequential):
    """Convolutions of some kernel size that keep the image size."""

    def __init__(self, kernel: int, channels: int = 4) -> None:
        def convolution(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)

        first, second = convolution(3, channels), convolution(channels, channels)
        super().__init__(first, nn.BatchNorm2d(channels), nn.ReLU(), second)


@pytest.mark.parametrize(("small", "large"), [(1, 3), (1, 7), (3, 5), (3, 7)])
def test_a_larger_kernel_has_a_rim_of_zeros(small: int, large: int) -> None:
    parent, child = Kernels(small), Kernels(large)
    share = transplant(child, parent.state_dict())
    assert torch.allclose(outputs(parent), outputs(child), atol=1e-5)
    rim = (large - small) // 2
    weight, known = child.state_dict()["0.weight"], parent.state_dict()["0.weight"]
    assert torch.equal(weight[:, :, rim:-rim, rim:-rim], known)
    assert weight.count_nonzero() == known.numel()
    copied = sum(p.numel() for p in parent.parameters())
    assert share == pytest.approx(copied / sum(p.numel() for p in child.parameters()))
    back = Kernels(small)
    assert transplant(back, child.state_dict()) == 1.0
    assert torch.equal(back.state_dict()["0.weight"], known)


def test_more_channels_and_a_larger_kernel_at_once() -> None:
    parent, child = Kernels(3, 4), Kernels(5, 6)
    transplant(child, parent.state_dict())
    assert torch.allclose(outputs(parent), outputs(child)[:, :4], atol=1e-5)
    assert child.state_dict()["0.weight"][4:].abs().min() > 0, "new rows are fresh, rim and all"


def test_strangers_share_nothing() -> None:
    child = nn.Linear(3, 2)
    before = copy.deepcopy(child.state_dict())
    others = {"weight": torch.ones(4), "other": torch.ones(2, 3)}
    assert transplant(child, others) == 0.0
    assert torch.equal(child.weight, before["weight"])
    assert transplant(nn.Identity(), {}) == 0.0


def test_weights_of_another_precision_are_converted() -> None:
    child = nn.Linear(3, 2)
    weights = {"weight": torch.ones(2, 3).to(torch.bfloat16), "bias": torch.ones(2).double()}
    assert transplant(child, weights) == 1.0
    assert child.weight.dtype == torch.float32
    assert child.weight.sum() == 6


def test_tied_weights_are_counted_once() -> None:
    child = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    child[1].weight = child[0].weight
    parent = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    parent[1].weight = parent[0].weight
    assert transplant(child, parent.state_dict()) == 1.0


# Blocks that start as the identity.


def test_only_the_outermost_new_block_becomes_the_identity() -> None:
    told: list[str] = []

    class Tells(nn.Module):
        def __init__(self, name: str, inner: nn.Module) -> None:
            super().__init__()
            self.name, self.inner = name, inner

        def become_identity(self) -> None:
            told.append(self.name)

    known = nn.Sequential(Tells("known", nn.Linear(2, 2)), Tells("new", Tells("deep", nn.ReLU())))
    assert isinstance(known[0], CanBecomeIdentity)
    transplant(known, {"0.inner.weight": torch.ones(2, 2)})
    assert told == ["new"]


def positive(channels: int) -> torch.Tensor:
    """What comes out of a ReLU, of another mean and scale in every channel."""
    wide = torch.randn(32, channels, 6, 6) * torch.arange(1, channels + 1).view(1, -1, 1, 1)
    return (wide + 1).relu()


@pytest.mark.parametrize(
    "block",
    [
        ConvNorm(6, 6, 3, bias=True).build(),
        ConvNorm(6, 6, 1).build(),
        ConvNorm(6, 6, 5, bias=True).build(),
    ],
)
def test_a_plain_block_passes_on_what_comes_in(block: Chain) -> None:
    block.become_identity()
    images = positive(6)
    assert torch.allclose(block.train()(images), images, atol=1e-3)
    later = block.norm.weight.clone()
    block(7 * images)
    assert torch.equal(block.norm.weight, later), "the first batch alone decides"
    assert not block.norm._forward_pre_hooks


def test_a_copy_of_a_block_does_not_reach_into_the_original() -> None:
    """A moving average of the weights is a copy, and is scored after every epoch."""
    block = ConvNorm(4, 4, 3, bias=True).build()
    block.become_identity()
    average = copy.deepcopy(block)
    images = positive(4)
    block.train()(images)
    learned = block.norm.weight.clone()
    average.eval()(5 * images)
    assert torch.equal(block.norm.weight, learned)
    assert torch.equal(average.norm.weight, torch.ones(4)), "no batch of validation decides"
    average.train()(2 * images)
    assert torch.allclose(average.norm.weight, 2 * learned, rtol=1e-4)
    assert torch.equal(block.norm.weight, learned)


def test_a_block_that_changes_channels_stays_as_it_is() -> None:
    for block in (ConvNorm(3, 5, 3, bias=True).build(), mbconv(3, 5, 6).build()):
        before = copy.deepcopy(block.state_dict())
        block.become_identity()
        assert all(torch.equal(t, before[n]) for n, t in block.state_dict().items())


def test_an_mbconv_block_adds_next_to_nothing() -> None:
    block = mbconv(6, 6, 24).build()
    block.become_identity()
    images = positive(6)
    assert difference(images, block.train()(images)) < 0.05


def test_a_channel_that_is_constant_stays_finite() -> None:
    block = ConvNorm(2, 2, 3, bias=True).build()
    block.become_identity()
    images = torch.full((4, 2, 5, 5), 3.0)
    out = block.train()(images)
    assert out.isfinite().all()
    assert torch.allclose(out, images, atol=1e-3)


def test_architectures_of_a_space_name_what_they_share() -> None:
    """The number of blocks before a block does not change its name."""
    choices: dict[str, Value] = dict(PLAIN.sample(Random(1)).choices)
    one, two = (
        set(PLAIN.build(Architecture("plain_cnn", choices | {"k1": k}), TASK).state_dict())
        for k in (1, 3)
    )
    assert one < two
