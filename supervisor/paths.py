"""Where a node keeps its files: the state directory (survives) and the runtime directory (sockets, gone at reboot)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: sun_path has 108 bytes with its NUL (T47).
SOCKET_PATH_LIMIT = 107


#: The longest name of a socket: a broker's, whose epoch has two numbers of 32 bits.
_LONGEST = "b4294967295.4294967295-s"


class PathError(Exception):
    """A directory that the node needs can't be used; says which, why and what to do."""


@dataclass(frozen=True, slots=True)
class NodePaths:
    """All paths of one node. Nothing is created here; see `prepare`."""

    state_dir: Path
    runtime_dir: Path

    @property
    def lock(self) -> Path:
        return self.state_dir / "lock"

    @property
    def node_id(self) -> Path:
        return self.state_dir / "node_id"

    @property
    def place(self) -> Path:
        """Which directory this state was written for; a copy of it is another node's."""
        return self.state_dir / "place"

    @property
    def life(self) -> Path:
        """How often root has started."""
        return self.state_dir / "life"

    @property
    def life_bridge(self) -> Path:
        return self.runtime_dir / "life"

    @property
    def logs(self) -> Path:
        return self.state_dir / "logs"

    @property
    def runtime_record(self) -> Path:
        """Says which runtime directory the running node has, to commands with another environment than its start had."""
        return self.state_dir / "runtime"

    @property
    def heart_log(self) -> Path:
        return self.state_dir / "heart.log"

    @property
    def control(self) -> Path:
        return self.runtime_dir / "control.sock"

    def notify(self, number: int) -> Path:
        """Of one child that speaks sd_notify."""
        return self.runtime_dir / f"notify.{number}"

    def notify_sockets(self) -> list[Path]:
        return list(self.runtime_dir.glob("notify.*"))

    @property
    def spec(self) -> Path:
        return self.runtime_dir / "spec"

    @property
    def broker_lock(self) -> Path:
        """Held by the broker, so that no second one binds."""
        return self.runtime_dir / "broker.lock"

    def endpoint(self, epoch: str) -> Path:
        """Where the broker of `epoch` binds: this with "-s" and "-d" behind."""
        return self.runtime_dir / epoch

    def endpoints(self) -> list[Path]:
        """The sockets of all brokers, dead ones too: only who owns them may say which those are."""
        return [path for lane in ("s", "d") for path in self.runtime_dir.glob(f"b*.*-{lane}")]


def node_paths(state_dir: str | os.PathLike[str]) -> NodePaths:
    """The paths of the node that keeps its state in `state_dir`; those of the running node, if there is one.

    PathError when no directory gives a socket path of at most 107 bytes.
    """
    state = Path(os.path.abspath(state_dir))
    recorded = _recorded(state)
    if recorded is not None:
        return NodePaths(state, recorded)
    digest = hashlib.sha256(os.fsencode(os.path.realpath(state))).hexdigest()[:16]
    tried = []
    for base in _runtime_bases(state):
        runtime = base / digest
        if len(os.fsencode(runtime / _LONGEST)) <= SOCKET_PATH_LIMIT:
            return NodePaths(state, runtime)
        tried.append(str(runtime))
    raise PathError(
        f"no directory for the control socket: a socket path may have {SOCKET_PATH_LIMIT} bytes, these are longer: "
        f"{', '.join(tried)}; set XDG_RUNTIME_DIR to a short path that is yours, for example /run/user/{os.getuid()}"
    )


def _recorded(state: Path) -> Path | None:
    """Where the node's sockets are, if they are there: a record that a killed node left says nothing."""
    try:
        found = Path(os.fsdecode((state / "runtime").read_bytes()))
    except OSError:
        return None
    return found if found.is_absolute() and os.path.exists(found / "control.sock") and is_original(state) else None


def place_of(state: Path) -> str:
    """Device and inode: the same after a rename, another for a copy."""
    found = os.stat(state)
    return f"{found.st_dev}:{found.st_ino}"


def is_original(state: Path) -> bool:
    """False for a state directory that was copied (with its project): it names the node and the sockets of the other."""
    try:
        return NodePaths(state, state).place.read_bytes().decode(errors="replace") == place_of(state)
    except OSError:
        return False


def _runtime_bases(state: Path) -> Iterator[Path]:
    """Candidates, best first; only directories that exist, belong to this user and can be written.

    The last one is the state directory: in a container with a read-only root it may be the only place there is.
    """
    uid = os.getuid()
    xdg = os.environ.get("XDG_RUNTIME_DIR")
    if xdg and os.path.isabs(xdg) and _is_ours(Path(xdg), uid):
        yield Path(xdg) / "otpd"
    for base in (Path(f"/run/user/{uid}"), Path("/run")):
        if _is_ours(base, uid):
            yield base / "otpd"
    for base in (Path(os.environ.get("TMPDIR", "")), Path("/tmp")):
        if base.is_absolute() and os.access(base, os.W_OK | os.X_OK):
            yield base / f"otpd-{uid}"
    yield state / "run"


def _is_ours(directory: Path, uid: int) -> bool:
    try:
        found = os.stat(directory)
    except OSError:
        return False
    return found.st_uid == uid and os.access(directory, os.W_OK | os.X_OK)


def make_runtime(paths: NodePaths) -> None:
    """The runtime directory and the one that it stands in: who owns that could put another one into its place (T47)."""
    make_private(paths.runtime_dir.parent)
    make_private(paths.runtime_dir)


def remove_traces(paths: NodePaths) -> None:
    """The files that only a running node has. For whoever of it goes last."""
    _remove(paths.spec, paths.runtime_record, paths.life_bridge, paths.broker_lock)
    remove_sockets(paths)


def remove_sockets(paths: NodePaths) -> None:
    """Also those that nobody listens on any more."""
    _remove(paths.control, *paths.notify_sockets(), *paths.endpoints())


def _remove(*files: Path) -> None:
    for path in files:
        with contextlib.suppress(OSError):
            path.unlink()


def make_private(directory: Path) -> None:
    """Create `directory` with mode 0700, or check that it is this user's own and let nobody else in."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(directory)
    except OSError as error:
        raise PathError(
            f"can't create {directory}: {error.strerror}; choose another place with XDG_RUNTIME_DIR or node.state_dir"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PathError(
            f"{directory} must be a directory that belongs to uid {os.getuid()}, but it is "
            f"{stat.filemode(found.st_mode)} of uid {found.st_uid}; remove it or set XDG_RUNTIME_DIR"
        )
    if found.st_mode & 0o077:
        os.chmod(directory, 0o700)
