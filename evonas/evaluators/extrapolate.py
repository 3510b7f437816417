"""Learning-curve extrapolation: train for a share of the epochs, judge by where the curve leads.

Domhan et al. (IJCAI 2015) fit eleven kinds of curves; here are an exponential and a power law. A
free fit is a poor judge of networks: where noise leaves the rest of the way undetermined,
asymptotes scatter more than the accuracies they should rank. So what is still to come is drawn
towards nothing, weakly: sharp data override it, noisy data do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from evonas.errors import OptionError
from evonas.evaluators.base import Context, Evaluator, Reporter, Wrapper
from evonas.recipe.options import Share
from evonas.trial import Trial

Model = Literal["last", "exponential", "power"]
Values = NDArray[np.float64]

_CODES: Mapping[Model, float] = {"last": 0.0, "exponential": 1.0, "power": 2.0}
_FEWEST = 5  # Three parameters are to be fitted, and two more values are to contradict them.
_GAIN = 0.01  # So much accuracy still to come costs a fit as much as a value missed by the noise.
_SHARPEST = 1e-6  # Noise below this accuracy is rounding.
_POWER_IS = 10.0  # The power law is taken if it is so many times nearer to the curve.
_F = 5.0  # Noise has a larger F statistic against a constant about once in a hundred.
_RECENT = 5  # A fit must not miss so many values at the end all together:
_MISSED = 2.0  # their mean distance from it is in standard deviations round that mean at most this,
_VISIBLE = 1e-4  # or it is below this accuracy.


@dataclass(frozen=True)
class Extrapolation:
    """Where a learning curve leads.

    Attributes:
        value: The accuracy expected in the end, 0…1.
        model: The fit whose asymptote that is; ``last``: neither fits, it is the last value.
        error: Root mean square distance of that fit from the curve; of ``last``: the values'
            standard deviation.
    """

    value: float
    model: Model
    error: float


def extrapolate(values: Sequence[float], steps: Sequence[int] | None = None) -> Extrapolation:
    """Extrapolate a learning curve to its end.

    Fits acc(t) = a - exp(-b (t - t0)) and the power law acc(t) = a - c t^-b, both rising, with the
    asymptote a in 0…1; later steps count more, and outliers less. The power law has the longer
    tail and the less certain asymptote, so it must fit ten times as well to be taken. Neither fits
    a curve of fewer than five values, one that it hardly describes better than a constant, or one
    whose last five values are together off it, as where a learning rate annealed to zero lifts
    the end.

    Args:
        values: Accuracies, 0…1.
        steps: Their epochs, rising; default 1, 2, 3, …

    Raises:
        ValueError: There are no values, or not finite ones.
    """
    curve = np.asarray(values, dtype=np.float64)
    if not curve.size or not np.isfinite(curve).all():
        raise ValueError("only a curve of finite values, at least one, can be extrapolated")
    times = np.arange(1.0, len(curve) + 1) if steps is None else np.asarray(steps, np.float64)
    times = times + max(0.0, 1 - times[0])  # a power law has no step 0
    last = Extrapolation(float(np.clip(curve[-1], 0, 1)), "last", float(curve.std()))
    if len(curve) < _FEWEST or curve.std() <= _SHARPEST:
        return last
    exponential, power = _fit("exponential", times, curve), _fit("power", times, curve)
    best, residuals = power if _POWER_IS * power[0].error < exponential[0].error else exponential
    return best if _holds(residuals, curve) else last


def _holds(residuals: Values, curve: Values) -> bool:
    """Whether a fit tells more than a constant, and ends where the curve ends."""
    unexplained = float(np.sum(residuals**2))
    explained = float(np.sum((curve - curve.mean()) ** 2)) - unexplained
    recent = residuals[-_RECENT:]
    missed = abs(float(recent.mean())) > _MISSED * float(recent.std(ddof=1)) + _VISIBLE
    return explained / 2 > _F * unexplained / (len(curve) - 3) and not missed


class Extrapolate(Wrapper):
    """Train for a share of the effort, and extrapolate the learning curve.

    Besides the inner evaluator's metrics it gives ``{metric}_extrapolated``, to be used as the
    objective; ``fit_error``, the root mean square distance of the fit from the curve; and
    ``fit_model``: 0 the last value since neither fits, 1 exponential, 2 power law. ``metric``
    itself stays what was measured. The final training is not shortened.

    Args:
        context: The world.
        of: The evaluator to wrap; it must report ``metric``, 0…1, on the way.
        share: Of a trial's training, (0, 1]; it is cut off there, so that the curve is that of the
            whole training's learning rates.
        metric: What to extrapolate.
    """

    changes = frozenset({"share"})

    def __init__(
        self,
        context: Context,
        of: Callable[[Context], Evaluator],
        share: Share = 0.25,
        metric: str = "val_accuracy",
    ) -> None:
        super().__init__(context, of(replace(context, share=share)))
        reported = [name for name in self.inner.metrics if name in self.inner.reports]
        if metric not in reported:
            names = ", ".join(reported) or "none: nothing is reported on the way"
            raise OptionError("metric", f"must be one of {names}, not {metric!r}")
        self._metric = metric
        self._names = (f"{metric}_extrapolated", "fit_error", "fit_model")
        self.metrics = (*self.inner.metrics, *self._names)

    def score(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        """The inner evaluator's metrics after a share of the effort, and where the curve leads."""
        curve: dict[int, float] = {}

        def report_and_keep(step: int, metrics: Mapping[str, float]) -> None:
            if self._metric in metrics:
                curve[step] = float(metrics[self._metric])
            report(step, metrics)

        metrics = self.inner.evaluate(trial, report_and_keep)
        if not curve:
            raise ValueError(
                f"extrapolate: the inner evaluator reported no {self._metric} on the way"
            )
        if not all(0 <= value <= 1 for value in curve.values()):
            raise ValueError(f"extrapolate: {self._metric} must be reported in 0…1")
        steps = sorted(curve)
        end = extrapolate([curve[step] for step in steps], steps)
        figures = (end.value, end.error, _CODES[end.model])
        return {**metrics, **dict(zip(self._names, figures, strict=True))}


def _fit(model: Model, times: Values, curve: Values) -> tuple[Extrapolation, Values]:
    """Fit a - rest * shape(t), where the shape is 1 at the last step: ``rest`` is still to come.

    Returns:
        The fit, and what the values are above it.
    """
    shape, rates = _shape(model, times)
    weights = np.sqrt(times / times[-1])

    def residuals(parameters: Values) -> Values:
        asymptote, rest, rate = parameters
        return np.asarray(curve - asymptote + rest * shape(rate))

    def solve(start: Values, gain: float) -> Values:
        noise = max(float(np.sqrt(np.mean(residuals(start) ** 2))), _SHARPEST)
        solution = least_squares(
            lambda p: np.append(residuals(p) * weights / noise, p[1] / gain),
            start,
            bounds=([0, 0, rates[0]], [1, 1, rates[-1]]),
            loss="soft_l1",
        )
        return np.asarray(solution.x)

    # A free fit first, for its distance from the curve is the noise that the second one weighs by.
    free = solve(_start(shape, rates, weights, curve), np.inf)
    parameters = solve(free, _GAIN)
    distances = residuals(parameters)
    error = float(np.sqrt(np.mean(distances**2)))
    return Extrapolation(float(parameters[0]), model, error), distances


def _shape(model: Model, times: Values) -> tuple[Callable[[float], Values], Values]:
    """What is still to come as a function of a rate, 1 at the last step; and rates to try."""
    if model == "exponential":
        span = times[-1] - times[0] + 1
        rates = np.array([0.3, 0.7, 1.4, 3, 5, 8, 12, 20, 40, 80]) / span
        return lambda rate: np.exp(rate * (times[-1] - times)), rates
    return lambda rate: (times / times[-1]) ** -rate, np.array([0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3])


def _start(
    shape: Callable[[float], Values], rates: Values, weights: Values, curve: Values
) -> Values:
    """The best of a few rates; given the rate, the other parameters are linear."""
    starts = []
    for rate in rates:
        columns = np.stack([np.ones_like(curve), -shape(rate)], axis=1)
        linear = np.linalg.lstsq(columns * weights[:, None], curve * weights, rcond=None)[0]
        linear = np.clip(linear, 0, 1)
        error = float(np.sum(((columns @ linear - curve) * weights) ** 2))
        starts.append((error, (*linear, rate)))
    return np.array(min(starts)[1])
