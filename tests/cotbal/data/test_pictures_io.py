"""Opening pictures: a fault of the machine is tried again and then stops; only what does not decode is broken."""

from __future__ import annotations

import builtins
import errno
import io
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.models import tiny_models

from cotbal.data import BadRecordsError, Record, TaskCollator, Turn, pictures_io
from cotbal.data.pictures_io import PictureFaultError, opened_picture, read_picture_bytes
from cotbal.data.records import RecordError

PASSING = (
    "EIO",
    "ESTALE",
    "EMFILE",
    "ENFILE",
    "ENOMEM",
    "ETIMEDOUT",
    "EAGAIN",
    "ECONNRESET",
    "EHOSTDOWN",
    "EREMOTEIO",
)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTBAL_PICTURE_PAUSE", "0.001")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.effect_noise((40, 30), 40).save(path)
    return path


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, picture: Path) -> Callable[..., list[int]]:
    """Let the first `times` attempts on the picture fail, on opening or on reading it."""

    def plant(number: int, times: int, where: str = "open") -> list[int]:
        attempts: list[int] = []
        stock = builtins.open

        class Torn(io.FileIO):
            def read(self, size: int | None = -1) -> bytes:
                raise OSError(number, os.strerror(number))

        def opening(path: Any, *args: Any, **kwargs: Any) -> Any:
            if Path(path) != picture:
                return stock(path, *args, **kwargs)
            attempts.append(number)
            if len(attempts) > times:
                return stock(path, *args, **kwargs)
            if where == "read":
                return Torn(str(path))
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(builtins, "open", opening)
        return attempts

    return plant


def record(picture: Path) -> Record:
    turns = (Turn("user", "<image>\nWhat?"), Turn("assistant", "seven"))
    return Record("r", "a", (picture,), turns, ("seven",), picture.parent / "data.json", 0)


@pytest.mark.parametrize("where", ["open", "read"])
@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_changes_nothing(
    picture: Path, failing: Callable[..., list[int]], name: str, where: str
) -> None:
    content = picture.read_bytes()
    attempts = failing(getattr(errno, name), len(pictures_io.PAUSES), where)
    assert read_picture_bytes(picture) == content
    assert len(attempts) == len(pictures_io.PAUSES) + 1


def test_records_are_not_lost_to_a_fault_that_passes(
    picture: Path, failing: Callable[..., list[int]]
) -> None:
    _, processor = tiny_models.tiny_llava()
    wanted = TaskCollator(processor, ["a"], on_bad="skip")([record(picture)])
    failing(errno.EIO, 3)
    collate = TaskCollator(processor, ["a"], on_bad="skip")
    found = collate([record(picture)])
    assert collate.skipped == 0
    assert found["pixel_values"].equal(wanted["pixel_values"])


@pytest.mark.parametrize("on_bad", ["skip", "refuse"])
def test_a_fault_that_stays_stops_with_the_files_name(
    picture: Path, failing: Callable[..., list[int]], on_bad: Any
) -> None:
    failing(errno.EIO, 100)
    collate = TaskCollator(tiny_models.tiny_llava()[1], ["a"], on_bad=on_bad)
    with pytest.raises(
        PictureFaultError, match=f"{picture} cannot be read: Input/output error; tried 5 times"
    ):
        collate([record(picture)])
    assert collate.skipped == 0


def test_what_may_not_be_read_stops_without_waiting(picture: Path, failing: Callable[..., list[int]]) -> None:
    attempts = failing(errno.EACCES, 100)
    with pytest.raises(PictureFaultError, match=f"{picture} cannot be read: Permission denied"):
        read_picture_bytes(picture)
    assert len(attempts) == 1


@pytest.mark.parametrize(
    "damage", ["absent", "folder", "not a folder", "long name", "empty", "text", "cut", "large"]
)
def test_what_is_wrong_with_the_file_is_the_records_fault(
    picture: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "cannot be decoded"
    if damage in ("absent", "folder", "not a folder", "long name"):
        reason = "missing image"
        names = {
            "absent": "no.png",
            "folder": ".",
            "not a folder": "picture.png/a.png",
            "long name": "n" * 300,
        }
        picture = picture.parent / names[damage]
    elif damage == "large":
        reason = "40 x 30 pixels; more than 1199 are not decoded"
        monkeypatch.setattr(pictures_io, "MAX_PIXELS", 1199)
    else:
        content = picture.read_bytes()
        picture.write_bytes({"empty": b"", "text": b"hello", "cut": content[: len(content) // 2]}[damage])
    with pytest.raises(RecordError, match=reason), opened_picture(picture) as image:
        image.convert("RGB")
    collate = TaskCollator(tiny_models.tiny_llava()[1], ["a"])
    with pytest.raises(BadRecordsError, match=reason):
        collate([record(picture)])


def test_a_picture_whose_header_claims_too_much_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """10^10 pixels of nothing in a file of a few hundred bytes."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    path = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(RecordError, match=r"bomb\.png"), opened_picture(path) as image:
        image.load()


def test_files_that_run_out_come_back(picture: Path) -> None:
    """A real EMFILE: the process has no descriptor left until another thread gives some back."""
    code = """
        import os, resource, sys, threading, time
        from pathlib import Path
        from cotbal.data.pictures_io import opened_picture
        picture = Path(sys.argv[1])
        with opened_picture(picture) as image:  # imports done
            image.load()
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        taken = []
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        def give_back():
            time.sleep(0.3)
            for number in taken[:8]:
                os.close(number)
        thread = threading.Thread(target=give_back)
        thread.start()
        with opened_picture(picture) as image:
            print(image.convert("RGB").size)
        thread.join()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(picture)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COTBAL_PICTURE_PAUSE": "1"},
        timeout=120,
    )
    assert done.stdout == "(40, 30)\n", done.stderr


def test_a_pause_that_is_no_number_is_refused(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("soon", "-1", "nan", "inf"):
        monkeypatch.setenv("COTBAL_PICTURE_PAUSE", given)
        with pytest.raises(ValueError, match=f"COTBAL_PICTURE_PAUSE is '{given}'"):
            read_picture_bytes(picture)
