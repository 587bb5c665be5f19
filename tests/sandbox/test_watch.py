"""What a slot uses, read from a /proc made for the purpose, in which processes say of themselves whatever they like."""

from __future__ import annotations

import os
from pathlib import Path

from otpd.agents.sandbox import watch

MIB = 2**20


def process(proc: Path, pid: int, name: str = "python3", *, own: int = 0, size: int = 0, maps: str = "") -> None:
    """Sizes in MiB."""
    (proc / str(pid)).mkdir()
    sizes = {"VmSize": size, "RssAnon": own, "RssShmem": 0, "VmSwap": own}
    lines = [f"Name:\t{name}", *(f"{what}:\t{number * 1024} kB" for what, number in sizes.items())]
    (proc / str(pid) / "status").write_text("\n".join(lines))
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) S 1 " + " ".join(["7"] * 49))
    (proc / str(pid) / "maps").write_text(maps)


def shared(start: int, size: int, inode: int, offset: int = 0) -> str:
    end, offset = start + size * MIB, offset * MIB
    return f"{start:x}-{end:x} rw-s {offset:08x} 00:01 {inode}        /dev/zero (deleted)\n"


def memory(proc: Path, limit: int, *, bounded: bool = False) -> int:
    """In MiB."""
    fd = os.open(proc, os.O_RDONLY)
    try:
        return watch.measure(fd, limit * MIB, bounded=bounded).memory // MIB
    finally:
        os.close(fd)


def test_a_process_can_not_hide_its_memory_behind_its_name(tmp_path: Path) -> None:
    for pid, name in enumerate(("RssAnon: 0", "RssAnon:x", "VmSwap: 0 kB", ") R 0 0"), 2):
        process(tmp_path, pid, name, own=10)
    assert memory(tmp_path, 1000) == 4 * 20  # what is swapped out counts as well


def test_shared_memory_that_nobody_holds_now_counts_once_and_whole(tmp_path: Path) -> None:
    """Filled by a process that has ended, or let go of by madvise(): it stays, and is nobody's."""
    process(tmp_path, 2, size=400, maps=shared(0x10000, 300, 77) + shared(0x90000000, 50, 78))
    process(tmp_path, 3, size=400, maps=shared(0x10000, 100, 77) + shared(0x90000000, 100, 77, offset=250))
    assert (memory(tmp_path, 500), memory(tmp_path, 900)) == (400, 0)
    assert memory(tmp_path, 500, bounded=True) == 0


def test_who_has_too_many_mappings_to_look_through_has_all_that_is_mapped(tmp_path: Path) -> None:
    process(tmp_path, 2, size=700, maps="7f0000000000-7f0000001000 r--p 00000000 00:00 0\n" * 30_000)
    assert memory(tmp_path, 500) == 700
