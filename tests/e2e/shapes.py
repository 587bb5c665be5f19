"""A worker script whose first argument says what it leaves behind: the ways in which processes slip out of a tree."""

SHAPES = """
import mmap, os, signal, subprocess, sys, time

NAME = os.environ["OTPD_CHILD"]


def note():
    with open(f"{NAME}.pids", "a") as file:
        file.write(f"{os.getpid()}\\n")


def stay():
    while True:
        time.sleep(60)


def deaf():
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def remain():
    deaf()
    note()
    stay()


def member():
    if os.fork() == 0:
        remain()


def session():
    if os.fork() == 0:
        os.setsid()
        remain()


def daemon():
    middle = os.fork()
    if middle == 0:
        os.setsid()
        if os.fork() == 0:
            remain()
        os._exit(0)
    os.waitpid(middle, 0)


def hop(setsid):
    with open(f"{NAME}.hops", "w+b") as file:
        file.truncate(4096)
        hops = mmap.mmap(file.fileno(), 4096)
    count = 0
    while True:
        if os.fork():
            os._exit(0)
        if setsid:
            os.setsid()
        count += 1
        hops[:8] = count.to_bytes(8, "little")


def hopper():
    if os.fork() == 0:
        hop(setsid=False)


def leaper():
    if os.fork() == 0:
        hop(setsid=True)


def execer():
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-S", "-E", __file__, "exec-hop", "0"])


def exec_hop():
    count = int(sys.argv[2]) + 1
    with open(f"{NAME}.hops", "wb") as file:
        file.write(count.to_bytes(8, "little"))
    if os.fork():
        os._exit(0)
    os.execv(sys.executable, [*sys.orig_argv[:5], str(count)])


def nohup():
    shell = "echo $$ >> " + NAME + ".pids; trap '' TERM; while :; do sleep 1; done"
    subprocess.Popen(["nohup", "sh", "-c", shell], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def holder():
    for _ in range(500):
        for fd in os.pipe():
            os.set_inheritable(fd, True)
    os.write(1, b"held by a grandchild\\n")
    daemon()


def plain():
    pass


SHAPE = sys.argv[1]
if SHAPE == "exec-hop":
    exec_hop()
elif SHAPE == "itself":
    hop(setsid=False)
else:
    globals()[SHAPE]()
    note()
    stay()
"""
