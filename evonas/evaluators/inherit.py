"""Weight reuse: a child starts from its parent's weights and trains for fewer epochs.

Lamarckian evolution, after Real et al. (ICML 2017), Cai et al. (AAAI 2018) and Elsken et al.
(ICLR 2019); how weights are carried over: ``training/inheritance.py``. Scores are not those of
training from scratch: a long line of descent has trained for long. ``evonas audit`` measures how
far the ranking holds. Measured figures: docs/results.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import nn

from evonas.architecture import Architecture
from evonas.errors import OptionError
from evonas.evaluators.base import Context, Evaluator, Reporter, Wrapper
from evonas.recipe.options import Positive, Share
from evonas.spaces.base import SearchSpace
from evonas.training.checkpoints import FOLDER, Checkpoints, Continued
from evonas.training.inheritance import rename, transplant
from evonas.trial import Trial


class Inherit(Wrapper):
    """Start every child from its parent's weights.

    A trial without parents, or whose parent's weights are lost, is trained from scratch at the
    full number of epochs. The metric ``inherited`` is the share of the parameters that came from
    the parent.

    Args:
        context: The world.
        of: The evaluator to wrap; it must train.
        epochs: Share of the inner evaluator's epochs that a child trains for.
        keep_gb: Most that the weights may take on the disk, in gigabytes; those that were not used
            for longest go first.
    """

    changes = frozenset({"weights"})

    def __init__(
        self,
        context: Context,
        of: Callable[[Context], Evaluator],
        epochs: Share = 1 / 3,
        keep_gb: Positive = 2.0,
    ) -> None:
        if context.run_dir is None:
            raise OptionError("name", "inherit needs a run folder to keep weights in")
        checkpoints = Checkpoints(context.run_dir / FOLDER, keep_gb)
        self._weights = _FromParent(context.space, checkpoints, epochs)
        super().__init__(context, of(replace(context, weights=self._weights)))
        self.metrics = (*self.inner.metrics, "inherited")

    def score(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """The inner evaluator's metrics, trained from the parent's weights."""
        metrics = self.inner.evaluate(trial, report)
        return {**metrics, "inherited": self._weights.inherited}


class _FromParent(Continued):
    """Weights of the parent, or of the trial's own lower rung."""

    def __init__(self, space: SearchSpace, checkpoints: Checkpoints, share: float) -> None:
        super().__init__(checkpoints)
        self._space, self._share = space, share
        self.inherited = 0.0  # by the last started network

    def start(self, network: nn.Module, trial: Trial, epochs: int) -> int:
        self.inherited = 0.0
        proposal = trial.proposal
        if proposal.resume_from is not None or not proposal.parents:
            return super().start(network, trial, epochs)
        parent = self.checkpoints.load(proposal.parents[0])
        self.checkpoints.make_room(trial.number)
        if parent is None:
            return epochs
        old = Architecture(self._space.name, parent.choices)
        parts = self._space.relatives(trial.architecture, old)
        self.inherited = transplant(network, rename(parent.weights, parts))
        return max(1, round(epochs * self._share))

    def end(self, network: nn.Module, trial: Trial, epochs: int) -> None:
        self.checkpoints.save(trial, network, epochs)
