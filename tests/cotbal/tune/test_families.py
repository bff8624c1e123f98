"""Every family of the table: exact weights, through its own processor; and the page that says so."""

import importlib.util
import re
from pathlib import Path

import pytest
from support.families import page
from support.families.checks import CHECKS, TASKS, records
from support.families.listing import FAMILIES

from cotbal.data.collate import TaskCollator
from cotbal.data.prompts import PromptCollator
from cotbal.data.records import BadRecordsError

PAGE = Path(__file__).parents[3] / "docs" / "families.md"
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),  # peft asks for it
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation:DeprecationWarning"
    ),  # transformers' processors
]
NEEDING = [name for name, family in FAMILIES.items() if family.needs]
WITH_PROCESSOR = [name for name, family in FAMILIES.items() if family.make()[1] is not None]


def _marked(name: str) -> object:
    return pytest.param(name, marks=pytest.mark.torchvision) if name in NEEDING else name


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", [_marked(name) for name in FAMILIES])
def test_a_family_keeps_what_is_promised(name: str, check: str) -> None:
    if not page.tries(FAMILIES[name], check):
        pytest.skip(f"no processor to make batches with: {FAMILIES[name].note}")
    deviation, limit = CHECKS[check](FAMILIES[name])
    assert deviation <= limit


@pytest.mark.torchvision
@pytest.mark.parametrize("name", NEEDING)
def test_a_processor_is_used_where_its_packages_are_installed(name: str) -> None:
    family = FAMILIES[name]
    if missing := [package for package in family.needs if importlib.util.find_spec(package) is None]:
        pytest.skip(f"{' and '.join(missing)} not installed; the model gets tensors. `make test-torchvision`")
    _, processor = family.make()
    assert family.tensors is None
    assert type(processor).__name__.endswith("Processor")
    assert (TaskCollator(processor, TASKS)(records(family))["input_ids"] >= 0).all()


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.refused])
def test_a_processor_that_rewrites_texts_is_refused(name: str) -> None:
    family = FAMILIES[name]
    _, processor = family.make()
    with pytest.raises(BadRecordsError, match=re.escape(family.refused)):
        TaskCollator(processor, TASKS)(records(family))


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.apart])
def test_rows_that_would_disturb_one_another_are_refused_together(name: str) -> None:
    _, processor = FAMILIES[name].make()
    mixed = [records(FAMILIES["LLaVA-1.5"])[place] for place in (0, 1)]
    for collate in (TaskCollator(processor, TASKS), PromptCollator(processor)):
        with pytest.raises(ValueError, match="rows with and without pictures"):
            collate(mixed)
        for record in mixed:
            assert collate([record])["input_ids"].shape[0] == 1
    with pytest.raises(ValueError, match="rows with and without pictures"):
        TaskCollator(processor, TASKS, blank_image=True)(mixed[1:])


def test_the_page_lists_every_family_and_no_failure() -> None:
    text = PAGE.read_text()
    listed = re.findall(r"^\| ([^|]+?) \|", text.split("## What is refused")[0], re.MULTILINE)
    assert listed == ["family", *FAMILIES]
    assert "exceeded" not in text
    # Made with the packages that some processors need, whether or not they are installed here.
    assert "not tried" not in text
    assert re.search(r"torchvision \d", text)
    refused = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", text.split("## What is refused")[1], re.MULTILINE))
    refused.pop("model")
    assert refused == page.refusals()
    assert all(refused.values())


def test_most_families_go_through_their_own_processor() -> None:
    assert len(FAMILIES) >= 25
    assert len(WITH_PROCESSOR) >= 20
