"""The study: its declaration is true to its formula, and its page is what the committed results make."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from benchmarks.study import page, power
from benchmarks.study.design import DECLARED, DESCRIBED, OF_CHEAPER, SHORT, VARIANTS, mixtures, study_config
from benchmarks.study.estimators import estimator_values
from benchmarks.study.health import states
from benchmarks.study.variants import Preparations, variant_weights
from cotbal.method.measurement import measure
from cotbal.method.scores import ScoreTable
from cotbal.method.weighing import weigh

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
    half = ScoreTable.from_seeds({100: scores(0.0), 101: scores(0.2)})
    made = {label: np.array(list(row.values())) for label, row in variant_weights(found, 1, half).items()}
    assert set(made) == set(VARIANTS)
    np.testing.assert_allclose(
        made["cotbal"], (made["cotbal-contributions"] + made["cotbal-difficulty"]) / 2, atol=1e-9
    )
    for label, row in made.items():
        assert row.sum() == pytest.approx(3), label
    other = {label: np.array(list(row.values())) for label, row in variant_weights(found, 0).items()}
    np.testing.assert_allclose(made["cotbal-seeds"], (made["cotbal"] + other["cotbal"]) / 2, atol=1e-9)
    halves = np.array([weigh(measure(half.of_seed(seed))).values for seed in (100, 101)])
    np.testing.assert_allclose(made["cotbal-half"], halves[1], atol=1e-9)
    np.testing.assert_allclose(made["cotbal-half-twice"], halves.mean(axis=0), atol=1e-9)
    assert set(other) == set(VARIANTS) - set(OF_CHEAPER)
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


def test_estimators_are_compared_with_what_the_other_preparations_say() -> None:
    """By hand: distances leave the own seed out; a cheaper preparation is compared with all."""
    random = np.random.default_rng(3)
    tasks = ["a", "b", "c"]

    def scores(better: str) -> ScoreTable:
        rows = {"mini": {task: (random.random(300) < 0.4).astype(float) for task in tasks}}
        for own in tasks:
            rows[f"plus_{own}"] = {
                task: (random.random(300) < (0.9 if own == task else 0.6 if own == better else 0.45)).astype(
                    float
                )
                for task in tasks
            }
        return ScoreTable.from_samples(rows, tasks=tasks)

    full = {seed: scores("a") for seed in range(3)}
    found = Preparations(ScoreTable.from_seeds(full), ScoreTable.from_seeds(full))
    cheaper = ScoreTable.from_seeds({100: scores("b"), 101: scores("c")})
    values = estimator_values(found, (0, 1, 2), {"half": cheaper})["distance"]
    each = np.array([weigh(measure(full[seed])).values for seed in range(3)])
    apart = [each[s] - each[[o for o in range(3) if o != s]].mean(axis=0) for s in range(3)]
    assert values["cotbal"]["rms"] == pytest.approx(np.sqrt(np.mean(np.square(apart))), abs=2e-4)
    assert values["cotbal"] == values["cotbal-hybrid"]
    halves = np.array([weigh(measure(cheaper.of_seed(seed))).values for seed in (100, 101)])
    assert values["half"]["largest"] == pytest.approx(np.abs(halves - each.mean(axis=0)).max(), abs=1e-4)
    both = halves.mean(axis=0) - each.mean(axis=0)
    assert values["half x 2"]["rms"] == pytest.approx(np.sqrt(np.mean(both**2)), abs=1e-4)
    others = ~np.eye(3, dtype=bool)
    mean = np.mean([measure(table).contributions[others] for table in full.values()], axis=0)
    pairs = [(measure(cheaper.of_seed(seed)).contributions[others], mean) for seed in (100, 101)]
    wanted = np.corrcoef(*(np.concatenate([pair[side] for pair in pairs]) for side in (0, 1)))[0, 1]
    assert values["half"]["c"] == pytest.approx(wanted, abs=1e-3)


def test_what_is_remembered_is_what_would_be_made(tmp_path: Path) -> None:
    """In a process of its own, as remembering changes the encoders of the whole process."""
    run = subprocess.run(
        [sys.executable, "-c", _REMEMBERING, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr[-2000:]


_REMEMBERING = """
import sys
from pathlib import Path
import torch
from benchmarks.study.remembering import remember
from cotbal.data.collate import TaskCollator
from cotbal.data.formats import read_records
from cotbal.data.prompts import PromptCollator
from cotbal.demo.dataset import write_dataset
from cotbal.demo.mixtures import MIXTURES
from cotbal.demo.model import build_processor

mixture, folder = MIXTURES["uneven"], Path(sys.argv[1])
write_dataset(folder, mixture, scenes={"train": 4, "validation": 1, "test": 1})
processor = build_processor(mixture.words)
records = [
    record
    for task in ("caption", "seek")
    for record in read_records([folder / "train" / f"{task}.json"], task=task, image_root=folder / "images")
]

def made():
    train, ask = TaskCollator(processor, ["caption", "seek"]), PromptCollator(processor)
    return [make(records[start:]) for make in (train, ask) for start in (0, 3)]

wanted = made()
remember(processor)
for found in (made(), made()):
    for one, other in zip(wanted, found, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert not isinstance(value, torch.Tensor) or torch.equal(value, other[name]), name
"""
