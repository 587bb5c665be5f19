"""An assembler for the classic BPF of seccomp: blocks of instructions with named places, each block ending in a verdict.

A filter reads one word at a time of what it is told about a call (its number, the architecture, six arguments of 64
bits) and returns what the kernel shall do. Jumps lead forward only and at most 255 instructions far; a block is short
enough.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ALLOW: Final = 0x7FFF_0000
ERRNO: Final = 0x0005_0000  # | errno
KILL_PROCESS: Final = 0x8000_0000

NUMBER, ARCHITECTURE = 0, 4
_LOAD, _AND, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_LEAF: Final = 2
_FARTHEST: Final = 255
_INSTRUCTION: Final = struct.Struct("=HBBI")


@dataclass(frozen=True, slots=True)
class Op:
    """One instruction. `yes` and `no` name places of the block; "" is the next instruction."""

    code: int
    value: int = 0
    yes: str = ""
    no: str = ""
    place: str = ""


def load(offset: int, place: str = "") -> Op:
    return Op(_LOAD, offset, place=place)


def argument(index: int, place: str = "") -> Op:
    """The low half of an argument: all that the kernel looks at where the policy asks."""
    return load(16 + 8 * index, place)


def mask(value: int) -> Op:
    return Op(_AND, value)


def equal(value: int, yes: str = "", no: str = "", place: str = "") -> Op:
    return Op(_JEQ, value, yes, no, place)


def at_least(value: int, yes: str = "", no: str = "") -> Op:
    return Op(_JGE, value, yes, no)


def any_bit(value: int, yes: str = "", no: str = "", place: str = "") -> Op:
    return Op(_JSET, value, yes, no, place)


def verdict(value: int, place: str = "") -> Op:
    return Op(_RETURN, value, place=place)


@dataclass(frozen=True, slots=True)
class Block:
    """Instructions for one call. Places are known within the block; "end" is behind it."""

    number: int
    ops: Sequence[Op]


def assemble(head: Sequence[Op], blocks: Sequence[Block], otherwise: Op) -> bytes:
    """An array of struct sock_filter: `head`, then what the call's number leads to. ValueError: a jump that can't be made.

    The blocks stand in a tree by number, because the kernel goes through the whole filter for each call there is when it is
    installed: a chain of comparisons would take most of the time of starting a command.
    """
    ordered = sorted(blocks, key=lambda block: block.number)
    return b"".join(_INSTRUCTION.pack(*each) for each in [*_encode(head), *_tree(ordered, otherwise)])


_Code = tuple[int, int, int, int]


def _tree(blocks: Sequence[Block], otherwise: Op) -> list[_Code]:
    if len(blocks) <= _LEAF:
        return [code for block in blocks for code in _encode(block.ops)] + _encode([otherwise])
    middle = len(blocks) // 2
    low = _tree(blocks[:middle], otherwise)
    while len(low) > _FARTHEST and middle > 1:
        middle -= 1
        low = _tree(blocks[:middle], otherwise)
    if len(low) > _FARTHEST:
        raise ValueError(f"expected a jump of 0 to {_FARTHEST} instructions, got {len(low)}")
    return [(_JGE, len(low), 0, blocks[middle].number), *low, *_tree(blocks[middle:], otherwise)]


def _encode(ops: Sequence[Op]) -> list[_Code]:
    places = {op.place: index for index, op in enumerate(ops) if op.place} | {"end": len(ops)}
    return [(op.code, _jump(op.yes, index, places), _jump(op.no, index, places), op.value) for index, op in enumerate(ops)]


def _jump(name: str, index: int, places: dict[str, int]) -> int:
    distance = places[name] - index - 1 if name else 0
    if not 0 <= distance <= _FARTHEST:
        raise ValueError(f"expected a jump of 0 to {_FARTHEST} instructions, got {distance}")
    return distance
