"""A controller learns what to choose: an LSTM that emits one choice after another.

Zoph and Le, Neural architecture search with reinforcement learning, ICLR 2017 (REINFORCE); Zoph,
Vasudevan, Shlens and Le, Learning transferable architectures for scalable image recognition, CVPR
2018 (PPO); Schulman et al., Proximal policy optimization algorithms, 2017.

The papers spent ten thousand trials and more. For a few hundred the learning rate is higher by one
to two orders of magnitude, a batch is three trials, and PPO, the default, takes five steps on each.
Measured figures: docs/results.md.
"""

from __future__ import annotations

import math
from bisect import bisect, bisect_left, bisect_right, insort
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Literal

from evonas.architecture import Architecture, Categorical, Domain, Value
from evonas.recipe.options import Count, NonNegative, Positive
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.trial import Objective, Proposal, Trial, TrialState

if TYPE_CHECKING:  # imported when a controller is made
    from torch import Tensor

_LEVELS = 256  # A choice has at most so many outputs; of a larger domain each is a range of values.
_DRAWN = 8  # So many architectures are drawn at once: it takes nearly as long as one.
_TEMPERATURES = (1.0, 1.0, 1.5, 2.0, 3.0, 5.0)  # Draws get hotter until one is new.
_CLIP = 0.2  # PPO lets the probability of a choice move so far in a batch.
_LEARNING_RATES = {"ppo": 0.01, "reinforce": 0.05}
_EPOCHS = 5  # PPO takes so many steps on a batch.
_MEMORY = 0.8  # The moving baseline keeps this share of itself with every batch.


class Reinforce(Strategy):
    """Draw from a policy that makes good choices more probable.

    A trial's reward is its rank among all completed ones, 0…1, so any objective will do. Failed and
    pruned trials are rewarded like the worst. The advantage is the reward less a moving mean. A
    draw that was tried before or that the constraints refuse is drawn again, hotter and hotter, and
    at last the space itself is sampled; what came of that is learned from all the same.

    Args:
        algorithm: ``ppo`` or ``reinforce``, which takes one step on a batch.
        batch_size: Ended trials between updates of the controller.
        learning_rate: Of Adam; default 0.01 for ppo, 0.05 for reinforce.
        entropy: Weight of the bonus for undecided choices, per choice and relative to the largest
            possible entropy.
        hidden: Units of the LSTM.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        algorithm: Literal["ppo", "reinforce"] = "ppo",
        batch_size: Count = 3,
        learning_rate: Positive | None = None,
        entropy: NonNegative = 0.02,
        hidden: Count = 32,
    ) -> None:
        super().__init__(space, objectives)
        rate = _LEARNING_RATES[algorithm] if learning_rate is None else learning_rate
        self._controller = _Controller(space, hidden, rate)
        self._steps = _EPOCHS if algorithm == "ppo" else 1
        self._batch_size, self._entropy = batch_size, entropy
        self._batch: list[tuple[Architecture, float]] = []
        self._baseline: float | None = None
        self._values: list[float] = []  # of the completed trials, ascending

    def ask(self, rng: Random) -> Proposal | None:
        """The controller's first draw that is new and allowed."""
        for temperature in _TEMPERATURES:
            for choices in self._controller.draw(_DRAWN, temperature, rng):
                architecture = self.space.valid(choices)
                if architecture and Proposal(architecture).key not in self.told.proposed:
                    return Proposal(architecture)
        return self.new(rng)

    def tell(self, trial: Trial) -> None:
        """Ended trials fill a batch; a full one is learned from."""
        super().tell(trial)
        if trial.state is TrialState.RUNNING:
            return
        self._batch.append((trial.architecture, self._reward(trial)))
        if len(self._batch) == self._batch_size:
            self._learn()
            self._batch = []

    def _reward(self, trial: Trial) -> float:
        """Share of the completed trials that are worse, halves of ties counted."""
        if trial.state is not TrialState.COMPLETE:
            return 0.0
        value, values = self.objectives[0].key(trial.metrics), self._values
        insort(values, value)
        below = bisect_left(values, value) + bisect_right(values, value) - 1  # not of itself
        return below / (2 * max(1, len(values) - 1))

    def _learn(self) -> None:
        """Follow the policy gradient of the batch."""
        rewards = [reward for _, reward in self._batch]
        mean = sum(rewards) / len(rewards)
        baseline = mean if self._baseline is None else self._baseline
        self._baseline = _MEMORY * baseline + (1 - _MEMORY) * mean
        advantages = [reward - baseline for reward in rewards]
        architectures = [architecture for architecture, _ in self._batch]
        self._controller.learn(architectures, advantages, self._steps, self._entropy)


class _Controller:
    """The LSTM: what goes in is the choice made before, and every choice has its own outputs.

    A choice without effect goes in as its first value, and has no part in what is learned.
    """

    def __init__(self, space: SearchSpace, hidden: int, learning_rate: float) -> None:
        import torch

        self._space, self._no_grad = space, torch.no_grad
        self._choices: list[_Choice] = []
        outputs = 0
        for name, domain in space.domains.items():
            self._choices.append(_Choice(name, domain, outputs))
            outputs = self._choices[-1].stop
        generator = torch.Generator().manual_seed(0)

        def weights(*shape: int) -> Tensor:
            empty = torch.empty(*shape, device="cpu", dtype=torch.float32)
            return empty.uniform_(-0.1, 0.1, generator=generator).requires_grad_()

        lstm = torch.nn.LSTM(hidden, hidden, batch_first=True, device="meta")
        self._lstm = lstm.to_empty(device="cpu").float()  # made without torch's own randomness
        for parameter in self._lstm.parameters():
            parameter.data = weights(*parameter.shape).data
        self._embedding = weights(outputs + 1, hidden)  # the last one comes before all choices
        self._heads = weights(outputs, hidden)
        priors = [prior for choice in self._choices for prior in choice.priors()]
        self._scores = self._heads.new_tensor(priors).log().requires_grad_()
        # By choice the outputs of others: their logits count for nothing.
        self._others = torch.full((len(self._choices), outputs), -1e9, device="cpu")
        for row, choice in zip(self._others, self._choices, strict=True):
            row[choice.start : choice.stop] = 0.0
        learned = (*self._lstm.parameters(), self._embedding, self._heads, self._scores)
        self._optimizer = torch.optim.Adam(learned, lr=learning_rate)

    def draw(self, count: int, temperature: float, rng: Random) -> list[dict[str, Value]]:
        """Draw all choices so many times; the higher the temperature, the more evenly."""
        drawn: list[dict[str, Value]] = [{} for _ in range(count)]
        outputs, state = [len(self._heads)] * count, None
        with self._no_grad():
            for choice in self._choices:
                hidden, state = self._lstm(self._embedding[outputs].unsqueeze(1), state)
                own = slice(choice.start, choice.stop)
                logits = hidden.squeeze(1) @ self._heads[own].T + self._scores[own]
                sums = (logits / temperature).softmax(1).cumsum(1).tolist()
                for n, (choices, chances) in enumerate(zip(drawn, sums, strict=True)):
                    effect = self._space.has_effect(choice.name, choices)
                    level = bisect(chances, rng.random(), hi=choice.levels - 1) if effect else 0
                    choices[choice.name] = choice.value(level, rng)
                    outputs[n] = choice.start + level
        return drawn

    def learn(
        self, batch: Sequence[Architecture], advantages: Sequence[float], steps: int, entropy: float
    ) -> None:
        """Make choices of a positive advantage more probable, others less.

        The first of the steps is REINFORCE's. The further ones are PPO's: they leave alone what has
        become more or less probable by a fifth already.
        """
        outputs = self._heads.new_tensor(
            [[choice.output(a.choices[choice.name]) for choice in self._choices] for a in batch]
        ).long()
        effect = self._heads.new_tensor(
            [
                [self._space.has_effect(choice.name, a.choices) for choice in self._choices]
                for a in batch
            ]
        )
        advantage = self._heads.new_tensor(advantages).unsqueeze(1)
        largest = effect.new_tensor([math.log(max(choice.levels, 2)) for choice in self._choices])
        before: Tensor | None = None
        for _ in range(steps):
            logs = self._log_chances(outputs)
            undecided = -(logs.exp() * logs).sum(2) / largest
            now = logs.gather(2, outputs.unsqueeze(2)).squeeze(2)
            before = now.detach() if before is None else before
            ratio = (now - before).exp()
            bounded = ratio.clamp(1 - _CLIP, 1 + _CLIP)
            gain = (ratio * advantage).minimum(bounded * advantage) + entropy * undecided
            self._optimizer.zero_grad()
            loss = -(effect * gain).sum() / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()

    def _log_chances(self, outputs: Tensor) -> Tensor:
        """Log probabilities (N, choices, outputs) on the way of so many outputs (N, choices)."""
        before = outputs.roll(1, 1)
        before[:, 0] = len(self._heads)
        hidden, _ = self._lstm(self._embedding[before])
        logits: Tensor = hidden @ self._heads.T + self._scores + self._others
        return logits.log_softmax(2)


class _Choice:
    """A choice, and which of the controller's outputs are its own: from ``start`` to ``stop``."""

    def __init__(self, name: str, domain: Domain, start: int) -> None:
        self.name, self._domain = name, domain
        self.levels = min(domain.size, _LEVELS)
        self.start, self.stop = start, start + self.levels
        edges = [-(-level * domain.size // self.levels) for level in range(self.levels + 1)]
        values: Sequence[Value] = domain.values()
        self._values = [values[first:last] for first, last in pairwise(edges)]  # by level

    def output(self, value: Value) -> int:
        """The controller's output that stands for a value."""
        return self.start + self._domain.index(value) * self.levels // self._domain.size

    def value(self, level: int, rng: Random) -> Value:
        """A value of a level; most domains have one."""
        return rng.choice(self._values[level])

    def priors(self) -> list[float]:
        """How probable levels are at first, up to a factor: as when the space is sampled."""
        if isinstance(self._domain, Categorical) or not self._domain.log:
            return [1.0] * self.levels
        half = self._domain.step / 2
        ends = [(int(values[0]), int(values[-1])) for values in self._values]
        return [math.log((high + half) / max(low - half, 0.5)) for low, high in ends]
