"""Networks that are known by name, of any spaces: the ones to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from evonas.architecture import Architecture, Categorical, Value
from evonas.errors import InvalidArchitecture, OptionError, UnknownComponent
from evonas.recipe.registry import Registry
from evonas.spaces.base import SearchSpace, Task

if TYPE_CHECKING:
    from torch import nn


SMALL = (
    *("plain_cnn/small", "mbconv/model4", "cifar_resnet/mlperf_tiny_resnet8"),
    *(f"resnet/resnet10_{size}" for size in ("xxxs", "xxs", "xs", "s")),
)


class Named(SearchSpace):
    """One choice, ``network``: which of some reference architectures of the built-in spaces.

    With the strategy ``grid``, a recipe trains what was made by hand as another trains what is
    searched for, and so gives the figures to beat.

    Args:
        networks: ``SPACE/NAME``, as ``evonas show`` calls them; or, for one that has no name, a
            mapping of ``space`` and all choices, whose numbers may exceed what is searched. By
            default those of less than 100,000 parameters.
    """

    def __init__(
        self,
        networks: Annotated[Sequence[str | Mapping[str, Value]], Field(min_length=1)] = SMALL,
    ) -> None:
        self._networks: dict[str, tuple[SearchSpace, Architecture]] = {}
        for network in networks:
            try:
                name, space, architecture = _find(network)
            except (UnknownComponent, InvalidArchitecture) as error:
                raise OptionError("networks", str(error)) from error
            if name in self._networks:
                raise OptionError("networks", f"{name} is there twice")
            self._networks[name] = space, architecture
        self.domains = {"network": Categorical(tuple(self._networks))}

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        """As its own space builds it."""
        space, network = self._networks[str(architecture.choices["network"])]
        return space.build(network, task)

    def costs(self, architecture: Architecture, task: Task) -> Mapping[str, float]:
        """As its own space counts them."""
        space, network = self._networks[str(architecture.choices["network"])]
        counted = space.costs(network, task)
        return {name: counted[name] for name in self.counted}


def _find(network: str | Mapping[str, Any]) -> tuple[str, SearchSpace, Architecture]:
    """Name, space and architecture of an item of the option."""
    if isinstance(network, str):
        of, _, point = network.partition("/")
        space: SearchSpace = Registry().find("space", of)()
        return network, space, space.point(point)
    choices = dict(network)
    of = str(choices.pop("space", ""))
    space = Registry().find("space", of)()
    architecture = space.reference(choices)
    return f"{of}/{architecture.id}", space, architecture
