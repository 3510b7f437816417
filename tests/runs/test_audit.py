"""The audit of a search: a fair sample, right figures, and words that fit them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr
from sessions_helper import UP, finals, session, trained, trial, writes

from evonas.architecture import Architecture
from evonas.errors import StorageError
from evonas.evaluators.base import Context, Evaluator, Reporter
from evonas.evaluators.tabular import Tabular
from evonas.runs import audit
from evonas.runs.journal import read_journal
from evonas.runs.session import Stopped
from evonas.spaces.nasbench201 import NASBench201
from evonas.spaces.plain_cnn import PlainCNN
from evonas.trial import Objective, Proposal, Trial, TrialState

SEEDS = range(12)


# The sample.


def samples() -> list[tuple[int, int, list[int]]]:
    found = []
    for seed in range(300):
        rng = Random(seed)
        count, size = rng.randrange(4, 200), rng.randrange(4, 40)
        found.append((count, size, audit.sample(count, size, rng)))
    return found


def test_a_sample_is_ascending_and_has_the_best() -> None:
    for count, size, places in samples():
        assert places[0] == 0
        assert places == sorted(set(places))
        assert len(places) == min(size, count)
        assert places[-1] < count


def test_a_sample_is_spread_over_the_ranking() -> None:
    for count, size, places in samples():
        stratum = (count - 1) / (min(size, count) - 1)
        gaps = [b - a for a, b in itertools.pairwise(places)]
        assert max(gaps) <= 2 * stratum + 1
        assert places[-1] >= count - 1 - stratum


def test_every_place_may_be_sampled_and_the_seed_decides() -> None:
    drawn = [audit.sample(20, 5, Random(seed)) for seed in range(300)]
    assert {place for places in drawn for place in places} == set(range(20))
    assert audit.sample(50, 9, Random(3)) == audit.sample(50, 9, Random(3))
    assert audit.sample(4, 4, Random(0)) == audit.sample(4, 99, Random(0)) == [0, 1, 2, 3]


# The figures.


class Full(Evaluator):
    """Trains in full to what it is told; None fails."""

    metrics = ("val_accuracy",)

    def __init__(self, full: Mapping[int, Mapping[str, float] | None], finals: bool) -> None:
        super().__init__(Context(PlainCNN(1, 8), None, "cpu", seed=0))
        self.full, self.finals = full, finals

    def evaluate(self, trial: Trial, report: Reporter) -> Mapping[str, float]:
        assert trial.proposal.stage == "audit"
        metrics = self.full[trial.proposal.parents[0]]
        if metrics is None:
            raise ValueError("as told")
        return metrics


def examine(
    folder: Path,
    scores: Sequence[float],
    full: Sequence[Mapping[str, float] | float | None],
    objective: Objective = UP[0],
    trials: int | None = None,
    seed: int = 0,
    finals: bool = True,
    stopping: Callable[[], bool] = lambda: False,
) -> audit.Audit | None:
    """Audit a search with these scores, trained in full to these values."""
    told = [{"val_accuracy": v} if isinstance(v, float | int) else v for v in full]
    ranking = [
        Trial(
            n,
            Proposal(Architecture("test", {"x": n})),
            TrialState.COMPLETE,
            {objective.metric: score},
            seconds=2.0,
        )
        for n, score in enumerate(scores)
    ]
    ranking.sort(key=lambda t: objective.key(t.metrics), reverse=True)
    evaluator = Full(dict(enumerate(told)), finals)
    with session(
        folder, lambda device: evaluator, objectives=(objective,), seed=seed, stopping=stopping
    ) as run:
        return audit.audit(run, ranking, trials or len(scores))


def made_up(count: int, seed: int, noise: float = 0.5) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=count)
    return list(truth + noise * rng.normal(size=count)), list(truth)


def figures(count: int, seed: int, noise: float = 0.5) -> dict[str, float]:
    return audit._compare(*made_up(count, seed, noise), seed)


def test_known_correlations(tmp_path: Path) -> None:
    done = examine(tmp_path, [5, 4, 3, 2, 1], [4, 5, 3, 1, 2])
    assert done is not None
    assert done.metrics["tau"] == pytest.approx(0.6)  # 8 of 10 pairs agree
    assert done.metrics["rho"] == pytest.approx(0.8)
    assert done.metrics["regret"] == pytest.approx(1)
    assert done.metrics["seconds_search"] == 2.0
    assert [row.rank for row in done.rows] == [1, 2, 3, 4, 5]
    assert [row.full for row in done.rows] == [4, 5, 3, 1, 2]
    assert [row.score for row in done.rows] == [5, 4, 3, 2, 1]
    assert audit.stored(tmp_path) == done


@pytest.mark.parametrize("seed", SEEDS)
def test_intervals_hold_their_value_which_is_scipys(seed: int) -> None:
    scores, full = made_up(20, seed)
    found = audit._compare(scores, full, seed)
    assert found["tau"] == pytest.approx(kendalltau(scores, full).statistic)
    assert found["rho"] == pytest.approx(spearmanr(scores, full).statistic)
    for name in ("tau", "rho"):
        assert -1 <= found[f"{name}_low"] <= found[name] <= found[f"{name}_high"] <= 1 + 1e-9
    assert found["regret"] == pytest.approx(max(full) - full[int(np.argmax(scores))])
    assert found == audit._compare(scores, full, seed)


def test_more_trials_shrink_the_interval() -> None:
    def width(count: int) -> float:
        found = [figures(count, seed) for seed in range(6)]
        return float(np.mean([f["tau_high"] - f["tau_low"] for f in found]))

    assert width(12) > 1.2 * width(36) > 1.2 * 1.2 * width(108)


def test_a_minimised_objective_and_a_maximised_accuracy_agree(tmp_path: Path) -> None:
    loss = Objective("loss", "min")
    for name, full in (("accuracy", [0.9, 0.8, 0.7, 0.6]), ("loss", [1, 2, 3, 4])):
        metric = "val_accuracy" if name == "accuracy" else name
        folder = tmp_path / name
        folder.mkdir()
        done = examine(folder, [1, 2, 3, 4], [{metric: v} for v in full], loss)
        assert done is not None
        assert done.metrics["tau"] == pytest.approx(1)
        assert done.metrics["regret"] == 0
        assert [row.trial for row in done.rows] == [0, 1, 2, 3]
        assert [row.full for row in done.rows] == full


def test_the_regret_of_a_minimised_objective_is_positive(tmp_path: Path) -> None:
    full = [{"loss": v} for v in (3.0, 1.0, 2.0, 4.0)]
    done = examine(tmp_path, [1, 2, 3, 4], full, Objective("loss", "min"))
    assert done is not None
    assert done.metrics["regret"] == pytest.approx(2)


@pytest.mark.parametrize(
    ("scores", "full"),
    [([1, 1, 1, 1, 1], [1, 2, 3, 4, 5]), ([5, 4, 3, 2, 1], [1] * 5), ([0] * 5, [0] * 5)],
)
def test_equal_scores_have_no_order(tmp_path: Path, scores: list[float], full: list[float]) -> None:
    done = examine(tmp_path, scores, full)
    assert done is not None
    assert (done.metrics["tau"], done.metrics["rho"]) == (0, 0)
    assert (done.metrics["tau_low"], done.metrics["tau_high"]) == (-1, 1)
    assert "cannot be told from chance" in done.sentence


def test_a_few_ties_are_no_problem(tmp_path: Path) -> None:
    done = examine(tmp_path, [3, 3, 2, 2, 1, 1], [6, 5, 4, 4, 2, 1])
    assert done is not None
    assert done.metrics["tau"] == pytest.approx(
        kendalltau([3, 3, 2, 2, 1, 1], [6, 5, 4, 4, 2, 1]).statistic
    )
    assert np.isfinite(list(done.metrics.values())).all()


def test_trainings_that_fail_are_left_out(tmp_path: Path) -> None:
    done = examine(tmp_path, [6, 5, 4, 3, 2, 1], [6, None, 4, 3, None, 1])
    assert done is not None
    assert [(row.trial, row.rank) for row in done.rows] == [(0, 1), (2, 3), (3, 4), (5, 6)]
    assert done.metrics["tau"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("full", "finals"),
    [
        ([6, None, None, 3, None, 1], True),
        ([None] * 6, True),
        ([6, 5, 4, 3, 2, 1], False),
        ([{"other": 1.0}] * 6, True),
    ],
    ids=["too few", "all failed", "no fuller training", "another metric"],
)
def test_nothing_to_compare_is_none_and_leaves_nothing(
    tmp_path: Path, full: list[Mapping[str, float] | None], finals: bool
) -> None:
    assert examine(tmp_path, [6, 5, 4, 3, 2, 1], full, finals=finals) is None
    assert audit.stored(tmp_path) is None


def test_only_the_sample_is_trained(tmp_path: Path) -> None:
    done = examine(tmp_path, *made_up(40, 0), trials=10)
    assert done is not None
    assert len(done.rows) == 10
    assert done.rows[0].rank == 1
    assert len(read_journal(tmp_path)[1]) == 20
    assert examine(tmp_path, *made_up(40, 0), trials=10) == done
    assert len(read_journal(tmp_path)[1]) == 20, "nothing is trained twice"


def test_what_the_final_stage_trained_is_not_trained_again(tmp_path: Path) -> None:
    scored = [trial(n, "train", score=n / 10) for n in (9, 7, 5, 3, 1)]
    with session(tmp_path, writes(tmp_path)) as run:
        run.train(finals(scored[:1], 2))
        done = audit.audit(run, scored, 5)
    assert done is not None
    assert trained(tmp_path) == ["9/0", "9/1", "7/0", "5/0", "3/0", "1/0"]
    assert [row.full for row in done.rows] == [0.09, 0.07, 0.05, 0.03, 0.01]
    assert done.metrics["tau"] == pytest.approx(1)


def test_stopping_is_passed_on_and_leaves_no_audit(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        examine(tmp_path, [4, 3, 2, 1], [4, 3, 2, 1], stopping=lambda: True)
    assert audit.stored(tmp_path) is None


def test_a_disk_that_takes_nothing_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "audit.tmp").mkdir()
    with pytest.raises(StorageError, match=r"audit\.json"):
        examine(tmp_path, [4, 3, 2, 1], [4, 3, 2, 1])


# The words.


@pytest.mark.parametrize(
    ("low", "rows", "words"),
    [
        (-0.3, 12, "cannot be told from chance"),
        (0.0, 12, "cannot be told from chance"),
        (0.2, 12, "points the right way"),
        (0.5, 12, "can be trusted"),
        (1.0, 8, "can be trusted"),
        (1.0, 7, "points the right way"),
        (1.0, 4, "points the right way"),
    ],
)
def test_the_sentence_fits_the_figures(low: float, rows: int, words: str) -> None:
    said = audit.sentence({"tau": 0.7, "tau_low": low, "tau_high": 1.0}, rows)
    assert words in said
    assert f"tau 0.70 ({low:.2f} to 1.00) over {rows} trials" in said
    assert "\n" not in said


def test_four_trials_in_order_are_no_proof(tmp_path: Path) -> None:
    """One of 24 orders is the right one; the bootstrap sees no doubt in it."""
    done = examine(tmp_path, [4, 3, 2, 1], [4, 3, 2, 1])
    assert done is not None
    assert done.metrics["tau_low"] == pytest.approx(1)
    assert "trusted" not in done.sentence


def test_noise_is_seldom_trusted_and_signal_is() -> None:
    def words(noise: float) -> list[str]:
        return [audit.sentence(figures(12, seed, noise), 12) for seed in SEEDS]

    assert sum("chance" in said for said in words(100)) >= len(SEEDS) - 2
    assert not any("trusted" in said for said in words(100))
    assert not any("chance" in said for said in words(0.1))


def test_the_table_shows_every_row_and_the_sentence(tmp_path: Path) -> None:
    done = examine(tmp_path, [5, 4, 3, 2, 1], [0.4, 0.5, 0.3, 0.1, 0.2])
    assert done is not None
    lines = audit.table(done).splitlines()
    assert len(lines) == 1 + 5 + 4 + 1
    assert lines[1].split() == ["1", "0", "5.0000", "0.4000"]
    assert lines[-1] == done.sentence
    stored = json.loads((tmp_path / "audit.json").read_text())
    assert stored["sentence"] == done.sentence


# Real figures: 12 epochs against 200 on NAS-Bench-201.

CELL = "|{edge_0_1}~0|+|{edge_0_2}~0|{edge_1_2}~1|+|{edge_0_3}~0|{edge_1_3}~1|{edge_2_3}~2|"


def test_recorded_trainings(tmp_path: Path, shared_data: Path) -> None:
    space = NASBench201()
    evaluator = Tabular(
        Context(space, None, "cpu", seed=0),
        shared_data / "nasbench201_cifar100.csv",
        CELL,
        {"val_accuracy": "valid_12ep"},
        full={"val_accuracy": "valtest_200ep"},
    )
    trials = []
    for number in range(200):
        trial = Trial(number, Proposal(space.sample(Random(number))), TrialState.COMPLETE)
        metrics = evaluator.evaluate(trial, lambda step, metrics: None)
        trials.append(Trial(number, trial.proposal, TrialState.COMPLETE, metrics))
    trials.sort(key=lambda t: t.metrics["val_accuracy"], reverse=True)
    with session(tmp_path, lambda device: evaluator) as run:
        done = audit.audit(run, trials, 200)
    assert done is not None
    assert done.metrics["tau_low"] < 0.645 < done.metrics["tau_high"]
    assert done.metrics["tau_high"] - done.metrics["tau_low"] < 0.2
    assert done.metrics["regret"] >= 0
