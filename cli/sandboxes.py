"""What `otpd doctor` says of commands: which sandbox this machine gives, and which profiles of the config are refused here.

Found by building a sandbox with each backend, which takes about a second and leaves nothing behind. Fail closed: what a
profile asks for and this machine lacks is never left out in silence, so that commands of such a profile do not run at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from otpd.agents.sandbox.capability import Capability, Unavailable, honour
from otpd.agents.sandbox.errors import NotEnforceable
from otpd.agents.sandbox.profile import PoolSettings
from otpd.agents.sandbox.reading import read
from otpd.agents.sandbox.survey import lines, survey
from otpd.cli.checkup import Finding, Level
from otpd.supervisor.spec import NodeSpec


def examine(node: NodeSpec | None) -> Iterator[Finding]:
    """`node`: the config, if there is one that can be read."""
    settings = read(node.commands or {}, os.path.dirname(node.config)) if node is not None else PoolSettings()
    found = survey()
    yield from judge(settings, found)


def judge(settings: PoolSettings, found: list[Capability | Unavailable]) -> Iterator[Finding]:
    """The backend that commands would run in, then each profile that it can't honour. Pure."""
    wanted = [each for each in found if settings.backend in ("auto", each.backend)]
    chosen = next((each for each in wanted if isinstance(each, Capability)), None)
    table = tuple(lines(found))
    if chosen is None:
        why = "; ".join(f"{each.backend}: {each.why}" for each in wanted if isinstance(each, Unavailable))
        fixes = list(dict.fromkeys(each.fix for each in wanted if isinstance(each, Unavailable) and each.fix))
        what = f"every command is refused: no sandbox can be built here ({why})"
        yield Finding("commands", Level.WARN, what, "; or ".join(fixes), table)
        return
    gaps = f", without {', '.join(chosen.missing)}" if chosen.missing else ""
    what = f"run in the sandbox {chosen.backend} (launcher: {chosen.launcher}){gaps}"
    yield Finding("commands", Level.OK, what, "", table)
    for profile in settings.profiles.values():
        try:
            honour(profile, chosen)
        except NotEnforceable as error:
            what = f"refused here, no command of it runs: {error.text}"
            yield Finding(f"profile {profile.name}", Level.WARN, what, error.fix)
