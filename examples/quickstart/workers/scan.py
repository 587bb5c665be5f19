"""A program without the SDK: appends one line per module of the standard library to var/scan.log, round after round.

A line is "module lines functions classes".
"""

import ast
import sysconfig
import time
import warnings
from pathlib import Path

LOG = Path("var/scan.log")
PAUSE = 0.005


def measure(path: Path) -> tuple[int, int, int]:
    text = path.read_text(encoding="utf-8", errors="replace")
    nodes = list(ast.walk(ast.parse(text)))
    functions = sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes)
    return text.count("\n"), functions, sum(isinstance(node, ast.ClassDef) for node in nodes)


def main() -> None:
    warnings.simplefilter("ignore")
    library = Path(sysconfig.get_path("stdlib"))
    LOG.parent.mkdir(exist_ok=True)
    while True:
        with LOG.open("w") as log:
            for path in sorted(library.glob("*.py")):
                lines, functions, classes = measure(path)
                log.write(f"{path.stem} {lines} {functions} {classes}\n")
                log.flush()
                time.sleep(PAUSE)
        print(f"scanned {library}", flush=True)


if __name__ == "__main__":
    main()
