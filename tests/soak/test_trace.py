"""The model of a disk: what is dirty when another file vouches for it."""

from __future__ import annotations

from soak.trace import Event, Violation, events, violations

LINES = """\
7  openat(AT_FDCWD</w>, "run/units/a/.m.tmp", O_WRONLY|O_CREAT|O_EXCL, 0666) = 3</w/run/units/a/.m.tmp>
7  write(3</w/run/units/a/.m.tmp>, "x = (y", 6) = 6
7  fsync(3</w/run/units/a/.m.tmp> <unfinished ...>
8  openat(AT_FDCWD</w>, "gone", O_RDONLY) = -1 ENOENT (No such file or directory)
8  write(4<socket:[7]>, "x", 1) = 1
7  <... fsync resumed>) = 0
7  rename("/w/run/units/a/.m.tmp", "/w/run/units/a/manifest.json") = 0
7  renameat2(AT_FDCWD</w>, "b", AT_FDCWD</w>, "c", 0) = -1 EXDEV (Invalid cross-device link)
"""


def test_calls_are_read_as_strace_writes_them() -> None:
    assert list(events(LINES.splitlines())) == [
        Event("create", "/w/run/units/a/.m.tmp"),
        Event("write", "/w/run/units/a/.m.tmp"),
        Event("sync", "/w/run/units/a/.m.tmp"),
        Event("move", "/w/run/units/a/.m.tmp", "/w/run/units/a/manifest.json"),
    ]


def test_a_model_must_be_synced_with_its_folders_before_the_manifest() -> None:
    unit = "/run/units/a"
    saved = [
        Event("create", f"{unit}/model.unfinished"),
        Event("create", f"{unit}/model.unfinished/t"),
        Event("sync", f"{unit}/model.unfinished/t"),
        Event("sync", f"{unit}/model.unfinished"),
        Event("sync", unit),
        Event("move", f"{unit}/model.unfinished", f"{unit}/model"),
        Event("sync", unit),
    ]
    told = [
        Event("create", f"{unit}/.tmp"),
        Event("sync", f"{unit}/.tmp"),
        Event("move", f"{unit}/.tmp", f"{unit}/manifest.json"),
    ]
    assert violations([*saved, *told], "/run") == ([], [f"{unit}/model", f"{unit}/manifest.json"])
    for lost, dirty in ((2, "model/t"), (3, "model/t"), (6, "model")):
        kept = [event for number, event in enumerate(saved) if number != lost]
        wrong, _ = violations([*kept, *told], "/run")
        assert Violation(f"{unit}/manifest.json", f"{unit}/{dirty}") in wrong
    wrong, _ = violations([*saved, told[0], told[2]], "/run")
    assert wrong == [Violation(f"{unit}/manifest.json", f"{unit}/.tmp")]
