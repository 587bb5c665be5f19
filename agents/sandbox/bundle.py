"""The modules of the nest, packed for an interpreter that has only the standard library (`python3 -I -S`)."""

from __future__ import annotations

import marshal
import os
from typing import Final

_PACKAGE: Final = "otpd.agents.sandbox"
_MODULES: Final = ("kernel", "records", "family", "snippet", "lockdown", "nest", "template")

#: argv: the descriptor of the bundle, then of the setup. Makes each module in order; the last one's `main` never returns.
BOOT: Final = f"""
import marshal, os, sys, types
names = "{_PACKAGE}".split(".")
for depth in range(1, len(names) + 1):
    package = types.ModuleType(".".join(names[:depth]))
    package.__path__ = []
    sys.modules[package.__name__] = package
fd = int(sys.argv[1])
for name, source in marshal.loads(os.pread(fd, os.fstat(fd).st_size, 0)):
    module = types.ModuleType("{_PACKAGE}." + name)
    sys.modules[module.__name__] = module
    setattr(package, name, module)
    exec(compile(source, name + ".py", "exec"), module.__dict__)
setup = int(sys.argv[2])
sys.argv[:] = [""]
module.main(setup)
"""


def pack() -> bytes:
    """What BOOT reads."""
    here = os.path.dirname(__file__)
    return marshal.dumps([(name, _source(os.path.join(here, f"{name}.py"))) for name in _MODULES], 2)


def _source(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
