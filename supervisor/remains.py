"""What heart and root leave when both are killed at once, and how the logger clears it: nothing of theirs takes it along.

Workers die with root, by PDEATHSIG, and what lives in a sandbox with its worker; what these have made besides does not. A
next life of the node is never met here: its root ends every process with the node's cookie, the logger too, before it makes
anything (`sweep.sweep_node`). Where the logger was killed as well, that start clears all of this.
"""

from __future__ import annotations

from otpd.supervisor import cgroup, sweep
from otpd.supervisor.paths import NodePaths, remove_sockets

#: Seconds to wait for what has been killed.
_PATIENCE = 5.0


def clear(paths: NodePaths, node: str) -> None:
    """End the processes of a node whose root is dead, then remove its cgroups and sockets. Blocks; raises nothing.

    Its other files name nobody and are written anew by the next start.
    """
    sweep.sweep_node(node, _PATIENCE)
    cgroup.remove_node(node, _PATIENCE)
    cgroup.remove_abandoned(_PATIENCE)
    remove_sockets(paths)
