"""Augmentation is index arithmetic: every pixel comes from the image, in a place it may be in."""

from __future__ import annotations

import itertools

import pytest
import torch

from evonas.training.augmentation import AUGMENTATIONS, Augmentation, gather


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
    assert AUGMENTATIONS == ("none", "crop", "standard")


def test_none_is_indexing() -> None:
    images = torch.randint(0, 256, (10, 6, 4, 3), dtype=torch.uint8)
    index = torch.tensor([3, 3, 9, 0])
    assert torch.equal(gather(images, index, "none", rng()), images[index])


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
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
