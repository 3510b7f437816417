"""MY EVALUATOR: say what is measured, and which paper it comes from."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch.nn import functional

from evonas import Context, Count, Evaluator, OptionError, Reporter, Trial


class MyEvaluator(Evaluator):
    """A short training, and how well that class is recognised that is recognised worst.

    Args:
        context: The world: its space builds the networks, its data hold the images.
        epochs: Of a trial at fidelity 1.
    """

    metrics = ("val_accuracy", "worst_class")  # what recipes may name as objectives
    reports = ("val_accuracy",)  # what pruning may go by
    finals = False  # the best of the search are not trained once more, and longer

    def __init__(self, context: Context, epochs: Count = 3) -> None:
        super().__init__(context)
        if context.data is None:
            raise OptionError("name", "my_evaluator needs a dataset section")
        self.data, self.epochs = context.data, epochs

    def effort(self, fidelity: float) -> float:
        """Epochs."""
        return max(1, round(self.epochs * fidelity))

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """Train, and score on the validation split."""
        train = self.data.train
        with torch.random.fork_rng():  # the same trial gives the same result, whatever ran before
            torch.manual_seed(zlib.crc32(f"{self.context.seed}/{trial.number}".encode()))
            network = self.context.space.build(trial.architecture, self.data.task)
            network.to(self.context.device)
            optimizer = torch.optim.Adam(network.parameters())
            for epoch in range(1, int(self.effort(trial.proposal.fidelity)) + 1):
                network.train()
                for batch in torch.split(torch.randperm(len(train)), 64):
                    logits = network(self._floats(train.images[batch]))
                    labels = train.labels[batch].to(self.context.device)
                    optimizer.zero_grad()
                    torch.autograd.backward(functional.cross_entropy(logits, labels))
                    optimizer.step()
                right = self._right(network)
                report(epoch, {"val_accuracy": float(right.mean())})
        classes = [right[self.data.val.labels == c] for c in range(self.data.task.classes)]
        worst = min(float(part.mean()) for part in classes if len(part))
        return {"val_accuracy": float(right.mean()), "worst_class": worst}

    @torch.no_grad()
    def _right(self, network: torch.nn.Module) -> torch.Tensor:
        """1 for every validation image that is recognised, else 0."""
        network.eval()
        batches = torch.split(self.data.val.images, 256)
        guesses = torch.cat([network(self._floats(images)).argmax(1).cpu() for images in batches])
        return (guesses == self.data.val.labels).float()

    def _floats(self, images: torch.Tensor) -> torch.Tensor:
        """uint8, (N, height, width, channels) → 0…1, (N, channels, height, width)."""
        return images.to(self.context.device).permute(0, 3, 1, 2) / 255
