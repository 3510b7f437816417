"""The evaluator through the public contract kit, and whatever is special about it."""

from __future__ import annotations

from pathlib import Path

from evonas import Registry
from evonas.testing import check_evaluator

PLUGINS = Path(__file__).parents[1]
MyEvaluator = Registry((PLUGINS,)).find("evaluator", "my_evaluator")


def test_it_keeps_the_contract() -> None:
    assert check_evaluator(lambda context: MyEvaluator(context, epochs=2)) == []
