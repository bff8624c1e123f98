"""The measurements of reading and starting: they do what they say, on files a hundredth of the size."""

import sys
from pathlib import Path

import pytest

from benchmarks import pages
from benchmarks.records import made, reading
from benchmarks.records.watch import follow
from cotbal.data import read_records


def test_the_records_are_read_whole_and_alike_in_both_forms(tmp_path: Path) -> None:
    made.make_pictures(tmp_path / "images", 4)
    found = []
    for name in ("a.json", "a.jsonl"):
        size = made.write_json(tmp_path / name, made.records(300))
        assert size == (tmp_path / name).stat().st_size
        found.append(read_records(tmp_path / name, task="t", image_root=tmp_path / "images"))
    texts = [[(record.id, record.images, record.turns) for record in each] for each in found]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 300
    assert {len(images) for _, images, _ in texts[0]} == {0, 1}
    assert any(not turn.text.isascii() for _, _, turns in texts[0] for turn in turns)
    # 665,298 records of LLaVA-1.5 are about 1 GB.
    mean = (tmp_path / "a.json").stat().st_size / 300
    assert 1200 < mean < 1900


def test_reading_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    (entry,) = reading.run(tmp_path, lambda text: None, [("few", 200, "a.json")])
    assert entry["records"] == 200
    assert entry["cpu"] > 0
    assert entry["file_bytes"] > 100_000
    assert not (tmp_path / "a.json").exists()
    file = {
        "group": "records-read",
        "machine": {"kind": "x", "cpu": "x", "threads": 1, "versions": {}, "commit": ""},
    }
    rendered = pages.render([{**file, "measured": "2026-01-01", "entries": [entry]}])
    assert "| few | 200 | " in rendered[pages.PAGE]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_a_command_is_followed_with_its_children(tmp_path: Path) -> None:
    child = f"import time; x = bytearray({200 * 2**20}); sum(range(5_000_000)); "
    child += "open('there', 'w').close(); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    usage = follow(
        [sys.executable, "-c", parent],
        lambda: (tmp_path / "there").exists(),
        log=tmp_path / "log",
        cwd=tmp_path,
        every=0.02,
    )
    assert usage.peak_bytes > 200 * 2**20
    assert 0.02 < usage.cpu <= usage.wall + 0.1
    with pytest.raises(RuntimeError, match="ended early"):
        follow([sys.executable, "-c", "pass"], lambda: False, log=tmp_path / "log", cwd=tmp_path)
