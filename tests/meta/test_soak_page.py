"""The page of the long tests says what ran, and does not pass over a failure."""

from pathlib import Path

import pytest
from support.pages.soak_page import page

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.native.test_sanitizers" name="test_no_finding[10000]" time="61.4"/>
<testcase classname="tests.native.test_vector_math" name="test_exp[1]" time="9"><failure message="no"/></testcase>
<testcase classname="tests.triton.test_interpreter" name="test_contract" time="0"><skipped/></testcase>
</testsuite></testsuites>"""


def test_each_test_has_its_outcome(tmp_path: Path) -> None:
    junit = tmp_path / "soak.xml"
    junit.write_text(JUNIT)
    lines = page(junit, "Here.").splitlines()
    assert "| `native.test_sanitizers`: `test_no_finding[10000]` | passed | 61 |" in lines
    assert "| `native.test_vector_math`: `test_exp[1]` | failed | 9 |" in lines
    assert "| `triton.test_interpreter`: `test_contract` | skipped | 0 |" in lines


def test_no_test_is_an_error(tmp_path: Path) -> None:
    junit = tmp_path / "soak.xml"
    junit.write_text("<testsuites><testsuite/></testsuites>")
    with pytest.raises(ValueError, match="no test ran"):
        page(junit, "Here.")
