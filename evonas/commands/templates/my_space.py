"""MY SPACE: say what networks there are to choose from, and which paper they come from."""

from __future__ import annotations

from torch import nn

from evonas import Architecture, Categorical, Count, Integer, SearchSpace, Task


class MySpace(SearchSpace):
    """Convolutions of one width, every second one with a stride, and a linear layer.

    Args:
        max_depth: Most convolutions.
    """

    def __init__(self, max_depth: Count = 6) -> None:
        # One named domain per choice. `ordered` and Integer: neighbouring values are alike;
        # a role lets `evonas scale` and reduced evaluations make networks larger or smaller.
        self.domains = {
            "depth": Integer(1, max_depth, role="depth"),
            "width": Integer(8, 64, step=8, log=True, role="width"),
            "kernel": Categorical((3, 5, 7), ordered=True),
            "norm": Categorical((False, True)),
            "dropout": Categorical((0.0, 0.1, 0.3), ordered=True),
        }
        # A choice that has no effect in some networks: equal networks are one architecture.
        self.conditions = {"dropout": lambda choices: not choices["norm"]}
        # What must hold between choices, by the sentence that an error will say.
        self.rules = {
            "large kernels are for narrow networks": lambda choices: (
                choices["kernel"] < 7 or choices["width"] <= 32
            )
        }
        # Networks worth a name, for `evonas show my_space/small`.
        self.points = {
            "small": {"depth": 3, "width": 16, "kernel": 3, "norm": True, "dropout": 0.0}
        }

    def build(self, architecture: Architecture, task: Task) -> nn.Module:
        """Build the network: (N, channels, height, width) in, logits (N, classes) out."""
        choices = architecture.choices
        channels, width, kernel = task.channels, int(choices["width"]), int(choices["kernel"])
        layers: list[nn.Module] = []
        for number in range(int(choices["depth"])):
            layers.append(nn.Conv2d(channels, width, kernel, 1 + number % 2, kernel // 2))
            layers.append(
                nn.BatchNorm2d(width) if choices["norm"] else nn.Dropout(float(choices["dropout"]))
            )
            layers.append(nn.ReLU())
            channels = width
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, task.classes)]
        return nn.Sequential(*layers, *head)
