"""scripts/bench NAME [--json]"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import chain

from scripts.benchmarks import fleet, messaging, ordered, services, supervision, tasks, work
from scripts.benchmarks.table import Row, show

#: A suite is one or several modules with a `run`.
SUITES = {
    "messaging": (messaging.run, fleet.run),
    "services": (services.run,),
    "supervision": (supervision.run,),
    "work": (work.run, ordered.run, tasks.run),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("name", choices=sorted(SUITES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", action="append", help="only the measurements whose name contains this")
    given = parser.parse_args()

    def chosen(name: str) -> bool:
        return not given.only or any(part in name for part in given.only)

    rows: list[Row] = []
    for row in chain.from_iterable(run(chosen) for run in SUITES[given.name]):
        rows.append(row)
        print(f"  {row.name}: {row.value}", file=sys.stderr, flush=True)
    print(json.dumps([row.to_dict() for row in rows], indent=1) if given.json else show(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
