"""Shifts and flips move pixels, and only where they may go; the rest stays in its bounds."""

from __future__ import annotations

import itertools
import math
from random import Random
from typing import get_args

import pytest
import torch

from evonas.training.augmentation import Augmentation, cutout, distort, gather, mix


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int, height: int, width: int, channels: int) -> torch.Tensor:
    """Images whose pixels are all different within an image (of up to 256 pixels)."""
    pixels = torch.arange(height * width, dtype=torch.uint8).view(1, height, width, 1)
    shift = torch.arange(channels, dtype=torch.uint8) * 7
    return (pixels + shift).repeat(count, 1, 1, 1)


def shifted(size: int) -> list[tuple[int, ...]]:
    """Every row order that a shift of up to an eighth gives, reflected at the border, by hand."""
    reach = max(1, size // 8) if size > 1 else 0
    mirror = [*range(size - 1, 0, -1), *range(size), *range(size - 2, -1, -1)]
    zero = max(size - 1, 0)
    return [tuple(mirror[zero + shift : zero + shift + size]) for shift in range(-reach, reach + 1)]


def order_of(image: torch.Tensor, original: torch.Tensor) -> tuple[tuple[int, ...], ...]:
    """From which row and column of the original the first column and the first row come."""
    width = original.shape[1]
    places = {int(v): divmod(i, width) for i, v in enumerate(original[..., 0].flatten())}
    rows = tuple(places[int(v)][0] for v in image[:, 0, 0])
    columns = tuple(places[int(v)][1] for v in image[0, :, 0])
    return rows, columns


def test_the_names() -> None:
    assert get_args(Augmentation) == ("none", "crop", "standard", "v1", "v2")


def test_none_is_indexing() -> None:
    images = torch.randint(0, 256, (10, 6, 4, 3), dtype=torch.uint8)
    index = torch.tensor([3, 3, 9, 0])
    assert torch.equal(gather(images, index, "none", rng()), images[index])


@pytest.mark.parametrize("augmentation", get_args(Augmentation))
@pytest.mark.parametrize(
    "shape", [(8, 8, 1), (8, 8, 3), (5, 9, 3), (2, 3, 1), (1, 1, 3), (1, 4, 1)]
)
def test_shape_type_and_pixels_stay(
    augmentation: Augmentation, shape: tuple[int, int, int]
) -> None:
    images = torch.randint(0, 256, (6, *shape), dtype=torch.uint8)
    index = torch.tensor([5, 0, 0, 2])
    out = gather(images, index, augmentation, rng())
    assert out.shape == (4, *shape)
    assert out.dtype == torch.uint8
    for image, original in zip(out, images[index], strict=True):
        pixels = {tuple(p.tolist()) for p in original.view(-1, shape[2])}
        assert {tuple(p.tolist()) for p in image.reshape(-1, shape[2])} <= pixels


@pytest.mark.parametrize("size", [(16, 16), (8, 12), (3, 2), (1, 5)])
def test_crops_are_reflected_shifts_of_up_to_an_eighth(size: tuple[int, int]) -> None:
    images = numbered(1, *size, 3)
    out = gather(images, torch.zeros(400, dtype=torch.int64), "crop", rng())
    seen = {order_of(image, images[0]) for image in out}
    assert seen == set(itertools.product(shifted(size[0]), shifted(size[1])))


def test_standard_flips_half_of_the_images_left_to_right() -> None:
    images = numbered(1, 16, 16, 1)
    out = gather(images, torch.zeros(1000, dtype=torch.int64), "standard", rng())
    forward, flips = shifted(16), 0
    for image in out:
        rows, columns = order_of(image, images[0])
        assert rows in forward
        flipped = columns[::-1] in forward and columns not in forward
        assert flipped or columns in forward
        flips += flipped
    assert 430 < flips < 570  # 500 ± 4 standard deviations


def test_images_of_one_batch_are_augmented_independently() -> None:
    images = numbered(1, 16, 16, 1)
    out = gather(images, torch.zeros(64, dtype=torch.int64), "standard", rng())
    assert len({order_of(image, images[0]) for image in out}) > 20


def test_the_channels_of_a_pixel_stay_together() -> None:
    images = numbered(4, 16, 16, 3)
    out = gather(images, torch.arange(4), "standard", rng()).to(torch.int64)
    assert torch.equal((out[..., 1] - out[..., 0]) % 256, torch.full_like(out[..., 0], 7))


def test_the_generator_alone_decides() -> None:
    images = torch.randint(0, 256, (50, 8, 8, 3), dtype=torch.uint8)
    index = torch.arange(50)
    state = torch.random.get_rng_state()
    one, two = (gather(images, index, "standard", rng(1)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, gather(images, index, "standard", rng(2)))
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_data_set_stays_as_it_is() -> None:
    images = torch.randint(0, 256, (8, 8, 8, 3), dtype=torch.uint8)
    before = images.clone()
    gather(images, torch.arange(8), "standard", rng()).zero_()
    assert torch.equal(images, before)


@pytest.mark.parametrize(("augmentation", "share"), [("v1", 0.5), ("v2", 0.25)])
def test_v1_and_v2_flip_a_share_and_shift_nothing(augmentation: Augmentation, share: float) -> None:
    images = numbered(1, 16, 16, 3)
    out = gather(images, torch.zeros(1000, dtype=torch.int64), augmentation, rng())
    flipped = (out == images.flip(2)).flatten(1).all(1)
    assert torch.equal(flipped, ~(out == images).flatten(1).all(1))
    assert abs(flipped.sum() - 1000 * share) < 64  # 4 standard deviations


def noise(count: int = 8, height: int = 12, width: int = 12, channels: int = 3) -> torch.Tensor:
    shape = (count, height, width, channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng(9))


def changed(out: torch.Tensor, images: torch.Tensor) -> int:
    return int((out != images).flatten(1).any(1).sum())


@pytest.mark.parametrize("augmentation", ["none", "crop", "standard"])
def test_index_arithmetic_alone_distorts_nothing(augmentation: Augmentation) -> None:
    images = noise()
    assert distort(images, augmentation, rng()) is images


@pytest.mark.parametrize("augmentation", ["v1", "v2"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8, 3), (5, 9, 4), (1, 1, 3), (1, 4, 1)])
@pytest.mark.parametrize("count", [1, 7])
def test_distorted_images_stay_images(
    augmentation: Augmentation, shape: tuple[int, int, int], count: int
) -> None:
    images = noise(count, *shape)
    before = images.clone()
    out = distort(images, augmentation, rng())
    assert out.shape == images.shape
    assert out.dtype == torch.float32
    assert 0 <= out.min() <= out.max() <= 255
    assert torch.equal(images, before)


@pytest.mark.parametrize("augmentation", ["v1", "v2"])
def test_some_images_are_distorted_and_some_are_not(augmentation: Augmentation) -> None:
    images = noise(64)
    out = distort(images, augmentation, rng())
    assert 32 <= changed(out, images) < 64
    assert torch.equal(out, distort(images, augmentation, rng()))
    assert not torch.equal(out, distort(images, augmentation, rng(1)))


def test_one_colour_survives_v1_and_keeps_its_tone_in_v2() -> None:
    plain = torch.full((32, 9, 9, 3), 100, dtype=torch.uint8)
    assert torch.allclose(distort(plain, "v1", rng()), plain.float(), atol=1e-3)
    out = distort(plain, "v2", rng())  # brighter or darker, but as grey as before
    assert torch.allclose(out, out[:, :1, :1, :1].expand_as(out), atol=1e-3)
    assert 70 <= out.min() < 90 < 110 < out.max() <= 130


def test_rotations_are_up_to_15_degrees_either_way_round_the_centre() -> None:
    images = torch.zeros(400, 33, 65, 1, dtype=torch.uint8)  # a bright spot, right of the centre
    images[:, 16, 48:51] = 255
    out = distort(images, "v1", rng())[..., 0]
    weight = out.sum((1, 2))
    rows, columns = torch.arange(33.0) - 16, torch.arange(65.0) - 32
    down, right = (out.sum(2) @ rows) / weight, (out.sum(1) @ columns) / weight
    angle = torch.atan2(down, right).rad2deg()
    assert torch.allclose(torch.hypot(down, right), torch.full((400,), 17.0), atol=0.3)
    assert -15.5 < angle.min() < -14 < 14 < angle.max() < 15.5
    assert (angle.abs() < 1e-3).sum() >= 200  # half of them stay


def test_a_blurred_pixel_is_the_mean_of_its_neighbours() -> None:
    images = torch.zeros(64, 7, 7, 1, dtype=torch.uint8)
    images[:, 3, 3] = 90
    square = torch.zeros(7, 7)
    square[2:5, 2:5] = 10
    out = distort(images, "v1", rng())[..., 0]
    assert any(torch.allclose(image, square, atol=1e-4) for image in out)


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_sets_one_square_of_every_image_to_zero(size: int) -> None:
    shape = (300, 3, 10, 12)
    for layout in (torch.contiguous_format, torch.channels_last):
        images = torch.ones(shape).to(memory_format=layout)
        out = cutout(images, size, rng()) == 0
        assert torch.equal(out, out[:, :1].expand(shape))
        holes = set()
        for hole in out[:, 0]:
            rows, columns = (torch.nonzero(hole.any(axis)).flatten() for axis in (1, 0))
            assert hole.sum() == len(rows) * len(columns)
            assert int(rows[-1] - rows[0]) + 1 == len(rows) <= size
            assert int(columns[-1] - columns[0]) + 1 == len(columns) <= size
            holes.add((int(rows[0]), int(columns[0]), len(rows), len(columns)))
        assert len(holes) > 50
        assert any(hole[2:] == (size, size) for hole in holes)


def one_hot(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Image i has the value i in all pixels, and the label i."""
    labels = torch.arange(count)
    return labels.float().view(-1, 1, 1, 1).repeat(1, 3, 16, 16), labels


def test_nothing_is_mixed_unless_asked_for() -> None:
    images, labels = one_hot()
    out, others, share = mix(images, labels, 0.0, 0.0, Random(0))
    assert out is images
    assert others is labels
    assert share == 1


def test_mixup_adds_images_in_the_proportion_of_their_labels() -> None:
    shares = []
    for seed in range(20):
        images, labels = one_hot()
        out, others, share = mix(images, labels, 0.5, 0.0, Random(seed))
        assert sorted(others.tolist()) == labels.tolist()
        assert not (others == labels).any()
        expected = share * labels + (1 - share) * others
        assert torch.allclose(out, expected.view(-1, 1, 1, 1).expand_as(out), atol=1e-5)
        shares.append(share)
    assert min(shares) < 0.2 < 0.8 < max(shares)


def test_cutmix_replaces_a_rectangle_of_the_area_of_the_other_label() -> None:
    areas = []
    for seed in range(200):
        images, labels = one_hot()
        out, others, share = mix(images, labels, 0.0, 1.0, Random(seed))
        replaced = out == others.view(-1, 1, 1, 1)
        assert torch.equal(replaced, ~(out == labels.view(-1, 1, 1, 1)))
        assert torch.allclose(replaced.float().mean((1, 2, 3)), torch.full((8,), 1 - share))
        rows, columns = replaced[0, 0].any(1).sum(), replaced[0, 0].any(0).sum()
        assert replaced[0, 0].sum() == rows * columns
        areas.append(1 - share)
    assert 0 <= min(areas) < 0.05 < 0.7 < max(areas) <= 1


def test_mixup_and_cutmix_take_turns() -> None:
    kinds = []
    for seed in range(200):
        images, labels = one_hot()
        out, _, share = mix(images, labels, 1.0, 1.0, Random(seed))
        kinds.append(bool((out == out.round()).all()))  # pixels of either image, not between
        assert 0 <= share <= 1
    assert 70 < sum(kinds) < 130


def test_a_single_image_is_mixed_with_itself() -> None:
    for mixup, cutmix in ((1.0, 0.0), (0.0, 1.0)):
        images, labels = torch.rand(1, 3, 1, 1), torch.tensor([2])
        out, others, share = mix(images.clone(), labels, mixup, cutmix, Random(0))
        assert torch.allclose(out, images)
        assert torch.equal(others, labels)
        assert math.isfinite(share)
