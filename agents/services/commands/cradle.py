"""What root starts for the service `commands`: fetches its end of a channel, and becomes a worker with it.

    python -I -S cradle.py ADDRESS VARIABLES COMMAND...

ADDRESS: name of the service's abstract socket, in hex. VARIABLES: names of those that the worker keeps of the environment,
with the cookie by which root knows it; nothing else of what the node was started with reaches the worker. Imports nothing of
otpd, because it is there for some milliseconds.
"""

import os
import socket
import sys

#: The variable that holds the proof that the service has asked for this process.
TOKEN = "OTPD_WORKER_TOKEN"
#: By these root knows what belongs to whom.
_COOKIE = ("OTPD_NODE", "OTPD_CHILD", "OTPD_GENERATION", "SPT_NOENV")


def main(address: str, variables: str, *command: str) -> None:
    """Ends with exec, or with status 1 when nobody expects it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.connect(bytes.fromhex(address))
        line.send(os.environ[TOKEN].encode())
        _, fds, _, _ = socket.recv_fds(line, 1, 1)
    if not fds:
        sys.exit(1)
    _say_ready()
    os.set_inheritable(fds[0], True)
    kept = {name: os.environ[name] for name in (*variables.split(","), *_COOKIE) if name in os.environ}
    os.execve(command[0], [*command, "--channel", str(fds[0])], kept)


def _say_ready() -> None:
    address = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1", "\0" + address[1:] if address.startswith("@") else address)


if __name__ == "__main__":
    main(*sys.argv[1:])
