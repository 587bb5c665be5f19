"""The logger: one process that stores what every child of a node prints, and may be killed at any time.

    python -m otpd.supervisor.logger --channel FD --life N --dir LOGS --max-bytes N --keep K --full drop|block

Root makes one pipe per incarnation, gives its read end to the logger and keeps a duplicate until it hears "eof". So when the
logger dies, no child gets SIGPIPE, what was printed waits in the pipes, and the next logger is handed all of them again.

Root to logger: ["open", name, generation] with the read end - ["exited", name, generation] - ["tail", name, generation] -
["event", number, {...}] - ["policy", max_bytes, keep, full] - ["flush", token]. Logger to root: ["eof", name, generation,
lines] when nobody can write any more and all is stored - ["tail", name, generation, lines] - ["flushed", token] -
["stored", number] of the last event that is on disk, now and then - ["full", reason] and ["recovered", bytes_dropped], once
each per time of trouble - ["refused", name, generation] when an "open" came without its descriptor, because there were too
many; send it again later.

In trouble (disk full, directory gone, ...) the policy "drop" empties the pipes and counts, "block" leaves them alone.
Either way it tries again once a second. It ignores SIGTERM, SIGINT and SIGHUP, because it must outlive those whose words
it keeps; it ends when the channel does, after it has stored what is in the pipes. Where that is because root was killed,
heart ends it with all the rest; where heart was killed, too, it is the last one, and clears what is left (`remains`).
"""

from __future__ import annotations

import argparse
import array
import contextlib
import fcntl
import os
import resource
import select
import signal
import socket
import sys
import termios
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otpd.ipc.frames import FrameError, close_all, receive_packet, send_packet
from otpd.supervisor import linux
from otpd.supervisor.logevents import EventLog
from otpd.supervisor.logstore import cut_tail, last_lines
from otpd.supervisor.logwriter import LogWriter, Trouble, probe
from otpd.supervisor.paths import NodePaths
from otpd.supervisor.spec import LogPolicy

_RETRY = 1.0
#: In trouble a pipe is emptied at most so often, so that a flood that nobody keeps costs little.
_REST = 0.04
_KEPT_TAIL = 4096
_PACKETS_PER_TURN = 64
#: Events that root may keep although they are stored: to wake it for each would cost more than to keep them.
_TELL_EVERY = 100
_BATCH = 256
_MOST_OPEN_LOGS = 1024
_SPARE_FDS = 32


@dataclass(slots=True, eq=False)
class Book:
    """The log of one name and who writes to it."""

    writer: LogWriter
    streams: list[Stream] = field(default_factory=list)
    ailing: bool = False
    dropped: int = 0
    dropped_from: int = 0  # generation of the last bytes that were dropped


@dataclass(slots=True, eq=False)
class Stream:
    """One pipe: the output of one incarnation."""

    name: str
    generation: int
    fd: int
    book: Book
    listening: bool = False
    dropped_tail: bytes = b""


class Logger:
    """The state of the process; `run` returns when root has closed the channel."""

    def __init__(self, channel: socket.socket, logs: str, policy: LogPolicy, life: int) -> None:
        self._channel = channel
        self._logs = logs
        self._policy = policy
        self._epoll = select.epoll()
        self._streams: dict[int, Stream] = {}
        self._books: dict[str, Book] = {}
        self._open: OrderedDict[LogWriter, None] = OrderedDict()  # least recently used first
        self._null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self._events = EventLog(os.path.dirname(os.path.abspath(logs)), life)
        self._told = 0  # number of the last event that root knows to be stored
        self._outgoing: deque[list[Any]] = deque()
        self._resting: list[Stream] = []
        self._rested_at = 0.0
        self._troubled = False
        self._retry_at = 0.0
        self._dropped = 0
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._fd_limit = sys.maxsize if limit == resource.RLIM_INFINITY else limit
        channel.setblocking(False)
        self._epoll.register(channel, select.EPOLLIN)

    def run(self) -> None:
        alive = True
        while alive:
            # Pipes first, the channel last: it brings new descriptors, whose numbers must not meet events of old ones.
            told = 0
            for fd, events in self._epoll.poll(self._timeout(), _BATCH):
                if fd == self._channel.fileno():
                    told = events
                else:
                    self._readable(self._streams[fd], events)
            alive = self._on_channel(told)
            self._on_time()
        self._drain_all()

    # --- pipes ---

    def _readable(self, stream: Stream, events: int) -> None:
        if not stream.listening:
            return  # its log fell ill in this very batch
        if not events & select.EPOLLIN:
            self._finish(stream)  # hung up and empty
        elif not stream.book.ailing:
            self._move(stream)
        else:
            self._discard(stream)

    def _move(self, stream: Stream) -> int:
        """Store a turn's worth; the number of bytes, 0 when that was not possible."""
        writer = stream.book.writer
        if not writer.is_open:
            self._make_room()
        try:
            moved = writer.move(stream.fd, stream.generation, self._policy)
        except BlockingIOError:
            return 0
        except Trouble as trouble:
            self._fall_ill(stream.book, str(trouble))
            return 0
        finally:
            if writer.is_open:
                self._open[writer] = None
                self._open.move_to_end(writer)
        if moved == 0:
            self._finish(stream)
        return moved

    def _discard(self, stream: Stream) -> int:
        """Throw away what is in the pipe now, but for its last lines inside the kernel, then let it rest: a flood that
        nobody keeps is slowed down to a pipe per rest and costs next to nothing (T13)."""
        left = _readable_bytes(stream.fd)
        total = 0
        with contextlib.suppress(BlockingIOError):
            if left > _KEPT_TAIL:
                total = os.splice(stream.fd, self._null, left - _KEPT_TAIL)
            data = os.read(stream.fd, max(1, left - total))
            if not data:
                self._finish(stream)
                return 0
            total += len(data)
            stream.dropped_tail = (stream.dropped_tail + data)[-_KEPT_TAIL:]
        self._count_dropped(stream, total)
        if not self._resting:
            self._rested_at = time.monotonic() + _REST
        self._resting.append(stream)
        self._listen(stream, False)
        return total

    def _count_dropped(self, stream: Stream, count: int) -> None:
        self._dropped += count
        stream.book.dropped += count
        stream.book.dropped_from = stream.generation

    def _drain(self, stream: Stream) -> None:
        """Store everything that is in the pipe at this moment."""
        left = _readable_bytes(stream.fd)
        while left > 0 and stream.fd in self._streams and not stream.book.ailing:
            moved = self._move(stream)
            if not moved:
                break
            left -= moved
        if left > 0 and stream.book.ailing and self._policy.full == "drop" and stream.fd in self._streams:
            self._discard(stream)

    def _drain_all(self) -> None:
        for stream in list(self._streams.values()):
            self._drain(stream)

    def _finish(self, stream: Stream) -> None:
        self._close(stream)
        self._send(["eof", stream.name, stream.generation, self._tail(stream.name, stream.generation, stream)])

    def _close(self, stream: Stream) -> None:
        self._listen(stream, False)
        if stream in self._resting:
            self._resting.remove(stream)
        del self._streams[stream.fd]
        os.close(stream.fd)
        stream.fd = -1
        stream.book.streams.remove(stream)
        self._forget_if_idle(stream.name)

    def _forget_if_idle(self, name: str) -> None:
        book = self._books[name]
        if not book.streams and not book.ailing:
            self._open.pop(book.writer, None)
            book.writer.close()
            del self._books[name]

    def _listen(self, stream: Stream, wanted: bool) -> None:
        if wanted == stream.listening:
            return
        stream.listening = wanted
        if wanted:
            self._epoll.register(stream.fd, select.EPOLLIN)
        else:
            self._epoll.unregister(stream.fd)

    def _make_room(self) -> None:
        """Close logs until another one can be opened within the limit of descriptors."""
        free = self._fd_limit - _SPARE_FDS - len(self._streams)
        most = max(1, min(_MOST_OPEN_LOGS, free // 2))
        while len(self._open) >= most:
            self._open.popitem(last=False)[0].close()

    def _tail(self, name: str, generation: int, stream: Stream | None) -> list[str]:
        dropped = stream.dropped_tail if stream else b""
        try:
            stored = last_lines(self._logs, name, generation)
        except OSError:
            stored = []
        if not dropped:
            return stored
        return cut_tail("\n".join(stored).encode() + b"\n" * bool(stored) + dropped)

    # --- trouble ---

    def _fall_ill(self, book: Book, reason: str) -> None:
        book.ailing = True
        self._announce(reason)
        for stream in book.streams:
            self._listen(stream, self._policy.full == "drop")

    def _announce(self, reason: str) -> None:
        if self._troubled:
            return
        self._troubled = True
        self._retry_at = time.monotonic() + _RETRY
        self._send(["full", reason])

    def _lost_a_log(self, reason: str) -> None:
        """A log was removed and begun anew: nothing is dropped, but somebody should know. Others may have gone with it."""
        if self._troubled:
            return
        self._announce(reason)
        for writer in list(self._open):
            writer.recheck(self._policy)

    def _retry(self) -> None:
        self._retry_at = time.monotonic() + _RETRY
        try:
            probe(self._logs)
        except OSError:
            return
        for name, book in [item for item in self._books.items() if item[1].ailing]:
            self._recover(name, book)
        try:
            self._events.retry()
        except OSError:
            return
        if not any(book.ailing for book in self._books.values()):
            self._troubled = False
            self._send(["recovered", self._dropped])
            self._dropped = 0

    def _recover(self, name: str, book: Book) -> None:
        if not book.writer.is_open:
            self._make_room()
        try:
            book.writer.mark_gap(book.dropped_from, book.dropped, self._policy)
        except Trouble:
            return
        self._open[book.writer] = None
        book.ailing, book.dropped = False, 0
        for stream in book.streams:
            stream.dropped_tail = b""
            self._listen(stream, True)
        self._forget_if_idle(name)

    # --- time ---

    def _timeout(self) -> float:
        times = [self._retry_at] if self._troubled else []
        times += [self._rested_at] if self._resting else []
        return max(0.0, min(times) - time.monotonic()) if times else -1

    def _on_time(self) -> None:
        if not self._troubled and not self._resting:
            return
        now = time.monotonic()
        if self._resting and now >= self._rested_at:
            rested, self._resting = self._resting, []
            for stream in rested:
                self._listen(stream, not stream.book.ailing or self._policy.full == "drop")
        if self._troubled and now >= self._retry_at:
            self._retry()

    # --- channel ---

    def _on_channel(self, events: int) -> bool:
        """Hear and speak; False when root is gone."""
        if events & select.EPOLLOUT:
            self._flush_outgoing()
        if not events & ~select.EPOLLOUT:
            return True
        for _ in range(_PACKETS_PER_TURN):
            try:
                packet = receive_packet(self._channel)
            except BlockingIOError:
                return True
            except FrameError as error:
                sys.stderr.write(f"otpd logger: {error}; ignored\n")
                continue
            except ConnectionError:
                return False
            if packet is None:
                return False
            self._on_packet(*packet)
        return True

    def _on_packet(self, message: Any, fds: list[int]) -> None:
        match message, fds:
            case ["open", str(name), int(generation)], [fd]:
                return self._on_open(name, generation, fd)
            case ["open", str(name), int(generation)], []:
                self._on_descriptor_lost(name, generation)
            case ["exited", str(name), int(generation)], []:
                for stream in self._streams_of(name, generation):
                    self._drain(stream)
            case ["tail", str(name), int(generation)], []:
                self._on_tail(name, generation)
            case ["event", int(number), dict(event)], []:
                self._on_event(number, event)
            case ["policy", int(max_bytes), int(keep), ("drop" | "block") as full], []:
                self._on_policy(LogPolicy(max_bytes=max_bytes, keep=keep, full=full))
            case ["flush", token], []:
                self._drain_all()
                self._send(["flushed", token])
            case _:
                close_all(fds)
                sys.stderr.write(f"otpd logger: unknown message with {len(fds)} descriptors: {message!r:.200}; ignored\n")
        return None

    def _on_open(self, name: str, generation: int, fd: int) -> None:
        for old in self._streams_of(name, generation):
            self._close(old)
        book = self._books.get(name)
        if book is None:
            book = self._books[name] = Book(LogWriter(self._logs, name, self._lost_a_log))
        os.set_blocking(fd, False)
        stream = self._streams[fd] = Stream(name, generation, fd, book)
        self._make_room()
        book.streams.append(stream)
        self._listen(stream, not book.ailing or self._policy.full == "drop")
        try:
            book.writer.prepare()
        except Trouble as trouble:
            self._fall_ill(book, str(trouble))

    def _on_descriptor_lost(self, name: str, generation: int) -> None:
        """The limit of descriptors was reached, and the kernel threw the pipe away; root still has its own."""
        for writer in self._open:
            writer.close()
        self._open.clear()
        self._send(["refused", name, generation])

    def _streams_of(self, name: str, generation: int) -> list[Stream]:
        book = self._books.get(name)
        return [stream for stream in book.streams if stream.generation == generation] if book else []

    def _on_tail(self, name: str, generation: int) -> None:
        found = self._streams_of(name, generation)
        for stream in found:
            self._drain(stream)
        self._send(["tail", name, generation, self._tail(name, generation, found[0] if found else None)])

    def _on_event(self, number: int, event: dict[str, Any]) -> None:
        try:
            self._events.append(number, event)
        except OSError as error:
            self._announce(f"{error.filename or 'events.jsonl'}: {error.strerror}")
        if self._events.stored >= self._told + _TELL_EVERY:
            self._told = self._events.stored
            self._send(["stored", self._told])

    def _on_policy(self, policy: LogPolicy) -> None:
        self._policy = policy
        for stream in self._streams.values():
            if stream.book.ailing and stream not in self._resting:
                self._listen(stream, policy.full == "drop")

    def _send(self, message: list[Any]) -> None:
        self._outgoing.append(message)
        if len(self._outgoing) == 1:
            self._flush_outgoing()

    def _flush_outgoing(self) -> None:
        try:
            while self._outgoing:
                send_packet(self._channel, self._outgoing[0])
                self._outgoing.popleft()
        except BlockingIOError:
            pass
        except ConnectionError:
            self._outgoing.clear()  # root is gone; the channel's end says so too
        self._epoll.modify(self._channel, select.EPOLLIN | (select.EPOLLOUT if self._outgoing else 0))


def _readable_bytes(fd: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="otpd logger", description="Stores what the children of a node print.")
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the channel to root")
    parser.add_argument("--life", type=int, required=True, help="which life of root it is whose events are stored")
    parser.add_argument("--dir", required=True, help="the directory for the logs")
    parser.add_argument("--root", type=int, required=True, help="pid of root")
    parser.add_argument("--runtime-dir", type=Path, required=True, help="where the node's sockets are")
    parser.add_argument("--max-bytes", type=int, required=True, help="size of one segment")
    parser.add_argument("--keep", type=int, required=True, help="finished segments kept per child")
    parser.add_argument("--full", choices=("drop", "block"), required=True, help="what to do when the disk is full")
    options = parser.parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    channel = socket.socket(fileno=options.channel)
    os.set_inheritable(options.channel, False)
    policy = LogPolicy(max_bytes=options.max_bytes, keep=options.keep, full=options.full)
    Logger(channel, options.dir, policy, options.life).run()
    if not _lives(options.root):
        _clear(NodePaths(Path(options.dir).parent, options.runtime_dir))
    return 0


def _lives(root: int) -> bool:
    """One that is killed closes its channel before its children get another parent."""
    found = linux.stat(root)
    return os.getppid() == root and found is not None and not found.exiting


def _clear(paths: NodePaths) -> None:
    """Imported now: it takes as long as all the rest, and a logger hardly ever needs it."""
    from otpd.supervisor import remains
    from otpd.supervisor.launch import NODE

    remains.clear(paths, os.environ[NODE])


if __name__ == "__main__":
    sys.exit(main())
