"""One training for every trade-off: a hypernetwork learns which operations to take at which price.

It maps weights S of pooling, identity and convolution, on the simplex, to the operations of the
edges of ``darts``. Network weights and hypernetwork are trained together, with S drawn uniformly
in every step, on the loss of the task and kappa times the S-weighted cost of the operations, by a
table of FLOPs or of latencies; see ``parts/hypernetwork.py``. Afterwards any S gives an
architecture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from statistics import median
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from evonas import files
from evonas.architecture import Architecture
from evonas.errors import OptionError, TooManyFailures
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.evaluators.parts.hypernetwork import Hypernetwork, draw, uniform_weights
from evonas.evaluators.parts.one_shot import LONGEST, Shared, SharedWeights
from evonas.recipe.options import Count, Decay, Positive
from evonas.spaces.darts import DARTS, OPERATIONS_BY_KIND, count_kinds
from evonas.spaces.parts.supernet import Supernet
from evonas.strategies.hypernet import COMPLEXITY, Sampler
from evonas.training.augmentation import Augmentation
from evonas.training.checkpoints import FOLDER
from evonas.training.latency import timings
from evonas.training.loop import Diverged, bfloat16, schedule, seeded
from evonas.trial import Trial

# ``none`` is no choice of the hypernetwork: it would win by being free, and the counts of the
# three kinds would not sum to the number of edges.
NUMBERED = tuple(name for kind in COMPLEXITY for name in OPERATIONS_BY_KIND[kind])
_HIDDEN = 16  # This is the width of the hypernetwork's small network.
_MOMENTA = (0.5, 0.999)  # These are Adam's betas in DARTS for architectures.


class _Stopped(Exception):
    """The user wants to stop; the epochs so far are kept."""


class _Joint(Shared):
    """A supernet and the hypernetwork that learns from its paths."""

    hypernetwork: Hypernetwork


class Hypernet(SharedWeights[_Joint]):
    """Score architectures with the weights learnt beside a hypernetwork; train finals as ``of``.

    Both are trained before the first trial, and kept in the run folder; a training that was cut
    off goes on after its last whole epoch. The fidelity of a trial has no effect.

    Args:
        context: The world; its data are needed, and the space ``darts``.
        of: What trains finals.
        epochs: Of the joint training.
        batch_size: Images a step, which draws one S and trains one path.
        learning_rate: Of the weights: the peak of warm-up and cosine; AdamW, because sums without
            normalisation make SGD diverge.
        weight_decay: On the parameters of the step's path.
        hypernet_rate: Peak learning rate of the hypernetwork; Adam.
        warm_up: Share of the training in which the hypernetwork stays as it is, because the loss
            says nothing of convolutions while these are random.
        kappa: Weight of the cost in the loss; the cost is 1 if all of S and of the operations is of
            one kind.
        prices: Of operations: ``flops``, the same on every machine, or ``latency``, measured on
            this one and kept in the run folder.
        temperature: Of the Gumbel-softmax at the beginning; it falls exponentially.
        final_temperature: At the end.
        augmentation: ``none``, ``crop``, ``standard``, ``v1`` or ``v2``; see ``Train``.
        calibration_batches: Batches that an architecture's normalisation statistics come from.
    """

    def __init__(
        self,
        context: Context,
        of: Callable[[Context], Evaluator],
        epochs: Count = 8,
        batch_size: Count = 128,
        learning_rate: Positive = 0.01,
        weight_decay: Decay = 5e-4,
        hypernet_rate: Positive = 0.01,
        warm_up: Decay = 0.3,
        kappa: Positive = 3.0,
        prices: Literal["flops", "latency"] = "flops",
        temperature: Positive = 1.0,
        final_temperature: Positive = 0.2,
        augmentation: Augmentation = "standard",
        calibration_batches: Count = 8,
    ) -> None:
        super().__init__(
            context, of(context), epochs, batch_size, augmentation, calibration_batches
        )
        if not isinstance(context.space, DARTS):
            raise OptionError(
                "name", f"hypernet needs the space 'darts', not {context.space.name!r}"
            )
        self.metrics = (*self.metrics, *COMPLEXITY)
        self._space = context.space
        self._rates, self._decay, self._kappa = (learning_rate, hypernet_rate), weight_decay, kappa
        self._prices = prices
        self._warm_up, self._temperatures = warm_up, (temperature, final_temperature)
        self._dice = torch.Generator()  # draws S and paths; seeded anew for every epoch
        self._stopping: Callable[[], bool] = lambda: False

    def score(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """Accuracy with the shared weights, costs, and the number of operations of each kind."""
        counts = count_kinds(trial.architecture)
        metrics = super().score(trial, report)
        return {**metrics, **{kind: float(counts[kind]) for kind in COMPLEXITY}}

    def prepare(self, note: Callable[[str], None], stopping: Callable[[], bool]) -> bool:
        """Train, or load what was trained."""
        self._stopping = stopping
        self._report = lambda epoch, metrics: note(
            f"hypernet: epoch {epoch} of {self._epochs}, loss {metrics['shared_loss']:.4f}"
        )
        try:
            _ = self._trained
        except _Stopped:
            return False
        except Diverged as error:
            raise TooManyFailures(f"the training of the hypernetwork failed: {error}") from error
        finally:
            self._stopping = lambda: False
        # All of it, of whichever sessions its epochs were.
        self.context.work.pixels = self._epochs * self._data.train.pixels
        return True

    def sampler(self) -> Sampler:
        """From S to the most probable architecture."""
        return lambda complexity: self._architecture(
            self._trained.hypernetwork.choices(torch.tensor(complexity, dtype=torch.float32))
        )

    def _architecture(self, numbers: Sequence[int]) -> Architecture:
        operations = (NUMBERED[number] for number in numbers)
        return self._space.architecture(dict(zip(self._space.domains, operations, strict=True)))

    def _begin(self, supernet: Supernet) -> _Joint:
        """The supernet and a hypernetwork."""
        # On the CPU: it is tiny, and its draws must be known there to build the path.
        rng = torch.Generator().manual_seed(self._seed("hypernetwork"))
        sizes = [len(OPERATIONS_BY_KIND[kind]) for kind in COMPLEXITY]
        settings = {
            "options": [*self._rates, self._decay, self._kappa],
            "schedule": [self._warm_up, *self._temperatures],
            "prices": self._costs.tolist(),
        }
        hypernetwork = Hypernetwork(sizes, self._costs, _HIDDEN, rng)
        joint = _Joint(
            supernet,
            torch.optim.AdamW(supernet.parameters(), weight_decay=self._decay),
            torch.optim.Adam(hypernetwork.parameters(), betas=_MOMENTA),
            settings=settings,
        )
        joint.hypernetwork = hypernetwork
        return joint

    @cached_property
    def _costs(self) -> torch.Tensor:
        """The table: the price of an operation on an edge, (E, O)."""
        return self._flops() if self._prices == "flops" else self._latencies()

    def _latencies(self) -> torch.Tensor:
        """An edge's share of the milliseconds of a network of one operation alone, measured once.

        A training that was cut off, and the workers, need the same table again.
        """
        device, run_dir = self.context.device, self.context.run_dir
        task, edges = self._data.task, self._space.domains
        path = None if run_dir is None else run_dir / FOLDER / "latencies.json"
        times = path and files.load(path, list[float])
        if not times:
            times = []
            for operation in NUMBERED:
                architecture = self._space.architecture(dict.fromkeys(edges, operation))
                with seeded(0, device):
                    network = self._space.build(architecture, task)
                times.append(median(timings(network, task, device, self._batch_size)) / len(edges))
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write(path, json.dumps(times).encode())
        return torch.tensor([times] * len(edges))

    def _flops(self) -> torch.Tensor:
        """FLOPs of an operation on an edge, over all cells of its kind, (E, O)."""
        choices = dict.fromkeys(self._space.domains, NUMBERED[0])

        def flops(**changed: str) -> float:
            architecture = self._space.architecture({**choices, **changed})
            return self._space.costs(architecture, self._data.task)["flops"]

        without = flops()
        return torch.tensor(
            [
                [1 + flops(**{edge: operation}) - without for operation in NUMBERED]  # none is 0
                for edge in self._space.domains
            ]
        )

    def _train_epoch(self, training: _Joint, epoch: int) -> float:
        """Stop before an epoch if that is wanted."""
        if self._stopping():
            raise _Stopped
        self._dice.manual_seed(self._seed(f"dice {epoch}"))
        return super()._train_epoch(training, epoch)

    def _step(
        self,
        training: _Joint,
        images: torch.Tensor,
        labels: torch.Tensor,
        progress: float,
        place: str,
    ) -> torch.Tensor:
        """For a drawn S train a drawn path, and on its loss and cost the hypernetwork."""
        learnt = max(0.0, (progress - self._warm_up) / (1 - self._warm_up))
        peaks = self._rates[0], self._rates[1] * (progress >= self._warm_up)
        shares = (progress, learnt)
        for optimizer, peak, share in zip(training.optimizers, peaks, shares, strict=True):
            optimizer.param_groups[0]["lr"] = peak * schedule(share)
            optimizer.zero_grad(set_to_none=True)
        weights = uniform_weights(len(COMPLEXITY), self._dice)
        log_probabilities = training.hypernetwork(weights)
        first, last = self._temperatures
        temperature = first * (last / first) ** learnt
        numbers, factors = draw(log_probabilities, temperature, self._dice)
        path = self._architecture(numbers)
        # A choice's factor goes to all modules that the choice decides: one in every cell.
        factors = factors.to(labels.device, non_blocking=True)
        by_choice = dict(zip(self._space.domains, factors, strict=True))
        by_module = {
            name: by_choice[choice]
            for choice, names in self._space.modules(path).items()
            for name in names
        }
        with bfloat16(labels.device):
            task = F.cross_entropy(training.supernet(images, path, by_module), labels)
        price = training.hypernetwork.cost(weights, log_probabilities)
        torch.autograd.backward([task, self._kappa * price])
        for part in (training.supernet, training.hypernetwork):
            nn.utils.clip_grad_norm_(part.parameters(), LONGEST)
        for optimizer in training.optimizers:
            optimizer.step()
        return task.detach()
