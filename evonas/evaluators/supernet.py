"""Weight sharing: train a supernet once, then score an architecture with its weights in seconds.

Uniform sampling of single paths and fresh batch normalisation statistics for every architecture,
as in Single Path One-Shot NAS (SPOS; Guo et al., ECCV 2020). Scores compare architectures; they
are not the accuracies of networks trained alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from random import Random

import torch
from torch.nn import functional as F

from evonas.errors import InvalidArchitecture, OptionError
from evonas.evaluators.base import Context, Evaluator
from evonas.evaluators.parts.one_shot import SharedWeights
from evonas.recipe.options import Count, Decay, Positive
from evonas.spaces.parts.supernet import Supernet
from evonas.training.augmentation import Augmentation
from evonas.training.loop import bfloat16, schedule

_LABEL_SMOOTHING = 0.1
_PATHS_IN_DIGEST = (
    16  # The first paths stand for the domains, and whatever else the space draws by.
)


class SinglePathOneShot(SharedWeights):
    """Score architectures with the shared weights of a supernet; train finals as ``of`` does.

    The first trial trains the supernet, or loads it from the run folder; a training that was cut
    off goes on after its last whole epoch. The fidelity of a trial has no effect.

    Args:
        context: The world; its data are needed, and a space that offers a supernet.
        of: What trains finals.
        epochs: Of the supernet.
        batch_size: Images a step, which trains one path.
        learning_rate: The peak of warm-up and cosine; SGD with Nesterov momentum 0.9.
        weight_decay: On the parameters of the step's path.
        augmentation: ``none``, ``crop``, ``standard``, ``v1`` or ``v2``; see ``Train``.
        calibration_batches: Batches that an architecture's normalisation statistics come from.
    """

    def __init__(
        self,
        context: Context,
        of: Callable[[Context], Evaluator],
        epochs: Count = 20,
        batch_size: Count = 128,
        learning_rate: Positive = 0.1,
        weight_decay: Decay = 5e-4,
        augmentation: Augmentation = "standard",
        calibration_batches: Count = 8,
    ) -> None:
        super().__init__(
            context, of(context), epochs, batch_size, augmentation, calibration_batches
        )
        self._rate, self._decay = learning_rate, weight_decay
        try:
            with torch.device("meta"):
                context.space.build_supernet(self._data.task)
        except InvalidArchitecture as error:
            raise OptionError("name", str(error)) from error

    def _trained_supernet(self) -> Supernet:
        return self._supernet

    @cached_property
    def _supernet(self) -> Supernet:
        """The trained supernet: of the run folder, or trained now while others wait for it."""
        supernet = self._initial_supernet()
        optimizer = torch.optim.SGD(
            supernet.parameters(), self._rate, 0.9, weight_decay=self._decay, nesterov=True
        )
        paths = [
            self.context.space.sample(self._path_rng(0, step)).id
            for step in range(_PATHS_IN_DIGEST)
        ]
        digest = self._digest(options=[self._rate, self._decay], paths=paths)
        self._train(supernet, [optimizer], digest, partial(self._train_epoch, supernet, optimizer))
        return supernet

    def _train_epoch(self, supernet: Supernet, optimizer: torch.optim.SGD, epoch: int) -> None:
        """Every step draws a path uniformly, and trains it.

        Parameters that a path does not name stay as they are; of those that it uses in part, the
        rest follows momentum and weight decay.
        """

        def step(
            progress: float, number: int, images: torch.Tensor, labels: torch.Tensor
        ) -> torch.Tensor:
            optimizer.param_groups[0]["lr"] = self._rate * schedule(progress)
            path = self.context.space.sample(self._path_rng(epoch, number))
            with bfloat16(labels.device):
                logits = supernet(images, path)
                loss = F.cross_entropy(logits, labels, label_smoothing=_LABEL_SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            return loss.detach()

        self._epoch(supernet, epoch, step)

    def _path_rng(self, epoch: int, step: int) -> Random:
        return Random(f"{self.context.seed}/{epoch}/{step}")
