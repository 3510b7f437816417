"""The working memory of a network that is built: an independent reference for ``peak_memory``."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Iterator

import torch
from torch import fx, nn

from evonas.spaces.base import Task
from evonas.spaces.cifar_resnet import Padded
from evonas.spaces.parts.cell_operations import FactorizedReduction

_ALIASES = (nn.Dropout, nn.Flatten, nn.Identity)  # what comes out is what went in
_IN_PLACE = (
    nn.BatchNorm2d,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.ReLU,
    nn.ReLU6,
    nn.Sigmoid,
    nn.SiLU,
)
_OTHERS = (
    nn.AdaptiveAvgPool2d,
    nn.AvgPool2d,
    nn.Conv2d,
    nn.Linear,
    nn.MaxPool2d,
    FactorizedReduction,
    Padded,
)
_FUNCTIONS = (operator.add, operator.mul, torch.add, torch.cat)


def peak_memory(network: nn.Module, task: Task) -> int:
    """Bytes of the largest set of live activations, by liveness over the graph that torch traces.

    Operations run in the order of the trace. A buffer is live from the operation that makes it to
    the last one that reads it or an alias of it.
    """
    network = copy.deepcopy(network).to("meta").eval()
    traced = fx.GraphModule(network, _Tracer().trace(network))
    order = {node: number for number, node in enumerate(traced.graph.nodes)}
    values = dict(_Sizes(traced).of(task))
    buffers: dict[fx.Node, list[fx.Node]] = {}  # by the node that makes one: its names since
    owner: dict[fx.Node, fx.Node] = {}

    def last_read(buffer: fx.Node) -> int:
        return max((order[user] for name in buffers[buffer] for user in name.users), default=-1)

    peak = 0
    for node in order:
        if node.op == "output":
            break
        read = [each for each in node.all_input_nodes if each in owner]
        module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, _ALIASES):
            reuses = True
        elif isinstance(module, _IN_PLACE):
            # Whoever else reads the buffer later must find it as it was.
            others = (u for name in buffers[owner[read[0]]] for u in name.users if u is not node)
            reuses = all(order[user] < order[node] for user in others)
        else:
            assert (
                node.op == "placeholder" or isinstance(module, _OTHERS) or node.target in _FUNCTIONS
            )
            reuses = False
        if reuses:
            owner[node] = owner[read[0]]
            buffers[owner[node]].append(node)
        else:
            owner[node], buffers[node] = node, [node]
        live = {b for b in buffers if last_read(b) >= order[node]} | {owner[node]}
        peak = max(peak, sum(values[buffer] for buffer in live))
    return 4 * peak


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, FactorizedReduction) or not any(True for _ in m.children())


class _Sizes(fx.Interpreter):
    """Runs the graph on the meta device for the number of values of every node."""

    def of(self, task: Task) -> Iterator[tuple[fx.Node, int]]:
        self._found: dict[fx.Node, int] = {}
        self.run(torch.empty(1, *task.input_shape, device="meta"))
        yield from self._found.items()

    def run_node(self, n: fx.Node) -> object:
        out = super().run_node(n)
        if isinstance(out, torch.Tensor):
            self._found[n] = math.prod(out.shape)
        return out
