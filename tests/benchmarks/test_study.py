"""The study: its declaration is true to its formula, and its page is what the committed results make."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from benchmarks.study import page, power
from benchmarks.study.design import DECLARED, DESCRIBED, SHORT, VARIANTS, mixtures, study_config
from benchmarks.study.health import states
from benchmarks.study.variants import Preparations, variant_weights
from cotbal.method.scores import ScoreTable

ROOT = Path(__file__).parent.parent.parent


def test_the_page_and_its_plot_are_what_the_results_make() -> None:
    for path, text in page.render(page.load()).items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"{path}: run `make docs`"


def test_the_declared_difference_is_what_the_power_formula_gives() -> None:
    plan = power.declared()
    found = power.detectable(
        plan.deviation,
        plan.seeds,
        len(plan.mixtures),
        level=plan.level,
        contrasts=len(plan.contrasts),
        power=plan.power,
    )
    assert plan.detectable == pytest.approx(found, abs=0.005)
    assert plan.mixtures == tuple(mixture.name for mixture in mixtures())
    assert plan.seeds == len(SHORT.seeds)


def test_the_detectable_difference_is_found_as_often_as_it_says() -> None:
    """By simulation: one mixture's paired differences of five seeds, judged by a plain t test."""
    difference = power.detectable(2.0, seeds=5, mixtures=1, power=0.8)
    draws = np.random.default_rng(0).normal(difference, 2.0, (20_000, 5))
    statistics = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / np.sqrt(5))
    found = (statistics > t.ppf(0.975, 4)).mean()
    assert found == pytest.approx(0.8, abs=4 * np.sqrt(0.8 * 0.2 / 20_000))


def test_every_contrast_is_between_what_the_study_tunes_first() -> None:
    for contrast in power.declared().contrasts:
        assert {contrast.ahead, contrast.behind} <= set(DECLARED)
    assert set(VARIANTS) <= {*DECLARED, *DESCRIBED}


def test_configs_of_all_mixtures_are_valid(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    for mixture in mixtures():
        config = study_config(tmp_path / mixture.name, mixture, SHORT, strategies=[*DECLARED, *DESCRIBED])
        assert [task.name for task in config.tasks] == list(mixture.tasks)
        assert len({strategy.model for strategy in config.comparison.strategies}) == len(DECLARED + DESCRIBED)


def test_variants_are_made_of_the_terms_they_name() -> None:
    random = np.random.default_rng(1)
    tasks = ["a", "b", "c"]

    def scores(shift: float) -> ScoreTable:
        own = {f"plus_{task}": task for task in tasks}
        rows = {
            model: {
                task: random.random(400) * (1.0 if own.get(model) == task else 0.5) + shift for task in tasks
            }
            for model in ("mini", *own)
        }
        return ScoreTable.from_samples(rows, tasks=tasks)

    found = Preparations(
        ScoreTable.from_seeds({0: scores(0.0), 1: scores(0.1)}),
        ScoreTable.from_seeds({0: scores(0.3), 1: scores(0.3)}),
    )
    made = {label: np.array(list(row.values())) for label, row in variant_weights(found, 1).items()}
    assert set(made) == set(VARIANTS)
    np.testing.assert_allclose(
        made["cotbal"], (made["cotbal-contributions"] + made["cotbal-difficulty"]) / 2, atol=1e-9
    )
    for label, row in made.items():
        assert row.sum() == pytest.approx(3), label
    other = {label: np.array(list(row.values())) for label, row in variant_weights(found, 0).items()}
    np.testing.assert_allclose(made["cotbal-seeds"], (made["cotbal"] + other["cotbal"]) / 2, atol=1e-9)
    same = dataclasses.replace(found, tokens=found.generated)
    hybrid = np.array(list(variant_weights(same, 1)["cotbal-hybrid"].values()))
    np.testing.assert_allclose(hybrid, made["cotbal"], atol=1e-9)


def test_health_tells_learned_from_hopeless_and_mastered() -> None:
    mixture = {
        "metrics": ["exact_match", "exact_match", "exact_match", "cider"],
        "single": [0.6, 0.46, 0.98, 6.0],
        "constant": [0.4, 0.44, 0.3, 0.5],
    }
    assert states(mixture, 400) == ["learned", "hopeless", "mastered", "learned"]
