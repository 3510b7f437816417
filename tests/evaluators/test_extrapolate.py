"""Learning-curve extrapolation: what is fitted, when it is not, and that it ranks better."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluators_helper import context, evaluate, final, make, trial
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from evonas.errors import RecipeError
from evonas.evaluators.base import Evaluator, Reporter
from evonas.evaluators.extrapolate import Extrapolate, extrapolate
from evonas.evaluators.train import Train
from evonas.executors.base import run_trial
from evonas.testing import check_evaluator
from evonas.trial import Trial, TrialState

QUICK: dict[str, Any] = {"epochs": 8, "batch_size": 20}
STEPS = np.arange(1.0, 51)


def noisy(seed: int, noise: float = 0.01, steps: int = 40) -> NDArray[np.float64]:
    """A rising curve with noise."""
    rng = np.random.default_rng(seed)
    rising = rng.uniform(0.4, 0.9) - 0.3 * np.exp(-rng.uniform(0.05, 0.3) * np.arange(steps))
    return np.asarray(rising + rng.normal(0, noise, steps))


@pytest.mark.parametrize(("asymptote", "rate"), [(0.9, 0.05), (0.6, 0.2), (0.95, 0.02)])
def test_an_exponential_is_recovered(asymptote: float, rate: float) -> None:
    found = extrapolate(asymptote - np.exp(-rate * (STEPS + 12)))
    assert found.model == "exponential"
    assert found.value == pytest.approx(asymptote, abs=1e-3)
    assert found.error < 1e-3


@pytest.mark.parametrize(("asymptote", "rate"), [(0.9, 0.5), (0.7, 1.0), (0.95, 0.3)])
def test_a_power_law_is_recovered(asymptote: float, rate: float) -> None:
    found = extrapolate(asymptote - 0.5 * STEPS**-rate)
    assert found.model == "power"
    assert found.value == pytest.approx(asymptote, abs=1e-3)
    assert found.error < 1e-3


def test_a_continued_curve_counts_its_steps_from_the_start() -> None:
    late = [int(step) for step in STEPS[20:]]
    found = extrapolate(0.9 - 0.5 * STEPS[20:] ** -0.5, late)
    assert found.model == "power"
    assert found.value == pytest.approx(0.9, abs=1e-3)


def test_a_first_step_of_zero_will_do() -> None:
    assert 0 <= extrapolate(noisy(0), range(40)).value <= 1


def test_a_single_outlier_hardly_moves_it() -> None:
    curve = noisy(0, noise=0.001)
    dipped = curve.copy()
    dipped[25] -= 0.3
    assert extrapolate(dipped).value == pytest.approx(extrapolate(curve).value, abs=0.01)


@pytest.mark.parametrize(
    "curve",
    [
        [0.3],
        [0.1, 0.5, 0.6, 0.65],
        [0.1] * 20,
        list(np.linspace(0.9, 0.2, 20)),
        [0.1 + 0.0001 * step**2 for step in range(60)],
    ],
    ids=["one value", "too few", "constant", "falling", "accelerating"],
)
def test_the_last_value_is_taken_where_neither_fits(curve: list[float]) -> None:
    found = extrapolate(curve)
    assert (found.model, found.value) == ("last", curve[-1])


def test_a_learning_rate_annealed_to_zero_lifts_the_end_past_the_asymptote() -> None:
    annealed = noisy(1, steps=60)
    annealed[45:] += np.linspace(0, 0.1, 15)
    assert extrapolate(annealed).model == "last"


def test_pure_noise_has_no_asymptote() -> None:
    rng = np.random.default_rng(0)
    models = [extrapolate(rng.normal(0.5, 0.02, 30)).model for _ in range(20)]
    assert models.count("last") >= 18


def test_whatever_the_curve_the_result_is_an_accuracy() -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        wild = np.clip(rng.normal(0.5, 10 ** rng.uniform(-8, 0), rng.integers(1, 40)), 0, 1)
        for curve in (wild, np.sort(wild), np.sort(wild)[::-1], np.round(wild)):
            found = extrapolate(curve)
            assert 0 <= found.value <= 1
            assert np.isfinite(found.error)
            assert found == extrapolate(list(curve))


def test_a_curve_that_is_higher_throughout_leads_higher() -> None:
    for seed in range(10):
        curve = noisy(seed, noise=0.005)
        low, high = extrapolate(curve), extrapolate(curve + 0.05)
        assert high.value == pytest.approx(low.value + 0.05, abs=5e-3)


@pytest.mark.parametrize("curve", [[], [0.1, float("nan")], [0.1, float("inf")]])
def test_no_values_or_no_finite_ones_are_refused(curve: list[float]) -> None:
    with pytest.raises(ValueError, match="finite values, at least one"):
        extrapolate(curve)


@pytest.mark.parametrize("epochs", [25, 50, 100])
def test_recorded_curves_are_ranked_no_worse_than_by_their_last_value(
    shared_data: Path, epochs: int
) -> None:
    with np.load(shared_data / "nasbench201_cifar10_curves.npz", allow_pickle=False) as file:
        curves = file["valid_acc"] / 100
    last, final = curves[:, epochs - 1], curves[:, -1]
    found = [extrapolate(curve).value for curve in curves[:, :epochs]]
    for correlation in (kendalltau, spearmanr):
        assert correlation(found, final)[0] >= correlation(last, final)[0]


class Told(Evaluator):
    """An evaluator that reports a curve it is told, as far as fidelity and share reach."""

    metrics = ("val_accuracy", "share")
    reports = ("val_accuracy",)
    takes = frozenset({"share"})
    curve: tuple[Mapping[str, float], ...] = ()

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        share = self.context.share
        last = round(len(self.curve) * trial.proposal.fidelity * share)
        for step, metrics in enumerate(self.curve[:last], start=1):
            report(step, metrics)
        return {"val_accuracy": 0.25, "share": share}


class Rising(Told):
    curve = tuple({"val_accuracy": float(0.9 - 0.5 * 0.9**step)} for step in range(1, 81))


class Silent(Told):
    curve = ({"loss": 1.0},) * 8


class PerCent(Told):
    curve = ({"val_accuracy": 90.0},) * 8


def test_a_share_is_trained_and_the_rest_extrapolated() -> None:
    metrics, curve = evaluate(Extrapolate(context(), of=Rising, share=0.5), trial(fidelity=0.5))
    assert [step for step, _ in curve] == list(range(1, 21))
    assert (metrics["val_accuracy"], metrics["share"]) == (0.25, 0.5)
    assert metrics["val_accuracy_extrapolated"] == pytest.approx(0.9, abs=1e-3)
    assert metrics["fit_error"] < 1e-3
    assert metrics["fit_model"] == 1


@pytest.mark.parametrize(
    ("inner", "reason"), [(Silent, "reported no val_accuracy"), (PerCent, "reported in 0…1")]
)
def test_without_a_curve_of_accuracies_the_trial_fails(inner: type[Told], reason: str) -> None:
    ended = run_trial(Extrapolate(context(), of=inner), trial())
    assert ended.state is TrialState.FAILED
    assert ended.error is not None
    assert reason in ended.error


def test_it_keeps_the_contract() -> None:
    assert check_evaluator(partial(Extrapolate, of=partial(Train, **QUICK), share=0.75)) == []


def test_training_is_shortened_and_the_final_training_is_not() -> None:
    wrapped = Extrapolate(context(), of=partial(Train, **QUICK), share=0.25)
    metrics, curve = evaluate(wrapped, trial())
    assert len(curve) == 2
    assert set(wrapped.metrics) <= set(metrics)
    assert metrics["val_accuracy_extrapolated"] == metrics["val_accuracy"]  # too few for a fit
    assert len(evaluate(wrapped, final())[1]) == QUICK["epochs"]


def test_training_is_cut_off_in_the_middle_of_its_schedule() -> None:
    """What is reported is the beginning of the whole training's curve, not a short training's."""
    whole = evaluate(Train(context(), **QUICK), trial())[1]
    short = evaluate(Train(context(), **{**QUICK, "epochs": 3}), trial())[1]
    for share, epochs in ((0.375, 3), (0.01, 1), (1.0, 8)):
        cut = evaluate(Extrapolate(context(), of=partial(Train, **QUICK), share=share), trial())[1]
        assert cut == whole[:epochs]
        assert cut != short


def test_a_share_of_a_lower_fidelity_is_a_share_of_its_training() -> None:
    wrapped = Extrapolate(context(), of=partial(Train, **QUICK), share=0.5)
    _, curve = evaluate(wrapped, trial(fidelity=0.5))
    half = evaluate(Train(context(), **QUICK), trial(fidelity=0.5))[1]
    assert curve == half[:2]


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_an_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(RecipeError, match=r"evaluation\.share: Input should be"):
        make(Extrapolate, context(), Told, share=share)


def test_a_metric_that_the_inner_evaluator_does_not_give_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"evaluation\.metric: must be one of val_acc.*'acc'"):
        make(Extrapolate, context(), Told, metric="acc")
