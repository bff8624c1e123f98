"""Names of data sets that the `datasets` library loads: from the hub, or from a folder of data files.

In a config, `hf://org/name#train`, or a mapping with `dataset`, `split` and, if wanted, `config`, `revision` and
`stream`. Inside, such a data set travels as a path, like every other data file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode

__all__ = ["HubSet", "hub_path"]

_HUB, _FOLDER = "hf:/", "hf:folder"
_KEYS = ("dataset", "split", "config", "revision", "stream")


@dataclass(frozen=True)
class HubSet:
    """One split of a data set.

    Attributes:
        name: `org/name` on the hub, or the absolute path of a folder.
        split: as `datasets` has it: `train`, `train[:10%]`.
        config: of a data set that has several.
        revision: a branch, tag or commit of the hub's.
        stream: read this many rows, the first ones, without a copy on the disk; None: download all.
    """

    name: str
    split: str
    config: str | None = None
    revision: str | None = None
    stream: int | None = None

    @property
    def folder(self) -> Path | None:
        """The folder of data files; None for a name on the hub."""
        return Path(self.name) if self.name.startswith("/") else None

    def as_path(self) -> Path:
        """The path that stands for it.

        >>> str(HubSet("org/name", "train").as_path())
        'hf:/org/name#train'
        """
        options = {
            key: str(value)
            for key in ("config", "revision", "stream")
            if (value := getattr(self, key)) is not None
        }
        query = f"?{urlencode(options)}" if options else ""
        # A folder's first slash would merge with the scheme's.
        name = f"{_FOLDER}{quote(self.name)}" if self.folder else f"{_HUB}{self.name}"
        return Path(f"{name}#{self.split}{query}")

    @classmethod
    def of_path(cls, path: Path) -> HubSet | None:
        """The data set that a path stands for; None where it is a file's.

        >>> HubSet.of_path(Path("hf:/org/name#train?stream=10")).stream
        10
        """
        text = str(path)
        if text.startswith(f"{_FOLDER}/"):
            name, mark, rest = text.removeprefix(_FOLDER).partition("#")
            return _parsed(f"{mark}{rest}", unquote(name))
        return _parsed(text.removeprefix(_HUB)) if text.startswith(_HUB) else None


def hub_path(value: object, base: Path | None) -> object:
    """The path of a data set given as `hf://...` or as a mapping; anything else unchanged.

    Args:
        base: the folder that a relative folder starts from.

    Raises:
        ValueError: a key or the split is missing or wrong, or a stream's length is not known.
    """
    if isinstance(value, Mapping):
        found = _of_mapping(value)
    elif isinstance(value, str) and value.startswith("hf://"):
        found = _parsed(value.removeprefix("hf://"))
    else:
        return value
    if not found.name or not found.split:
        raise ValueError(f"{value!r} names no split; write hf://org/name#train")
    local = found.name.startswith((".", "~", "/"))
    if local:
        folder = Path(found.name).expanduser()
        folder = folder if folder.is_absolute() or base is None else base / folder
        found = HubSet(str(folder.absolute()), found.split, found.config, found.revision, found.stream)
    elif found.name.count("/") > 1:
        raise ValueError(
            f"{found.name!r} is no name on the hub; expected org/name, or a folder such as ./data"
        )
    if found.stream is not None and found.stream < 1:
        raise ValueError(f"stream is {found.stream}; expected the number of rows to read, at least 1")
    if found.stream is not None and not local and found.revision is None:
        raise ValueError(
            f"{found.name}: a data set that is streamed needs a `revision`, since nothing else tells whether its "
            "rows have changed"
        )
    return found.as_path()


def _parsed(text: str, folder: str = "") -> HubSet:
    name, _, rest = text.partition("#")
    split, _, query = rest.partition("?")
    options = dict(parse_qsl(query))
    stream = options.get("stream")
    if stream is not None and not stream.isdecimal():
        raise ValueError(f"stream is {stream!r}; expected the number of rows to read")
    return HubSet(
        folder or name,
        split,
        options.get("config"),
        options.get("revision"),
        None if stream is None else int(stream),
    )


def _of_mapping(value: Mapping[object, object]) -> HubSet:
    unknown = [str(key) for key in value if key not in _KEYS]
    if unknown:
        raise ValueError(f"found the key {unknown[0]!r}; expected {', '.join(_KEYS)}")
    name, split, stream = value.get("dataset"), value.get("split"), value.get("stream")
    if not isinstance(name, str) or not isinstance(split, str) or not name or not split:
        raise ValueError("`dataset` and `split` are needed, such as {dataset: org/name, split: train}")
    if stream is True:
        raise ValueError(
            "`stream` needs the number of rows to read: steps and subsets are counted before training"
        )
    if stream is not None and stream is not False and not isinstance(stream, int):
        raise ValueError(f"stream is {stream!r}; expected the number of rows to read")
    options = {key: value.get(key) for key in ("config", "revision")}
    return HubSet(
        name,
        split,
        None if options["config"] is None else str(options["config"]),
        None if options["revision"] is None else str(options["revision"]),
        int(stream) if stream else None,
    )
