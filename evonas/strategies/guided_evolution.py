"""Guided evolution: aging evolution whose children are screened by a surrogate.

Real, Aggarwal, Huang and Le, Regularized evolution for image classifier architecture search, AAAI
2019, bred and screened as in White, Neiswanger and Savani, BANANAS, AAAI 2021. The surrogate learns
from choices and costs, and from trials of several fidelities: ``parts/surrogate.py``. Children are
compared by an upper confidence bound whose weight is drawn for every proposal: Berk, Gupta, Rana
and Venkatesh, Randomised Gaussian process upper confidence bound, IJCAI 2020. Measured figures:
docs/results.md.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from random import Random
from statistics import fmean

import numpy as np
from threadpoolctl import ThreadpoolController

from evonas.architecture import Architecture
from evonas.errors import InfeasibleConstraints
from evonas.recipe.options import Count
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Strategy
from evonas.strategies.parts.breeding import tournament
from evonas.strategies.parts.surrogate import Array, Encoding, Learnt, Sizes, Surrogate
from evonas.trial import Objective, Proposal, Trial
from evonas.trials import Trials

# So many of the best trials are learnt, and as many of the youngest, for a fit takes cubic time.
_LEARNT = 75
# The weight of the uncertainty in the confidence bound is drawn with this mean.
_WEIGHT = 6.0
# This share of the children is random: mutants alone would never leave where the population is.
_IMMIGRANTS = 0.25


class GuidedEvolution(Strategy):
    """Breed many children of tournament winners, and propose the one that a surrogate prefers.

    A pruned trial counts as one as bad as the worst completed; a failed one teaches nothing. As the
    source of ``successive_halving`` it learns from every rung, and says who is promoted.

    Args:
        startup_trials: Random trials before the surrogate is used.
        population_size: The youngest completed trials, which may become parents.
        tournament_size: Drawn with replacement, the best becomes the parent.
        children: Bred for every proposal.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        startup_trials: Count = 10,
        population_size: Count = 50,
        tournament_size: Count = 5,
        children: Count = 100,
    ) -> None:
        super().__init__(space, objectives)
        self._startup_trials, self._children = startup_trials, children
        self._size, self._entrants = population_size, tournament_size
        self._encoding, self._sizes = Encoding(space), Sizes(space)
        self._every = Trials(objectives)  # of all rungs, where there are several
        self._surrogate: tuple[int, Surrogate] | None = None  # and of how many ended trials
        self._threads = ThreadpoolController().select(user_api="blas")

    def ask(self, rng: Random) -> Proposal | None:
        """Random architectures at first, then the child with the largest upper confidence bound."""
        complete = len(self.told.complete)
        if complete < 2 or complete + len(self.told.running) < self._startup_trials:
            return self.new(rng)
        children = list(self._bred(rng))
        if not children:
            return self.new(rng)
        # An exponential draw is mostly small and seldom large: most asks exploit, a few explore,
        # and workers that ask at once, of one surrogate, get different answers.
        weight = _WEIGHT * rng.expovariate(1)
        means, deviations = self._predicted([child.architecture for child in children])
        return children[int(np.argmax(means + weight * deviations))]

    def learn(self, trial: Trial) -> None:
        """Take in an event of any rung, at its own fidelity; ``tell`` has those of the lowest."""
        self._every.add(trial)

    def promising(self, trials: Sequence[Trial], eta: int) -> list[Trial]:
        """The trials, those first that would be the best if they were trained in full.

        None before ``eta`` trials were bred: the best of random ones is no good, and full trainings
        are dear.
        """
        if len(self.told.complete) < max(2, self._startup_trials + eta):
            return []
        means, _ = self._predicted([trial.architecture for trial in trials])
        return [trials[i] for i in np.argsort(-means, kind="stable")]

    def _predicted(self, architectures: Sequence[Architecture]) -> tuple[Array, Array]:
        """Means and standard deviations of what full trainings are worth."""
        points, sizes = self._encoding(architectures), self._sizes(architectures)
        with self._threads.limit(limits=1):  # for matrices this small more are slower
            return self._fitted().predict(points, sizes)

    def _bred(self, rng: Random) -> Iterator[Proposal]:
        """New children, each once: mutants of tournament winners, and some random immigrants."""
        keys = set()
        for _ in range(self._children):
            try:
                child = self._child(rng)
            except InfeasibleConstraints:  # tight limits: each failure takes a second
                return
            if child.key not in keys and child.key not in self.told.proposed:
                keys.add(child.key)
                yield child

    def _child(self, rng: Random) -> Proposal:
        """One mutation of a parent, and each time with a chance of one half another."""
        if rng.random() >= _IMMIGRANTS:
            population = self.told.complete[-self._size :]
            parent = tournament(population, self.objectives[0], self._entrants, rng)
            try:
                mutant = self.space.mutate(parent.architecture, rng)
                while rng.random() < 0.5:
                    mutant = self.space.mutate(mutant, rng)
                return Proposal(mutant, parents=(parent.number,))
            except InfeasibleConstraints:  # no way on from there: one immigrant more
                pass
        return Proposal(self.space.sample(rng))

    def _fitted(self) -> Surrogate:
        """The surrogate of what was told; made anew when a trial has ended since the last ask."""
        ended = len(self.told.ended) + len(self._every.ended)
        if self._surrogate is None or self._surrogate[0] != ended:
            self._surrogate = ended, Surrogate(self._learnt())
        return self._surrogate[1]

    def _learnt(self) -> Learnt:
        """Of the lowest rung the best, the youngest and the pruned; of higher ones the youngest.

        The best tell where the top is, the youngest where children are bred now, and the pruned
        where not to go: they have no value of full effort, so they get the worst there is.
        """
        complete = self._every.complete or self.told.complete
        lowest = min(trial.proposal.fidelity for trial in complete)
        rung = [trial for trial in complete if trial.proposal.fidelity == lowest]
        fuller = [trial for trial in complete if trial.proposal.fidelity > lowest][-_LEARNT:]
        # Those of the worst value first, and of equals the eldest; not sorted, for many are told.
        best = heapq.nlargest(_LEARNT, reversed(rung), key=self._value)[::-1]
        longer = {trial.architecture.id for trial in fuller}
        below = [trial for trial in rung if trial.architecture.id in longer] if longer else []
        some = {t.number: t for t in (*best, *rung[-_LEARNT:], *below)}.values()
        trials = [*some, *sorted(fuller, key=lambda trial: trial.proposal.fidelity)]
        values, pairs = self._aligned(trials)
        pruned = self.told.pruned[-_LEARNT:]
        values += [min(values[: len(some)])] * len(pruned)
        architectures = [trial.architecture for trial in (*trials, *pruned)]
        fidelities = [trial.proposal.fidelity for trial in trials] + [lowest] * len(pruned)
        points, sizes = self._encoding(architectures), self._sizes(architectures)
        return Learnt(points, sizes, np.array(fidelities), np.array(values), pairs)

    def _aligned(self, trials: Sequence[Trial]) -> tuple[list[float], list[tuple[int, int]]]:
        """Values on the scale of the lowest rung, and which are of one architecture in two rungs.

        What longer training adds to all alike, the mean over the pairs, is taken away.

        Args:
            trials: By rising fidelity.
        """
        values = [self._value(trial) for trial in trials]
        below: dict[str, int] = {}  # the fullest so far, by architecture
        pairs: list[tuple[int, int]] = []
        for fidelity in sorted({trial.proposal.fidelity for trial in trials}):
            rung = [i for i, trial in enumerate(trials) if trial.proposal.fidelity == fidelity]
            ids = {i: trials[i].architecture.id for i in rung}
            new = [(below[ids[i]], i) for i in rung if ids[i] in below]
            added = fmean(values[i] - values[j] for j, i in new) if new else 0.0
            for i in rung:
                values[i] -= added
                below[ids[i]] = i
            pairs += new
        return values, pairs

    def _value(self, trial: Trial) -> float:
        return self.objectives[0].key(trial.metrics)
