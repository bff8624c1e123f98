"""What a traced process wrote, synced and renamed, and whether anything was vouched for before it was on the disk.

The disk is modelled as a crash would find it: a write counts after `fsync` of the file, and a new name after
`fsync` of its folder. When a file that vouches for others gets its name, nothing it vouches for may be dirty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

__all__ = ["CALLS", "Event", "Violation", "events", "violations"]

CALLS = (
    "open,openat,creat,write,pwrite64,writev,pwritev,pwritev2,sendfile,copy_file_range,ftruncate,truncate,"
    "fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,link,linkat"
)
_LINE = re.compile(r"^(?P<pid>\d+)\s+(?P<call>\w+)\((?P<rest>.*)$")
_RESUMED = re.compile(r"^(?P<pid>\d+)\s+<\.\.\. (?P<call>\w+) resumed>(?P<rest>.*)$")
_OPENED = re.compile(r"<(/[^>]*)>")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_AT = re.compile(r'(?:AT_FDCWD|\d+)<([^>]*)>, "((?:[^"\\]|\\.)*)"')
_WRITES = {"write", "pwrite64", "writev", "pwritev", "pwritev2", "ftruncate"}


@dataclass(frozen=True)
class Event:
    """One thing done to a path: `write`, `create`, `sync`, or `move` (to `target`)."""

    kind: str
    path: str
    target: str = ""


@dataclass(frozen=True)
class Violation:
    """A file got its name, and so vouched for another, before that one was on the disk."""

    vouching: str
    dirty: str


def events(lines: Iterable[str]) -> Iterator[Event]:
    """The events of `strace -f -y -e trace=...` in the order in which the calls ended; failed calls are left out."""
    begun: dict[str, str] = {}
    for line in lines:
        line = line.rstrip("\n")
        resumed = _RESUMED.match(line)
        if resumed:
            line = begun.pop(resumed["pid"] + resumed["call"], "") + resumed["rest"]
        found = _LINE.match(line)
        if not found:
            continue
        if line.endswith("<unfinished ...>"):
            begun[found["pid"] + found["call"]] = line.removesuffix("<unfinished ...>")
            continue
        call, _, result = found["rest"].rpartition(" = ")
        if not result or result.startswith(("-1", "?")):
            continue
        yield from _events(found["call"], call, result)


def _events(name: str, call: str, result: str) -> Iterator[Event]:
    if name in _WRITES:
        yield from (Event("write", path) for path in _OPENED.findall(call)[:1])
    elif name in ("sendfile", "copy_file_range"):
        opened = _OPENED.findall(call)
        yield from (Event("write", path) for path in (opened[:1] if name == "sendfile" else opened[-1:]))
    elif name in ("fsync", "fdatasync"):
        yield from (Event("sync", path) for path in _OPENED.findall(call)[:1])
    elif name in ("rename", "renameat", "renameat2"):
        old, new = _paths(call)
        yield Event("move", old, new)
    elif name in ("open", "openat", "creat"):
        if "O_TRUNC" in call or "O_CREAT" in call or name == "creat":
            path = (_OPENED.findall(result) or _paths(call))[0]
            yield Event("create" if "O_CREAT" in call or name == "creat" else "write", path)
    elif name in ("mkdir", "mkdirat", "link", "linkat"):
        yield Event("create", _paths(call)[-1])
    elif name == "truncate":
        yield Event("write", _paths(call)[0])


def _paths(call: str) -> list[str]:
    """The paths of a call, absolute where strace says of which folder they count from."""
    if "AT_FDCWD" in call or _AT.search(call):
        return [str(PurePosixPath(folder) / path) for folder, path in _AT.findall(call)]
    return _QUOTED.findall(call)


@dataclass
class _Disk:
    """Files whose content, and entries of folders whose name, is not on the disk yet."""

    dirty: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def note(self, event: Event) -> None:
        if event.kind == "write":
            self.dirty.add(event.path)
        elif event.kind == "create":
            self.dirty.add(event.path)
            self.names.add(event.path)
        elif event.kind == "sync":
            self.dirty.discard(event.path)
            self.names = {name for name in self.names if str(PurePosixPath(name).parent) != event.path}
        elif event.kind == "move":
            self.dirty = {_moved(path, event) for path in self.dirty if not _below(path, event.target)}
            self.names = {_moved(path, event) for path in self.names if not _below(path, event.target)}
            self.names.add(event.target)


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _moved(path: str, event: Event) -> str:
    return event.target + path[len(event.path) :] if _below(path, event.path) else path


def violations(found: Iterable[Event], output: str) -> tuple[list[Violation], list[str]]:
    """What was vouched for too early in an output folder, and the paths that vouched, in order.

    The name of a file that vouches must itself be on the disk before the next one vouches.
    """
    disk = _Disk()
    wrong: list[Violation] = []
    vouching: list[str] = []
    for event in found:
        domain = _domain(event, output)
        if domain is None:
            disk.note(event)
            continue
        early = {event.path} & disk.dirty
        for path in (disk.dirty | disk.names) - {event.path}:
            unnamed = path in disk.names and path in vouching[-1:]
            if unnamed or any(_below(path, each) for each in domain):
                early.add(path)
        wrong += [Violation(event.target, path) for path in sorted(early)]
        vouching.append(event.target)
        disk.note(event)
    return wrong, vouching


def _domain(event: Event, output: str) -> tuple[str, ...] | None:
    """What a file vouches for that gets its name in this event; None where it vouches for nothing."""
    if event.kind != "move" or not _below(event.target, output):
        return None
    place, name = str(PurePosixPath(event.target).parent), PurePosixPath(event.target).name
    if name == "manifest.json":
        return (f"{place}/model", f"{place}/scores.jsonl", f"{place}/log.jsonl")
    if name == "COMPLETE":
        return (place,)
    if name == "seals.json":
        return (f"{place}/scores.csv", f"{place}/weights.json")
    if PurePosixPath(place).parent.name == "units" and name == "model":
        # The folder of a model has this name only when all of it is there.
        return (event.path,)
    if name in ("scores.csv", "weights.json", "scores.jsonl"):
        return ()
    return None
