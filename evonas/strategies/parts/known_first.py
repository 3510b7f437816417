"""A search that begins with what is known: networks made by hand, before any of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

from evonas.architecture import Architecture, Integer, Value
from evonas.errors import InvalidArchitecture, RecipeError, UnknownComponent
from evonas.spaces.base import SearchSpace
from evonas.strategies.base import Findings, Strategy
from evonas.trial import Proposal, Trial

# Widths are tried from so many octaves above the reference's to as many below, in eighths.
_OCTAVES, _EIGHTHS = 5, 8


def known_networks(
    space: SearchSpace, networks: Sequence[str | Mapping[str, Value]]
) -> dict[str, Architecture | None]:
    """Networks that a search may begin with, by what they are called.

    Args:
        space: What is searched, within its limits.
        networks: Names of its reference networks, each of which is made as wide as the limits
            allow: None if they allow no width. Or all choices of a network, taken as it is.

    Raises:
        RecipeError: If one is not there, or the search may not propose it.
    """
    known: dict[str, Architecture | None] = {}
    for place, network in enumerate(networks):
        try:
            if isinstance(network, str):
                known[network] = widest(space, space.point(network))
            else:
                architecture = space.architecture(network)
                known[architecture.id] = architecture
        except (UnknownComponent, InvalidArchitecture) as error:
            raise RecipeError(f"start_with.{place}: {error}") from error
    return known


def widest(space: SearchSpace, reference: Architecture) -> Architecture | None:
    """The reference network as wide as the limits allow, or as it is if there are none.

    All widths are scaled together, and numbers outside their domain become the nearest in it.

    Returns:
        The architecture; None if none of these is within the limits.

    Raises:
        InvalidArchitecture: If the space would not propose it without limits either.
    """
    free = space.unlimited
    free.architecture(next(_candidates(free, reference)))
    return next(filter(None, map(space.valid, _candidates(space, reference))), None)


def _candidates(space: SearchSpace, reference: Architecture) -> Iterator[Mapping[str, Value]]:
    """The reference's choices, the widest first; without limits those alone."""
    integers = {name: d for name, d in space.domains.items() if isinstance(d, Integer)}
    bounded = space.limits is not None and space.limits.bounds
    scalable = bounded and any(domain.role == "width" for domain in integers.values())
    last = _OCTAVES * _EIGHTHS if scalable else 0
    for eighths in range(last, -last - 1, -1):
        choices = dict(space.scaled(reference, width=2 ** (eighths / _EIGHTHS)).choices)
        nearest = {name: domain.nearest(int(choices[name])) for name, domain in integers.items()}
        yield {**choices, **nearest}


class KnownFirst(Strategy):
    """Try some known networks, at every fidelity, then let another strategy go on from there.

    It is told of them as of trials of its own, so they are its first parents or what its model
    learns from; and because each is tried in full, the search cannot end with less than the best
    of them.

    Args:
        strategy: Which goes on.
        known: Architectures of its space, by what they are called.
    """

    def __init__(self, strategy: Strategy, known: Mapping[str, Architecture]) -> None:
        super().__init__(strategy.space, strategy.objectives)
        self.multi_objective = strategy.multi_objective  # type: ignore[misc]  # of what it holds
        self.fidelities = strategy.fidelities
        self._strategy, self._known = strategy, dict(known)

    def ask(self, rng: Random) -> Proposal | None:
        """A known network, of all of them the lowest fidelity first; else what the other asks."""
        for low, high in pairwise((0.0, *self.fidelities)):
            for architecture in self._known.values():
                proposal = Proposal(architecture, high)
                if proposal.key in self.told.proposed:
                    continue
                if not low:
                    return proposal
                below = self.told.fullest(architecture)
                if below is not None and below.proposal.fidelity == low:
                    return replace(proposal, resume_from=below.number)
        return self._strategy.ask(rng)

    def tell(self, trial: Trial) -> None:
        """Pass it on."""
        super().tell(trial)
        self._strategy.tell(trial)

    def findings(self) -> Findings:
        """The other's; and, with one objective, the best that was known beside the best found."""
        findings, names = self._strategy.findings(), {a: name for name, a in self._known.items()}
        ranking = self.told.ranking() if len(self.objectives) == 1 else []
        known = next((trial for trial in ranking if trial.architecture in names), None)
        if known is None:
            return findings
        metric, full = self.objectives[0].metric, known.proposal.fidelity
        line = f"known networks: {names[known.architecture]} is the best of {len(names)}, "
        line += f"{metric} {known.metrics[metric]:.4g}"
        for found in ranking:
            if found.architecture not in names and found.proposal.fidelity == full:
                line += f"; the best that was found has {found.metrics[metric]:.4g}"
                break
        return replace(findings, lines=(line, *findings.lines))
