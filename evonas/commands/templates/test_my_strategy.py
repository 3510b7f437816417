"""The strategy through the public contract kit, and whatever is special about it."""

from __future__ import annotations

from pathlib import Path

from evonas import Objective, Registry
from evonas.testing import check_strategy

PLUGINS = Path(__file__).parents[1]
MyStrategy = Registry((PLUGINS,)).find("strategy", "my_strategy")


def test_it_keeps_the_contract() -> None:
    assert check_strategy(lambda space: MyStrategy(space, [Objective("value")])) == []
