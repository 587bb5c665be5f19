"""The first life of a nest: from a fresh interpreter to pid 1 of its own namespaces, in a root that shows only the view.

It runs in the worker's pid and mount namespace at first (`-I -S`: no environment, no site). Steps, each needing the one
before:

1. /proc of the new pid namespace, while the old one is still in sight: the kernel lets nobody mount a proc who sees none.
2. A user namespace; the worker, outside, writes its maps: uid 0 in here is the slot's uid, never the host's 0.
3. The other namespaces, owned by that user namespace.
4. The template: the root that every slot copies. Then the old root goes.
5. The nest proper: `_nest.c` if the package was built with a compiler, else `nest`. For snippets, `nest` in the profile's
   interpreter.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import signal
import socket
import struct
from typing import Any, NoReturn

from otpd.agents.sandbox import kernel, lockdown, nest, records, snippet
from otpd.agents.sandbox.records import Kind

_OTHERS = kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def main(setup_fd: int) -> NoReturn:
    """`setup_fd`: JSON of `native.Setup`. What fails is said on the control socket as "!STEP: why"."""
    setup = json.loads(_whole(setup_fd))
    gc.disable()  # what it looks at it writes to, and each page of that would be copied for every slot
    control = socket.socket(fileno=setup["control"])
    if setup["mode"] in ("serve", "serve plain"):
        _serve(control, setup)
    if setup["mode"] == "init":
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        nest.be_init(control.detach(), proc, list(records.read(_whole(setup["base"]))))
    for step, do in _STEPS[setup["mode"]]:
        try:
            do(control, setup)
        except (OSError, lockdown.StepFailed) as error:
            control.send(f"!{step}: {_said(error)}".encode())
            os._exit(1)
    _become_nest(control, setup)


def _said(error: OSError | lockdown.StepFailed) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or ''} {error.strerror}".strip()
    report = error.args[0]
    return f"{report.step.name.lower()}, record {report.record}: {os.strerror(report.errno)}"


def _mount_proc(control: socket.socket, setup: dict[str, Any]) -> None:
    kernel.mount("none", "/", "none", kernel.MS_REC | kernel.MS_SLAVE)
    if setup["proc"]:
        kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | nest.MS_NOEXEC)
    setup["proc_fd"] = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _enter_user_namespace(control: socket.socket, setup: dict[str, Any]) -> None:
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    kernel.unshare(kernel.CLONE_NEWUSER)
    control.send(b"map")
    if control.recv(16) != b"mapped":
        os._exit(1)
    if setup["slot_uid"]:
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)


def _enter_namespaces(control: socket.socket, setup: dict[str, Any]) -> None:
    kernel.unshare(_OTHERS | (0 if setup["host_network"] else kernel.CLONE_NEWNET))
    socket.sethostname("sandbox")
    if not setup["host_network"]:
        _loopback_up()


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        asked = fcntl.ioctl(probe, _SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
        flags = struct.unpack("16sh14x", asked)[1]
        fcntl.ioctl(probe, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def _build_view(control: socket.socket, setup: dict[str, Any]) -> None:
    """The template. A MOUNT at "." is a whole root (the view "host-ro")."""
    plan = list(records.read(_whole(setup["template"])))
    trees = nest.open_sources(plan)
    for index, record in enumerate(plan, 1):
        if record.kind == Kind.MOUNT:
            which, target = records.one_mount(record.payload)
            _mount(setup["trees"][which], target, setup["stage"], file=bool(record.flags))
        elif record.kind == Kind.FILE:
            path, content = records.one_file(record.payload)
            lockdown.write_file(path, content, record.flags)
        elif record.kind == Kind.READ_ONLY:
            kernel.mount_setattr(
                kernel.AT_FDCWD, os.fsdecode(record.payload[:-1]), kernel.MOUNT_ATTR_RDONLY, recursive=False
            )
        else:
            nest.build_one(index, record, trees)


def _mount(tree: int, target: str, stage: str, *, file: bool) -> None:
    if target != ".":
        nest.attach(tree, target, file=file)
        return
    place = os.open(stage, os.O_PATH | os.O_CLOEXEC)
    kernel.move_mount(tree, place)
    os.close(place)
    os.close(tree)
    os.chdir(stage)


def _drop_privileges(control: socket.socket, setup: dict[str, Any]) -> None:
    """Without namespaces: the slot's uid is all that root can give away."""
    if setup["slot_uid"]:
        os.setgroups([])
        os.setresgid(*[setup["slot_uid"]] * 3)
        os.setresuid(*[setup["slot_uid"]] * 3)
    kernel.no_new_privileges()
    setup["proc_fd"] = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


#: What leads to a nest, by mode.
_STEPS = {
    "namespaces": (
        ("proc", _mount_proc), ("user namespace", _enter_user_namespace), ("namespaces", _enter_namespaces),
        ("view", _build_view),
    ),
    "plain": (("privileges", _drop_privileges),),
}  # fmt: skip


def _become_nest(control: socket.socket, setup: dict[str, Any]) -> NoReturn:
    """The compiled nest; or, for snippets, one in the profile's interpreter, which never runs outside; or this process."""
    fds = {"control": control.fileno(), "proc_fd": setup["proc_fd"], "base": setup["base"]}
    if setup["launcher"] >= 0:
        _keep(*fds.values())
        os.execve(setup["launcher"], ["otpd-nest", *map(str, fds.values())], {})
    mode = "serve plain" if setup["mode"] == "plain" else "serve"
    if setup["python"]:
        _become_interpreter(control, setup, {**fds, "mode": mode, "warm": True})
    _serve(control, {**fds, "mode": mode, "warm": False})


def _become_interpreter(control: socket.socket, setup: dict[str, Any], again: dict[str, Any]) -> NoReturn:
    plan = os.memfd_create("otpd-plan", os.MFD_CLOEXEC)
    os.write(plan, json.dumps(again).encode())
    _keep(control.fileno(), again["proc_fd"], again["base"], setup["bundle"], plan)
    words = [setup["python"], "-I", "-S", "-B", "-c", setup["boot"], str(setup["bundle"]), str(plan)]
    try:
        os.execve(setup["python"], words, {})
    except OSError as error:
        control.send(f"!interpreter: {setup['python']}: {error.strerror}".encode())
        os._exit(1)


def _keep(*fds: int) -> None:
    for fd in fds:
        os.set_inheritable(fd, True)


def _serve(control: socket.socket, setup: dict[str, Any]) -> NoReturn:
    for fd in (control.fileno(), setup["proc_fd"], setup["base"]):
        os.set_inheritable(fd, False)
    if setup["warm"]:
        snippet.warm()
    base = list(records.read(_whole(setup["base"])))
    nest.serve(control, setup["proc_fd"], base, namespaces=setup["mode"] == "serve")


def _whole(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)
