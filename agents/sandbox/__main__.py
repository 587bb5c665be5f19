"""python -m otpd.agents.sandbox [--json]: what sandboxes this machine gives. Exit code 1 when it gives none."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from otpd.agents.sandbox.capability import Capability
from otpd.agents.sandbox.survey import lines, survey


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m otpd.agents.sandbox", description="What sandboxes this machine gives.")
    parser.add_argument("--json", action="store_true", help="as data")
    given = parser.parse_args(arguments)
    found = survey()
    print(json.dumps([each.to_dict() for each in found]) if given.json else "\n".join(lines(found)))
    return 0 if any(isinstance(each, Capability) for each in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
