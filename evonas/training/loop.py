"""The training loop: plain PyTorch; ``fit`` reads down the page.

The data rest on the device as uint8 if they fit there, else batches are streamed to it. These are
cut and augmented there, and nothing waits for the device before the end of an epoch. On a CPU the
arithmetic is float32: bfloat16 autocast was measured ten times slower where the processor lacks
AVX512-BF16.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from evonas.training.augmentation import Augmentation, cutout, distort, gather, mix
from evonas.training.data import Data, Split
from evonas.training.graphs import (
    Replayed,
    capturing,
    on_device,
    recorder,
    replayable,
    tensor_float32,
)
from evonas.training.muon import SCALE as MUON_SCALE
from evonas.training.muon import Muon
from evonas.training.transfer import stages
from evonas.trial import Reporter

if TYPE_CHECKING:
    from evonas.training.distillation import Teacher

OptimizerName = Literal["sgd", "adamw", "muon"]
ScheduleName = Literal["cosine", "step", "one_cycle"]
# Fused: a loop over the many small tensors took two per cent of a small network's step.
_OPTIMIZERS: Mapping[OptimizerName, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
    "muon": Muon,
}
# So many steps pay for recording one: it takes as long as some twenty of them.
_RECORDED_STEPS = 50
# Seconds that compiling a network takes, and the share of an epoch that it saves, as measured.
_COMPILE_SECONDS = 50.0
_COMPILE_GAIN = 0.2
_WARM_UP = 0.1  # The learning rate rises in this share of all steps,
_RISE = 0.3  # or in this one, if the schedule is one_cycle.
_SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "loss")
_TOP5_CLASSES = 20  # With fewer, five guesses out of them hardly tell networks apart.


class Diverged(RuntimeError):
    """The training loss is not finite."""


@dataclass(frozen=True)
class Settings:
    """How to train; the evaluator ``train``, which fills it in, says what each of them means."""

    epochs: int
    batch_size: int
    optimizer: OptimizerName
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    augmentation: Augmentation
    schedule: ScheduleName = "cosine"
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    compile: bool = False
    cuda_graph: bool = True
    accumulation: int = 1
    stage_decay: float = 1.0
    clip_norm: float = 0.0
    class_weights: tuple[float, ...] = ()
    teacher: Teacher | None = None


def fit(
    network: nn.Module,
    train: Split,
    val: Split,
    normalize: Normalize,
    settings: Settings,
    seed: int,
    report: Reporter,
    stop: int | None = None,
) -> dict[str, float]:
    """Train a network in place.

    Args:
        network: On the device of the splits. It ends up with the averaged weights, if there are.
        train: Training images, on the device.
        val: Validation images, on the device; scored after every epoch.
        normalize: Applied to every batch.
        settings: How to train.
        seed: Seed of order and augmentation.
        report: Told (epoch, train_loss and the scores) after every epoch, from 1.
        stop: Stop after so many epochs, in the middle of the schedule.

    Returns:
        The scores after the last epoch: what ``evaluate`` gives, as ``val_accuracy`` and so on.

    Raises:
        Diverged: When the loss of an epoch is not finite.
    """
    # Set up: what trains the network, what is scored, and where chance comes from.
    device = train.labels.device
    rng, dice = torch.Generator(device).manual_seed(seed), Random(seed)
    network.to(memory_format=torch.channels_last)
    normalize = normalize.spread(*train.images.shape[1:3])
    forward: Callable[[torch.Tensor], torch.Tensor] = network
    optimizer = _OPTIMIZERS[settings.optimizer](parameter_groups(network, settings))
    weight = torch.tensor(settings.class_weights, device=device) if settings.class_weights else None
    loss_of = partial(F.cross_entropy, weight=weight, label_smoothing=settings.label_smoothing)
    average = Average(network, settings.ema) if settings.ema else None
    judged_network = average.network if average else network
    precision, scaler = autocast(device)
    batch_size = min(settings.batch_size, len(train))
    steps = len(train) // batch_size
    parameters = [p for p in network.parameters() if p.requires_grad]
    frozen = [s for s in stages(network) if not any(p.requires_grad for p in s.parameters())]
    # The sum stays on the device: asking for a number would wait for every step before it.
    total = torch.zeros((), device=device)

    def pace(number: int) -> tuple[float, float]:
        """Learning rate of a step, and the decay of the average."""
        # The schedule is that of all epochs even if ``stop`` comes before: so a training that is
        # cut off has had the learning rates of the whole one.
        share = schedule(number / (settings.epochs * steps), settings.schedule)
        return settings.learning_rate * share, average.decay(number) if average else 0.0

    def step(
        images: torch.Tensor,
        labels: torch.Tensor,
        index: torch.Tensor,
        rate_and_decay: tuple[float, float] | torch.Tensor,
    ) -> tuple[()]:
        """Train on the images of an index."""
        rate, decay = rate_and_decay
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
            if "capturable" in group:  # AdamW wants to be told, and complains else of either
                group["capturable"] = capturing()
        batch = augmented(images, index, normalize, settings.augmentation, rng)
        labels = labels[index]
        if settings.cutout:
            batch = cutout(batch, settings.cutout, rng)
        # An image that was mixed has two classes: each counts by its share of the image.
        batch, others, share = mix(batch, labels, settings.mixup, settings.cutmix, dice)
        optimizer.zero_grad(set_to_none=True)
        # In parts, if there was not enough memory for a whole batch; their gradients add up.
        parts = (whole.chunk(settings.accumulation) for whole in (batch, labels, others))
        for part, of_part, of_others in zip(*parts, strict=True):
            with precision():
                logits = forward(part)
                loss = loss_of(logits, of_part)
                if share < 1:
                    loss = share * loss + (1 - share) * loss_of(logits, of_others)
                if settings.teacher:
                    loss = settings.teacher.blend(loss, part, logits)
            loss = loss * (len(part) / batch_size)
            # Float16 alone is scaled, so that small gradients do not vanish; else these lines are
            # backward, clipping and step.
            scaler.scale(loss).backward()
            total.add_(loss.detach())
        if settings.clip_norm:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        if average:
            average.update(decay)
        return ()

    # On a GPU a step is recorded, then replayed: launching its kernels takes longer than they do.
    # Nothing of it must be decided by the host, as how images are mixed is, and float16 scaled.
    host_decides = settings.mixup or settings.cutmix or settings.compile or scaler.is_enabled()
    long = settings.cuda_graph and settings.epochs * steps >= _RECORDED_STEPS
    record = recorder(device, rng) if long and not host_decides else None
    if record:
        sample = torch.zeros(batch_size, *train.images.shape[1:], device=device)
        with precision():
            record = record if replayable(network, normalize(sample.permute(0, 3, 1, 2))) else None
    run_step = Replayed(step, record) if record else step
    infer = inference(judged_network, normalize, device)
    infer = Replayed(infer, record) if record else infer
    scores: dict[str, float] = {}
    for epoch in range(settings.epochs if stop is None else stop):
        start = time.perf_counter()
        network.train()
        for stage in frozen:  # its normalisation statistics belong to its weights: they stay, too
            stage.eval()
        total.zero_()
        batches = train.batches(batch_size, rng)
        paces = [pace(epoch * steps + number) for number in range(steps)]
        with tensor_float32(device):
            for batch, rate_and_decay in zip(
                batches, on_device(paces, device) if record else paces, strict=True
            ):
                run_step(*batch, rate_and_decay)
        mean_loss = total.item() / steps  # the epoch's one wait for the device
        if not math.isfinite(mean_loss):
            raise Diverged(f"the training loss is {mean_loss} after epoch {epoch + 1}")
        if settings.compile and epoch == 0:
            left = (settings.epochs - 1) * (time.perf_counter() - start)
            if _COMPILE_GAIN * left > _COMPILE_SECONDS:
                # Networks share their layers' code, and torch gives up on what was compiled often.
                torch.compiler.reset()
                forward = torch.compile(network)
        val_batch_size = max(1, 2 * batch_size // settings.accumulation)
        scores = evaluate(judged_network, val, normalize, val_batch_size, infer)
        scores = {f"val_{name}": score for name, score in scores.items()}
        report(epoch + 1, {"train_loss": mean_loss, **scores})
    if average:
        network.load_state_dict(average.network.state_dict())
    network.eval()
    return scores if device.type == "cpu" else {**scores, "cuda_graph": float(record is not None)}


def parameter_groups(network: nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """What the optimizer trains: weights, then biases and normalisation, which do not decay.

    Returns:
        Groups as torch.optim takes them. ``scale`` is their factor on the learning rate;
        ``orthogonal`` are kernels that Muon is for: all but the classifier's and those of one
        input channel, of depthwise convolutions say, which mix nothing.
    """
    behind = [list(stage.parameters()) for stage in reversed(stages(network))]
    places = {id(parameter): place for place, stage in enumerate(behind) for parameter in stage}
    classifier = {id(parameter) for stage in behind[:1] for parameter in stage}
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            kernel = parameter.ndim > 1
            orthogonal = (
                settings.optimizer == "muon"
                and kernel
                and parameter.shape[1] > 1
                and id(parameter) not in classifier
            )
            decay = settings.weight_decay if kernel else 0.0
            # A network need not have stages.
            scale = settings.stage_decay ** places.get(id(parameter), 0)
            scale *= MUON_SCALE if orthogonal else 1.0
            groups.setdefault((decay, scale, orthogonal), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "scale": scale, "orthogonal": orthogonal}
        for (decay, scale, orthogonal), parameters in groups.items()
    ]


def schedule(progress: float, name: ScheduleName = "cosine") -> float:
    """Share of the peak learning rate.

    Args:
        progress: Share of the steps that are done, 0…1.
        name: ``cosine``: a tenth of the steps warms up linearly, the rest falls to zero;
            ``step``: the same warm-up, then a tenth from one half on, a hundredth from three
            quarters on; ``one_cycle`` (Smith & Topin 2018): linearly from a 25th to the peak in
            three tenths of the steps, then a cosine to zero.
    """
    if name == "one_cycle":
        if progress < _RISE:
            return (1 + 24 * progress / _RISE) / 25
        return _cosine((progress - _RISE) / (1 - _RISE))
    if progress < _WARM_UP:
        return (progress + 0.01) / (_WARM_UP + 0.01)
    if name == "step":
        return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01
    return _cosine((progress - _WARM_UP) / (1 - _WARM_UP))


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


class Average:
    """An exponential moving average of a network's parameters and buffers.

    The first n updates decay by (1 + n) / (10 + n) at most, so that the random weights at the
    start are soon forgotten in a short training too.

    Attributes:
        network: A copy of the network with the averaged weights.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network)
        self._decay = decay
        pairs = [
            *zip(self.network.parameters(), network.parameters(), strict=True),
            *zip(self.network.buffers(), network.buffers(), strict=True),
        ]
        numbers = [pair for pair in pairs if pair[0].is_floating_point()]
        self._means, self._latest = zip(*numbers, strict=True)
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    def decay(self, updates: int) -> float:
        """Of the next update, after so many."""
        return min(self._decay, (1 + updates) / (10 + updates))

    @torch.no_grad()
    def update(self, decay: float | torch.Tensor) -> None:
        """Take the network's weights into account, as they are now; a tensor is a scalar."""
        if isinstance(decay, torch.Tensor):
            torch._foreach_mul_(self._means, decay)
            torch._foreach_add_(self._means, torch._foreach_mul(self._latest, 1 - decay))
        else:
            torch._foreach_lerp_(self._means, self._latest, 1 - decay)
        for counter, value in self._counters:  # how many batches normalisation saw
            counter.copy_(value)


def augmented(
    images: torch.Tensor,
    index: torch.Tensor,
    normalize: Normalize,
    augmentation: Augmentation,
    rng: torch.Generator,
) -> torch.Tensor:
    """Images of an index, float, (B, C, H, W), channels last."""
    batch = distort(gather(images, index, augmentation, rng), augmentation, rng)
    return normalize(batch.permute(0, 3, 1, 2))  # type: ignore[no-any-return]


def evaluate(
    network: nn.Module,
    part: Split,
    normalize: nn.Module,
    batch_size: int = 256,
    infer: Callable[[torch.Tensor], tuple[torch.Tensor]] | None = None,
) -> dict[str, float]:
    """Score a network.

    Args:
        network: Gives logits (N, classes); on the device of the split.
        part: Images and labels.
        normalize: Applied to every batch.
        batch_size: Images at a time. Twice as many as in training need no more memory than that,
            for no activations are kept.
        infer: What ``inference`` gives for this network, or a recording of it.

    Returns:
        By ``score_names``: ``accuracy``, the share of the images whose class is the most probable
        one; ``balanced_accuracy``, the mean over the classes of that share; ``macro_f1``, the mean
        over them of the harmonic mean of precision and recall (of classes that have images; 0 for
        one that is never guessed); ``loss``, the mean cross-entropy; ``top5_accuracy``, the share
        whose class is among the five most probable ones.
    """
    network.eval().to(memory_format=torch.channels_last)
    device = part.labels.device
    infer = infer or inference(network, normalize, device)
    sums: list[torch.Tensor] = []  # of a batch: loss, and right guesses among five
    guesses: list[torch.Tensor] = []
    with torch.inference_mode():
        for images, labels in zip(
            part.images.split(batch_size), part.labels.split(batch_size), strict=True
        ):
            (logits,) = infer(images.to(device, non_blocking=True))
            classes = logits.shape[1]
            nearest = logits.topk(min(5, classes)).indices == labels[:, None]
            loss = F.cross_entropy(logits, labels, reduction="sum")
            sums.append(torch.stack([loss, nearest.sum().float()]))
            guesses.append(logits.argmax(1))
        pairs = part.labels * classes + torch.cat(guesses)
        confusion = pairs.bincount(minlength=classes**2).view(classes, classes).double()
        right, of_class, guessed = confusion.diag(), confusion.sum(1), confusion.sum(0)
        there = of_class > 0
        recall = (right / of_class.clamp(min=1)).sum() / there.sum()
        f1 = (2 * right / (of_class + guessed).clamp(min=1))[there].mean()
        loss, nearest = torch.stack(sums).double().sum(0) / len(part)
        scores = {
            "accuracy": right.sum() / len(part),
            "balanced_accuracy": recall,
            "macro_f1": f1,
            "loss": loss,
            "top5_accuracy": nearest,
        }
        names = score_names(classes)
        values = torch.stack([scores[name] for name in names]).tolist()  # one wait for the device
        return dict(zip(names, values, strict=True))


def score_names(classes: int) -> tuple[str, ...]:
    """Names of what ``evaluate`` measures: top-5 accuracy where there are classes enough."""
    return (*_SCORES, "top5_accuracy") if classes >= _TOP5_CLASSES else _SCORES


def inference(
    network: nn.Module, normalize: nn.Module, device: torch.device
) -> Callable[[torch.Tensor], tuple[torch.Tensor]]:
    """Gives the logits (N, classes), float32, of images, uint8, (N, H, W, C), on the device."""
    precision, _ = autocast(device)

    def infer(images: torch.Tensor) -> tuple[torch.Tensor]:
        with precision():
            return (network(normalize(images.permute(0, 3, 1, 2))).float(),)

    return infer


class Mirrored(nn.Module):
    """The mean of the logits of an image and of its mirror image (test-time augmentation)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) to (N, classes)."""
        logits: torch.Tensor = self.network(images) + self.network(images.flip(3))
        return logits / 2


class Normalize(nn.Module):
    """Images in 0…255 to zero mean and unit variance per channel; float, (N, C, H, W)."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(1, -1, 1, 1).clone())
        self.register_buffer("std", std.view(1, -1, 1, 1).clone())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise a batch (N, C, H, W) of any dtype."""
        return images.to(torch.float32, copy=True).sub_(self.mean).div_(self.std)

    def spread(self, height: int, width: int) -> Normalize:
        """The same for images of one size, several times faster on a CPU.

        With channels last, a number per channel means a vector loop of three steps; a number per
        pixel and channel makes one long loop of it.
        """
        spread = Normalize(self.mean, self.std)
        for name, values in self.named_buffers():
            wide = values.expand(-1, -1, height, width)
            setattr(spread, name, wide.contiguous(memory_format=torch.channels_last))
        return spread


@dataclass(frozen=True)
class OnDevice:
    """What training needs of a data set, on a device ("cuda:1"): there from its first use on."""

    data: Data
    device: str

    @cached_property
    def splits(self) -> tuple[Split, Split]:
        """Training and validation images."""
        return self.data.train.to(self.device), self.data.val.to(self.device)

    @cached_property
    def normalize(self) -> Normalize:
        """By the statistics of the training images."""
        return Normalize(*self.data.channel_statistics()).to(torch.device(self.device))


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Seed torch's global generators, which initialisation draws from; restore them afterwards."""
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def autocast(device: torch.device) -> tuple[Callable[[], torch.autocast], torch.amp.GradScaler]:
    """Mixed precision on CUDA alone: bfloat16 where the GPU has it, else float16, scaled."""
    if device.type != "cuda" or _has_bfloat16():
        return partial(bfloat16, device), torch.amp.GradScaler(device.type, enabled=False)
    half = partial(torch.autocast, device.type, dtype=torch.float16)
    return half, torch.amp.GradScaler(device.type)


def bfloat16(device: torch.device) -> torch.autocast:
    """Mixed precision that needs no scaling, where the GPU has it."""
    enabled = device.type == "cuda" and _has_bfloat16()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _has_bfloat16() -> bool:
    """Whether the GPU computes in bfloat16; where torch emulates it, it is slow."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))
