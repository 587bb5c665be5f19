INTERFACE: int

class Failed(Exception):
    """Args: the step, its errno, and the index of the limit, stream or path that it was about."""

def spawn(
    paths: tuple[bytes, ...],
    argv: tuple[bytes, ...],
    env: tuple[bytes, ...],
    cwd: bytes,
    stdout_fd: int,
    cgroup_fd: int,
    umask: int,
    limits: tuple[tuple[int, int, int], ...],
    user: tuple[int, int, tuple[int, ...]] | None,
    parent: int,
    /,
) -> tuple[int, int]:
    """Start a process; (pid, pidfd) when it has exec'd, and it is this process that suspends meanwhile.

    `cgroup_fd`, `umask`: -1 for none. Failed, after which nothing of the child is left.
    """
