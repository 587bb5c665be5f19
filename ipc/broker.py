"""The broker's process: for now its life under root alone, without a socket of its own."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys

from otpd.ipc.frames import receive_packet, send_packet, unpack


def main() -> None:
    with open(int(os.environ["OTPD_JOB_FD"]), "rb") as file:
        job = unpack(file.read())
    with socket.socket(fileno=int(os.environ["OTPD_CONTROL_FD"])) as channel:
        signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
        send_packet(channel, ["ready"])
        while True:
            send_packet(channel, ["beat"])
            if select.select([channel], [], [], job["watchdog"] / 4)[0] and receive_packet(channel) is None:
                return


if __name__ == "__main__":
    main()
