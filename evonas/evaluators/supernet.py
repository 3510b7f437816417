"""Weight sharing: train a supernet once, then score an architecture with its weights in seconds.

Uniform sampling of single paths and fresh batch normalisation statistics for every architecture,
as in Single Path One-Shot NAS (SPOS; Guo et al., ECCV 2020). Scores compare architectures, the loss
better than the accuracy; they are not those of networks trained alone.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import torch
from torch import nn
from torch.nn import functional as F

from evonas.architecture import Architecture
from evonas.errors import InvalidArchitecture, OptionError
from evonas.evaluators.base import Context, Evaluator
from evonas.evaluators.parts.one_shot import LONGEST, Shared, SharedWeights
from evonas.recipe.options import Count, Decay, Positive
from evonas.spaces.parts.supernet import Supernet
from evonas.training.augmentation import Augmentation
from evonas.training.loop import bfloat16, schedule

_LABEL_SMOOTHING = 0.1
# The first paths stand for the domains, and for whatever else the space draws by.
_PATHS_IN_DIGEST = 16


class SinglePathOneShot(SharedWeights[Shared]):
    """Score architectures with the shared weights of a supernet; train finals as ``of`` does.

    The first trial trains the supernet, on paths within the limits, or loads it from the run
    folder; a training that was cut off goes on after its last whole epoch. The fidelity of a trial
    has no effect.

    Args:
        context: The world; its data are needed, and a space that offers a supernet.
        of: What trains finals.
        epochs: Of the supernet.
        batch_size: Images a step, which trains one path.
        learning_rate: The peak of warm-up and cosine; SGD with Nesterov momentum 0.9 and gradients
            that are cut to a norm of 5.
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

    def _begin(self, supernet: Supernet) -> Shared:
        """The supernet alone."""
        optimizer = torch.optim.SGD(
            supernet.parameters(), self._rate, 0.9, weight_decay=self._decay, nesterov=True
        )
        paths = [self._path(f"0/{step}").id for step in range(_PATHS_IN_DIGEST)]
        settings = {"options": [self._rate, self._decay], "paths": paths}
        return Shared(supernet, optimizer, settings=settings)

    def _step(
        self,
        training: Shared,
        images: torch.Tensor,
        labels: torch.Tensor,
        progress: float,
        place: str,
    ) -> torch.Tensor:
        """Draw a path within the limits uniformly, and train it.

        Parameters that a path does not name stay as they are; of those that it uses in part, the
        rest follows momentum and weight decay.
        """
        (optimizer,) = training.optimizers
        optimizer.param_groups[0]["lr"] = self._rate * schedule(progress)
        with bfloat16(labels.device):
            logits = training.supernet(images, self._path(place))
            loss = F.cross_entropy(logits, labels, label_smoothing=_LABEL_SMOOTHING)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(training.supernet.parameters(), LONGEST)
        optimizer.step()
        return loss.detach()

    def _path(self, place: str) -> Architecture:
        return self.context.space.sample(Random(f"{self.context.seed}/{place}"))
