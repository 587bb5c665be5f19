"""Where the logs of a child lie: one directory per name, and in it numbered segments.

    <logs>/<name>/00000001.log   verbatim bytes, at most `max_bytes` of them
    <logs>/<name>/00000001.idx   who wrote them and when (logindex)

The segment with the highest number is written; the others are closed for ever. Nothing is ever renamed, so there is no
instant at which a kill could leave a log without its index or a number that means two things.

Any name gives a directory of its own, and its name can be told from it again:

>>> directory_name("web"), directory_name("..") , directory_name("50%/a")
('web', '%2E.', '50%25%2Fa')
>>> child_name("/logs/%2E.")
'..'
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

_UNSAFE = re.compile(r"[%/\x00-\x1f\x7f]|^\.")
_QUOTED = re.compile(r"%([0-9A-F]{2})")
_LOG = re.compile(r"(\d{8,})\.log")
_ANY = re.compile(r"(\d{8,})\.(?:log|idx)")
#: NAME_MAX is 255 bytes; a longer name is cut, made unique by a digest and written out in the file NAME_FILE.
_LONGEST = 200
_CUT = 150
NAME_FILE = "name"


@dataclass(frozen=True, slots=True)
class Segment:
    directory: str
    number: int

    @property
    def log(self) -> str:
        return f"{self.directory}/{self.number:08d}.log"

    @property
    def index(self) -> str:
        return f"{self.directory}/{self.number:08d}.idx"


def directory_name(name: str) -> str:
    """The file name under which the logs of `name` lie; different for different names."""
    quoted = _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", name) or "%"
    encoded = os.fsencode(quoted)
    if len(encoded) <= _LONGEST:
        return quoted
    digest = hashlib.sha256(encoded).hexdigest()[:16]
    return f"{encoded[:_CUT].decode(errors='ignore')}%-{digest}"


def is_cut(directory: str) -> bool:
    """Whether the name is in NAME_FILE, because it was too long for a directory's name."""
    return "%-" in os.path.basename(directory)


def child_name(directory: str) -> str | None:
    """The name whose logs lie in `directory`; None when it is none of ours."""
    base = os.path.basename(directory)
    if is_cut(directory):
        try:
            with open(os.path.join(directory, NAME_FILE), encoding="utf-8") as file:
                return file.read()
        except (OSError, UnicodeDecodeError):
            return None
    name = "" if base == "%" else _QUOTED.sub(lambda found: chr(int(found[1], 16)), base)
    return name if directory_name(name) == base else None


def names(logs: str | os.PathLike[str]) -> list[str]:
    """Every name that has a log, sorted; empty when there is no log directory."""
    try:
        with os.scandir(logs) as entries:
            found = [child_name(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in found if name is not None)


def segments(directory: str) -> list[Segment]:
    """The segments that can be read, oldest first; what is no regular file is left out."""
    try:
        with os.scandir(directory) as entries:
            found = [
                int(match[1])
                for entry in entries
                if (match := _LOG.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False)
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [Segment(directory, number) for number in sorted(found)]


def numbers_in_use(directory: str) -> set[int]:
    """Every number that some entry has, be it a segment or something in its way."""
    return {int(match[1]) for name in os.listdir(directory) if (match := _ANY.fullmatch(name))}
