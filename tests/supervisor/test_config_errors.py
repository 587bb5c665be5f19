"""Every mistake in an otpd.toml is one line: file, line, column, key, what was expected, what was found, what was meant."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from otpd.supervisor.config import ConfigErrors, load
from otpd.supervisor.problems import one_of
from otpd.supervisor.sections import SERVICES
from otpd.supervisor.services import OWN_NAMES
from tests.helpers import open_below

FEED = """\
from otpd.agents import Agent, run

class Feed(Agent):
    async def init(self, symbol: str = "A", n: int | None = None, *, tags: list[str] = []) -> None:
        ...

run(Feed)
"""
#: Something to run, so that only the mistake under test is reported.
OK = '[agents.ok]\nscript = "feed.py"\n'


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "feed.py").write_text(FEED)
    (tmp_path / "open.py").write_text(re.sub(r"self, .*\)", "self, **any_: int)", FEED))
    (tmp_path / "needs.py").write_text(FEED.replace('symbol: str = "A"', "symbol: str"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "bad.env").write_text("A=1\n\n  what is this\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def errors(fleet: Path, text: str | bytes) -> list[str]:
    """The lines of the error, without the name of the file and with DIR for its directory."""
    (fleet / "otpd.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigErrors) as caught:
        load("otpd.toml")
    assert all(line.startswith("otpd.toml:") for line in str(caught.value).split("\n"))
    return [line.removeprefix("otpd.toml:").replace(str(fleet), "DIR") for line in str(caught.value).split("\n")]


NOTHING = "nothing to run: expected [agents.NAME] or [programs.NAME]; `otpd init` writes an example"
AGENT = '[agents.feed]\nscript = "feed.py"\n'
PROGRAM = '[programs.web]\ncommand = ["sleep", "3"]\n'
NAME = "expected a name such as feed or price-feed, got "
READY = 'expected "spawned", "notify", {tcp = PORT}, {exec = [COMMAND]} or {http = "http://..."}, got '
BACKOFF = 'expected a table such as { initial = "100ms", max = "30s" } or false, got '
DURATION = 'expected a duration such as "250ms", "5s", "2m" or "1h", got '
SHUTDOWN = 'expected a duration such as "250ms", "5s", "2m" or "1h", "brutal_kill" or "infinity", got '
SIGNAL = 'expected the name of a signal such as "SIGTERM", got '
UMASK = 'expected three octal digits as a string such as "022", got '
PARENT = "expected the name of a supervisor in this file, got "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # keys
        (AGENT + 'restrat = "x"\n', '3:1: agents.feed.restrat: unknown key; did you mean "restart"?'),
        (OK + "[pools.p]\nworkers = 3\n", '4:1: pools.p.workers: unknown key; did you mean "size"?'),
        (OK + "[pools.p]\nsize = 0\n", "4:1: pools.p.size: expected an integer from 1 to 1000, got the integer 0"),
        (
            OK + '[pools.p]\nspawn = "refuse"\n',
            '4:1: pools.p.spawn: expected "allow", "warn" or "deny", got the string "refuse"',
        ),
        (
            OK + '[pools.p]\nqueue_bytes = "1KiB"\n',
            '4:1: pools.p.queue_bytes: expected at least 1MiB, got the string "1KiB"',
        ),
        (OK + "[pools.p]\npickle = 1\n", "4:1: pools.p.pickle: expected true or false, got the integer 1"),
        (
            OK + "[pools.commands]\n",
            '3:8: pools.commands: expected a name of your own, got "commands": the node uses it itself; '
            'did you mean "my-commands"?',
        ),
        (OK + "[pools]\np = 3\n", "4:1: pools.p: expected a table [pools.NAME], got the integer 3"),
        (AGENT + "replicas = 3\n", '3:1: agents.feed.replicas: unknown key; did you mean "instances"?'),
        (
            AGENT + "depends_on = []\n",
            "3:1: agents.feed.depends_on: unknown key; the order in the file is the start order, and rest_for_one restarts "
            "what comes later",
        ),
        (
            AGENT + 'command = ["true"]\n',
            "3:1: agents.feed.command: expected one of script and command, got both",
        ),
        (
            AGENT + 'ready = "spawned"\n',
            "3:1: agents.feed.ready: an agent is ready when its init() has returned; remove this key",
        ),
        (
            AGENT + 'strategy = "one_for_one"\n',
            "3:1: agents.feed.strategy: not a key of [agents.NAME], it belongs to [supervisors.NAME]",
        ),
        (
            OK + "[supervisors.s]\nwatchdog = 1\n",
            "4:1: supervisors.s.watchdog: not a key of [supervisors.NAME], it belongs to [agents.NAME] and [programs.NAME]",
        ),
        (
            OK + "[supervisors.s]\nqqq = 1\n",
            "4:1: supervisors.s.qqq: unknown key; known here: auto_shutdown, backoff, max_restarts, max_seconds, restart, "
            "shutdown, significant, strategy, supervisor",
        ),
        (OK + "[agent.x]\n", '3:2: agent: unknown table; did you mean "agents"?'),
        (
            OK + "[zzz]\n",
            "3:2: zzz: unknown table; known here: node, supervisors, agents, programs, services, commands, pools",
        ),
        (OK + "[service.store]\n", '3:2: service: unknown table; did you mean "services"?'),
        (OK + "[services.stor]\n", '3:11: services.stor: unknown service; did you mean "store"?'),
        (
            OK + "[services.broker]\nenabled = false\n",
            "3:11: services.broker: the broker is in every node and has no options; those with options: "
            + ", ".join(SERVICES),
        ),
        (OK + "[services.store]\nenable = false\n", '4:1: services.store.enable: unknown key; did you mean "enabled"?'),
        (OK + "[services.store]\nenabled = 0\n", "4:1: services.store.enabled: expected true or false, got the integer 0"),
        (
            OK + "restart_when = { files = 9 }\n[services.health]\nenabled = false\n",
            "3:1: agents.ok.restart_when: the health service looks at it, and enabled = false in [services.health] leaves "
            "that out",
        ),
        (
            OK + "[services.health.alerts]\nload = { raise = 2, clear = 3 }\n",
            "4:21: services.health.alerts.load.clear: expected less than raise, which is 2, got 3",
        ),
        (
            OK + "[services.health.alerts]\ndisk = { raise = 90 }\n",
            '4:10: services.health.alerts.disk.raise: expected a share from "0%" to "100%", got the integer 90; '
            'did you mean "90%"?',
        ),
        (
            OK + "[services.health.alerts]\nswap = false\n",
            "4:1: services.health.alerts.swap: unknown key; known here: cpu, disk, load, memory",
        ),
        (
            OK + '[services.store]\nmax_state = "1GiB"\n',
            '4:1: services.store.max_state: expected at most 8MiB, got the string "1GiB"',
        ),
        (
            OK + "[services]\nstore = 3\n",
            f"4:1: services.store: expected a table with {one_of([*SERVICES['store'], 'spawn'], 'and')}, got the integer 3",
        ),
        (OK + '[node]\nnmae = "x"\n', '4:1: node.nmae: unknown key; did you mean "name"?'),
        (OK + "[node.log]\nkep = 1\n", '4:1: node.log.kep: unknown key; did you mean "keep"?'),
        # types
        ("agents = 3\n", "1:1: agents: expected tables [agents.NAME], got the integer 3"),
        ("[agents]\nfeed = 'x'\n", '2:1: agents.feed: expected a table [agents.NAME], got the string "x"'),
        (OK + "[[programs]]\n", "3:3: programs: expected tables [programs.NAME], got an array"),
        ("node = 3\n" + OK, '1:1: node: expected a table with "name", "state_dir" and "log", got the integer 3'),
        ("[agents.a]\nscript = 3\n", '2:1: agents.a.script: expected a string, got the integer 3; did you mean "3"?'),
        ("[agents.a]\nscript = ''\n", "2:1: agents.a.script: expected a string, got an empty one"),
        ("[agents.a]\nscript = 1979-05-27\n", "2:1: agents.a.script: expected a string, got a date or time"),
        (AGENT + "significant = 'no'\n", '3:1: agents.feed.significant: expected true or false, got the string "no"'),
        (
            AGENT + "env = { PORT = 80 }\n",
            '3:9: agents.feed.env.PORT: expected a string, got the integer 80; did you mean "80"?',
        ),
        (AGENT + "env = []\n", '3:1: agents.feed.env: expected a table such as { PORT = "8080" }, got an array'),
        (
            AGENT + 'env = { OTPD_NODE = "x" }\n',
            "3:9: agents.feed.env.OTPD_NODE: otpd sets this variable itself; choose another name",
        ),
        (
            AGENT + 'env = { "A=B" = "x" }\n',
            '3:9: agents.feed.env."A=B": expected the name of an environment variable, without "=", got "A=B"',
        ),
        # names
        ('[agents."a/b"]\nscript = "feed.py"\n', f'1:9: agents."a/b": {NAME}"a/b": a name has no "/"'),
        ('[agents.""]\nscript = "feed.py"\n', f'1:9: agents."": {NAME}"": a name is empty'),
        (
            '[agents."a\\u0007"]\nscript = "feed.py"\n',
            f'1:9: agents."a\\x07": {NAME}"a\\x07": a name has no control or invisible characters',
        ),
        ('[agents.".."]\nscript = "feed.py"\n', f'1:9: agents."..": {NAME}"..": a name is not "." or ".."'),
        ('[agents."-f"]\nscript = "feed.py"\n', f'1:9: agents.-f: {NAME}"-f": a name does not begin with "-"'),
        (
            '[agents." f"]\nscript = "feed.py"\n',
            f'1:9: agents." f": {NAME}" f": a name neither begins nor ends with a space',
        ),
        (
            f'[agents.{"x" * 65}]\nscript = "feed.py"\n',
            f"1:9: agents.{'x' * 65}: expected a name of at most 64 characters, got one with 65",
        ),
        (
            f'[agents.{"x" * 64}]\nscript = "feed.py"\ninstances = 2\n',
            f"1:9: agents.{'x' * 64}: expected a name of at most 64 characters, got one with 66",
        ),
        (
            '[agents.root]\nscript = "feed.py"\n',
            '1:9: agents.root: expected a name of your own, got "root": the node uses it itself; did you mean "my-root"?',
        ),
        *(
            (
                f'[agents.{name}]\nscript = "feed.py"\n',
                f'1:9: agents.{name}: expected a name of your own, got "{name}": the node uses it itself; '
                f'did you mean "my-{name}"?',
            )
            for name in sorted(OWN_NAMES)
        ),
        ('[node]\nname = "a/b"\n' + OK, f'2:1: node.name: {NAME}"a/b": a name has no "/"'),
        (
            AGENT + '[programs.feed]\ncommand = ["true"]\n',
            '3:11: programs.feed: the name "feed" is taken by agents.feed (line 1); names are unique in the node',
        ),
        (
            "[supervisors.feed]\n" + AGENT,
            '2:9: agents.feed: the name "feed" is taken by supervisors.feed (line 1); names are unique in the node',
        ),
        (
            AGENT + 'instances = 3\n[programs.feed-2]\ncommand = ["true"]\n',
            '4:11: programs.feed-2: the name "feed-2" is taken by an instance of agents.feed (line 1); names are unique in '
            "the node",
        ),
        # the tree
        (AGENT + 'supervisor = "s"\n', f'3:1: agents.feed.supervisor: {PARENT}"s": it has none'),
        (AGENT + 'supervisor = "top"\n', f'3:1: agents.feed.supervisor: {PARENT}"top": leave the key out for the top'),
        (
            AGENT + 'supervisor = "pricng"\n[supervisors.pricing]\n',
            f'3:1: agents.feed.supervisor: {PARENT}"pricng"; did you mean "pricing"?',
        ),
        (
            AGENT + 'supervisor = "qqqqqqq"\n[supervisors.pricing]\n',
            f'3:1: agents.feed.supervisor: {PARENT}"qqqqqqq": there is supervisors.pricing',
        ),
        (AGENT + 'supervisor = "ok"\n' + OK, f"3:1: agents.feed.supervisor: {PARENT}agents.ok, which is a worker"),
        (
            OK + '[supervisors.a]\nsupervisor = "a"\n',
            "4:1: supervisors.a.supervisor: a supervisor can't be its own ancestor: a -> a",
        ),
        (
            AGENT + 'significant = true\nrestart = "transient"\n',
            "3:1: agents.feed.significant: significant = true does nothing below the top supervisor, whose auto_shutdown is "
            "never; put it in a supervisor",
        ),
        (
            "[supervisors.s]\n" + AGENT + 'supervisor = "s"\nsignificant = true\nrestart = "transient"\n',
            "5:1: agents.feed.significant: significant = true does nothing below supervisors.s, whose auto_shutdown is "
            'never; set its auto_shutdown to "any_significant" or "all_significant"',
        ),
        (
            '[supervisors.s]\nauto_shutdown = "any_significant"\n' + AGENT + 'supervisor = "s"\nsignificant = true\n',
            "6:1: agents.feed.significant: a permanent child is always restarted and can't be significant; "
            'set restart = "transient" or "temporary"',
        ),
        # values
        (
            AGENT + 'restart = "permanant"\n',
            '3:1: agents.feed.restart: expected "permanent", "transient" or "temporary", got the string "permanant"; '
            'did you mean "permanent"?',
        ),
        (
            OK + '[supervisors.s]\nstrategy = "simple"\n',
            '4:1: supervisors.s.strategy: expected "one_for_one", "one_for_all" or "rest_for_one", got the string "simple"',
        ),
        (
            OK + "[supervisors.s]\nmax_restarts = -1\n",
            "4:1: supervisors.s.max_restarts: expected an integer of at least 0, got the integer -1",
        ),
        (
            OK + "[supervisors.s]\nmax_restarts = '3'\n",
            '4:1: supervisors.s.max_restarts: expected an integer of at least 0, got the string "3": write 3 without quotes',
        ),
        (
            OK + "[supervisors.s]\nmax_seconds = 0\n",
            "4:1: supervisors.s.max_seconds: expected an integer of at least 1, got the integer 0",
        ),
        (
            OK + "[supervisors.s]\nmax_restarts = true\n",
            "4:1: supervisors.s.max_restarts: expected an integer of at least 0, got true",
        ),
        (
            AGENT + "instances = 0\n",
            "3:1: agents.feed.instances: expected an integer from 1 to 10000, got the integer 0",
        ),
        (
            AGENT + "instances = 10001\n",
            "3:1: agents.feed.instances: expected an integer from 1 to 10000, got the integer 10001",
        ),
        (AGENT + 'shutdown = "-1s"\n', f'3:1: agents.feed.shutdown: {SHUTDOWN}the string "-1s": it is negative'),
        (AGENT + "shutdown = 5\n", f'3:1: agents.feed.shutdown: {SHUTDOWN}the integer 5; did you mean "5s"?'),
        (
            AGENT + 'shutdown = "infinty"\n',
            f'3:1: agents.feed.shutdown: {SHUTDOWN}the string "infinty"; did you mean "infinity"?',
        ),
        (
            AGENT + 'shutdown = "99999999999h"\n',
            "3:1: agents.feed.shutdown: expected a duration of at most 87600h (ten years), got the string "
            '"99999999999h"',
        ),
        (
            AGENT + 'start_timeout = "10"\n',
            f'3:1: agents.feed.start_timeout: {DURATION}the string "10": it has no unit; did you mean "10s"?',
        ),
        (
            AGENT + 'start_timeout = "0s"\n',
            '3:1: agents.feed.start_timeout: expected at least 1ms, got the string "0s"',
        ),
        (AGENT + "backoff = true\n", f"3:1: agents.feed.backoff: {BACKOFF}true: write {{}} for the defaults"),
        (
            AGENT + 'backoff = { initail = "1s" }\n',
            '3:13: agents.feed.backoff.initail: unknown key; did you mean "initial"?',
        ),
        (
            AGENT + 'backoff = { initial = "1m" }\n',
            "3:1: agents.feed.backoff.max: expected max to be at least initial, got 30s, and initial is 60s",
        ),
        (
            AGENT + "backoff = { factor = 0.5 }\n",
            "3:13: agents.feed.backoff.factor: expected a number from 1 to 1000, got the float 0.5",
        ),
        (
            AGENT + "backoff = { jitter = nan }\n",
            "3:13: agents.feed.backoff.jitter: expected a number from 0 to 0.99, got the float nan",
        ),
        (AGENT + 'stop_signal = "FOO"\n', f'3:1: agents.feed.stop_signal: {SIGNAL}the string "FOO"'),
        (
            AGENT + 'stop_signal = "SIGTRM"\n',
            f'3:1: agents.feed.stop_signal: {SIGNAL}the string "SIGTRM"; did you mean "SIGTERM"?',
        ),
        (
            AGENT + 'stop_signal = "int"\n',
            f'3:1: agents.feed.stop_signal: {SIGNAL}the string "int"; did you mean "SIGINT"?',
        ),
        (
            AGENT + "stop_signal = 15\n",
            f'3:1: agents.feed.stop_signal: {SIGNAL}the integer 15; did you mean "SIGTERM"?',
        ),
        (
            AGENT + 'stop_signal = "SIGKILL"\n',
            '3:1: agents.feed.stop_signal: expected a signal that a worker can answer, got "SIGKILL": it can\'t be handled; '
            'to kill at once write shutdown = "brutal_kill"',
        ),
        (AGENT + "umask = 18\n", f'3:1: agents.feed.umask: {UMASK}the integer 18; did you mean "022"?'),
        (AGENT + 'umask = "999"\n', f'3:1: agents.feed.umask: {UMASK}the string "999"'),
        (
            AGENT + "limits = { memry = '1GiB' }\n",
            '3:12: agents.feed.limits.memry: unknown key; did you mean "memory"?',
        ),
        (
            AGENT + "limits = { memory = '1KiB' }\n",
            '3:12: agents.feed.limits.memory: expected at least 1MiB, got the string "1KiB"',
        ),
        (
            AGENT + "limits = { files = 0 }\n",
            "3:12: agents.feed.limits.files: expected an integer from 8 to 1073741824, got the integer 0",
        ),
        (
            AGENT + "inbox = { messages = 0 }\n",
            "3:11: agents.feed.inbox.messages: expected an integer from 1 to 1000000, got the integer 0",
        ),
        (
            AGENT + "inbox = { bytes = '1B' }\n",
            '3:11: agents.feed.inbox.bytes: expected at least 1KiB, got the string "1B"',
        ),
        (
            AGENT + "inbox = { policy = 'drop_new' }\n",
            '3:11: agents.feed.inbox.policy: expected "reject", "drop_oldest" or "drop_newest", got the string "drop_new"; '
            'did you mean "drop_newest"?',
        ),
        (
            AGENT + "spawn = 'denied'\n",
            '3:1: agents.feed.spawn: expected "allow", "warn" or "deny", got the string "denied"; did you mean "deny"?',
        ),
        (
            '[programs.p]\ncommand = ["true"]\nspawn = "deny"\n',
            "3:1: programs.p.spawn: not a key of [programs.NAME], it belongs to [agents.NAME]",
        ),
        (
            '[programs.p]\ncommand = ["true"]\ninbox = {}\n',
            "3:1: programs.p.inbox: not a key of [programs.NAME], it belongs to [agents.NAME]",
        ),
        (
            AGENT + "restart_when = { cpu = 50 }\n",
            '3:18: agents.feed.restart_when.cpu: expected a share of one core such as "90%" or "150% over 5m", got the '
            'integer 50; did you mean "50%"?',
        ),
        (
            AGENT + "restart_when = { cpu = '50% over 5' }\n",
            '3:18: agents.feed.restart_when.cpu: expected a duration such as "250ms", "5s", "2m" or "1h", got the string "5"'
            ': it has no unit; did you mean "5s"?',
        ),
        (
            AGENT + "restart_when = { agee = '1h' }\n",
            '3:18: agents.feed.restart_when.agee: unknown key; did you mean "age"?',
        ),
        (
            AGENT + "health = { intervall = '1s', call = true }\n",
            '3:12: agents.feed.health.intervall: unknown key; did you mean "interval"?',
        ),
        (
            AGENT + "health = { interval = '1s' }\n",
            '3:1: agents.feed.health: expected one of "tcp", "http", "exec" or "call", got none of them',
        ),
        (
            PROGRAM + "health = { tcp = 80, http = 'http://x/' }\n",
            '3:1: programs.web.health: expected one of "tcp", "http" or "exec", got "tcp" and "http"',
        ),
        (
            PROGRAM + "health = { call = true }\n",
            "3:12: programs.web.health.call: a program is not asked through the broker; ask it by tcp, http or exec",
        ),
        (
            PROGRAM + "health = { tcp = 80, interval = '1s', timeout = '2s' }\n",
            "3:39: programs.web.health.timeout: expected at most the interval, which is 1s, got 2s",
        ),
        (
            AGENT + "health = { call = true, action = 'restrat' }\n",
            '3:25: agents.feed.health.action: expected "report" or "restart", got the string "restrat"; '
            'did you mean "restart"?',
        ),
        (
            AGENT + "restart_when = { memory = '400MB' }\n",
            '3:18: agents.feed.restart_when.memory: expected a size such as "512KiB", "64MiB" or "2GiB", got the string '
            '"400MB"; did you mean "400MiB"?',
        ),
        (AGENT + "watchdog = '1ms'\n", '3:1: agents.feed.watchdog: expected at least 10ms, got the string "1ms"'),
        (PROGRAM + 'ready = "notfy"\n', f'3:1: programs.web.ready: {READY}the string "notfy"; did you mean "notify"?'),
        (
            PROGRAM + 'ready = "init"\n',
            f'3:1: programs.web.ready: {READY}the string "init": only an agent has an init(); '
            "put the script under [agents.NAME]",
        ),
        (PROGRAM + "ready = {}\n", f"3:1: programs.web.ready: {READY}a table with nothing in it"),
        (
            PROGRAM + 'ready = { tcp = 80, http = "x" }\n',
            f'3:1: programs.web.ready: {READY}a table with "tcp" and "http"',
        ),
        (
            PROGRAM + "ready = { tcp = 0 }\n",
            '3:11: programs.web.ready.tcp: expected a port from 1 to 65535 or "HOST:PORT", got the integer 0',
        ),
        (
            PROGRAM + 'ready = { http = "https://x" }\n',
            '3:11: programs.web.ready.http: expected a URL such as "http://127.0.0.1:8080/health", got the string '
            '"https://x": only http is probed',
        ),
        (
            '[programs.web]\ncommand = "gunicorn app:app"\n',
            '2:1: programs.web.command: expected an array of strings, got the string "gunicorn app:app": write ["gunicorn", '
            '"app:app"]; there is no shell',
        ),
        (
            '[programs.web]\ncommand = ["sleep", 3]\n',
            '2:21: programs.web.command[1]: expected a string, got the integer 3; did you mean "3"?',
        ),
        (
            "[programs.web]\ncommand = []\n",
            '2:1: programs.web.command: expected a command such as ["gunicorn", "app:app"], got an empty one',
        ),
        ("[node.log]\nkeep = -1\n" + OK, "2:1: node.log.keep: expected an integer from 0 to 10000, got the integer -1"),
        (
            '[node.log]\nfull = "drp"\n' + OK,
            '2:1: node.log.full: expected "drop" or "block", got the string "drp"; did you mean "drop"?',
        ),
        # what runs
        ("[agents.a]\n", '1:9: agents.a: nothing to run: expected script = "agents/a.py"'),
        (
            "[programs.a]\n",
            '1:11: programs.a: nothing to run: expected script = "programs/a.py" or command = ["PROGRAM", "ARGUMENT"]',
        ),
        (PROGRAM + 'script = "feed.py"\n', "2:1: programs.web.command: expected one of script and command, got both"),
        (
            PROGRAM + 'args = ["x"]\n',
            "3:1: programs.web.args: arguments of a command go into the array command itself",
        ),
        # places
        (
            '[agents.a]\nscript = "fed.py"\n',
            '2:1: agents.a.script: expected a Python script, got DIR/fed.py, which does not exist; did you mean "feed.py"?',
        ),
        ('[agents.a]\nscript = "sub"\n', "2:1: agents.a.script: expected a Python script, got the directory DIR/sub"),
        (
            '[agents.a]\nscript = "/dev/null"\n',
            "2:1: agents.a.script: expected a Python script, got /dev/null, which is no regular file",
        ),
        (
            '[agents.a]\nscript = "~/a.py"\n',
            '2:1: agents.a.script: expected a path, got "~/a.py": "~" is not expanded; write the directory out',
        ),
        (
            '[programs.a]\ncommand = ["no-such-command-qq"]\n',
            '2:1: programs.a.command: expected a command in PATH, got "no-such-command-qq", which is in none of its '
            "directories",
        ),
        (
            '[programs.a]\ncommand = ["tool"]\n',
            '2:1: programs.a.command: expected a command in PATH, got "tool"; did you mean "./tool"?',
        ),
        ('[programs.a]\ncommand = ["./tool"]\n', "2:1: programs.a.command: DIR/./tool is not executable; chmod +x it"),
        (
            '[programs.a]\ncommand = ["./feed.py"]\n',
            '2:1: programs.a.command: DIR/./feed.py is not executable; write script = "./feed.py" instead, or chmod +x it',
        ),
        (
            '[programs.a]\ncommand = ["./tol"]\n',
            '2:1: programs.a.command: expected a command, got DIR/./tol, which does not exist; did you mean "./tool"?',
        ),
        (
            AGENT + 'cwd = "sbu"\n',
            '3:1: agents.feed.cwd: expected a directory, got DIR/sbu, which does not exist; did you mean "sub"?',
        ),
        (AGENT + 'cwd = "feed.py"\n', "3:1: agents.feed.cwd: expected a directory, got the file DIR/feed.py"),
        (
            AGENT + 'env_file = "no.env"\n',
            "3:1: agents.feed.env_file: expected a file of NAME=VALUE lines, got DIR/no.env, which does not exist; "
            'did you mean "bad.env"?',
        ),
        (
            AGENT + 'env_file = "bad.env"\n',
            '3:1: agents.feed.env_file: DIR/bad.env:3:3: expected NAME=VALUE, got "what is this"',
        ),
        (
            AGENT + 'user = "rooot"\n',
            '3:1: agents.feed.user: expected the name of a user of this machine, got "rooot"; did you mean "root"?',
        ),
        (
            '[node]\nstate_dir = "feed.py"\n' + OK,
            "2:1: node.state_dir: expected a directory, got the file DIR/feed.py",
        ),
        # arguments of init()
        (
            '[agents.a]\nscript = "open.py"\nargs = { self = 1, other = 2 }\n',
            "3:10: agents.a.args.self: Feed.init() at open.py:4 has the agent itself as self; "
            "give this argument another name",
        ),
        (
            '[agents.a]\nscript = "needs.py"\n',
            "1:9: agents.a: Feed.init() at needs.py:4 needs the argument symbol; add args = { symbol = ... }",
        ),
        (
            AGENT + "args = { symbl = 'x' }\n",
            '3:10: agents.feed.args.symbl: Feed.init() at feed.py:4 has no argument symbl; did you mean "symbol"?',
        ),
        (
            AGENT + "args = { q = 1 }\n",
            "3:10: agents.feed.args.q: Feed.init() at feed.py:4 has no argument q; it takes symbol, n, tags",
        ),
        (
            AGENT + "args = { n = 'x' }\n",
            '3:10: agents.feed.args.n: expected int | None, as Feed.init() at feed.py:4 says, got the string "x"',
        ),
        (
            AGENT + "args = { tags = [1] }\n",
            "3:10: agents.feed.args.tags: expected list[str], as Feed.init() at feed.py:4 says, got an array",
        ),
        (
            AGENT + "args = { symbol = 1979-05-27 }\n",
            "3:10: agents.feed.args.symbol: expected a string, a number, true, false, an array or a table, got a date or "
            "time: write it as a string",
        ),
        (
            AGENT + "args = { n = 18446744073709551616 }\n",
            "3:10: agents.feed.args.n: expected an integer of 64 bits, got the integer 18446744073709551616",
        ),
        (
            AGENT + "args = ['x']\n",
            '3:1: agents.feed.args: expected a table of arguments for init() such as { symbol = "ACME" }, got an array',
        ),
        # the text
        (AGENT + "restart = permanent\n", "3:11: not valid TOML: Invalid value"),
        (AGENT + 'restart = "permanent\n', "3:21: not valid TOML: Illegal character '\\n'"),
        (AGENT + "restart\n", "3:8: not valid TOML: Expected '=' after a key in a key/value pair"),
        (AGENT + "args = { a = 1,\n", "3:16: not valid TOML: Invalid initial character for a key part"),
        (AGENT + "args = [1,\n", "3:11: not valid TOML: Invalid value at the end of the file"),
        (AGENT + "script = 'x'\n", "3:1: agents.feed.script: defined twice; the first is in line 2"),
        (AGENT + AGENT, "3:9: agents.feed: defined twice; the first is in line 1"),
        (AGENT + "x = 2020-99-99\n", "3:9: not valid TOML: Expected newline or end of document after a statement"),
        ("", "1:1: the file is empty; " + NOTHING),
        ("# only\n", "1:1: the file is empty; " + NOTHING),
        (
            "[supervisors.s]\n",
            "1:1: " + NOTHING,
        ),
        ("a = '\0'\n", "1:6: the file holds a NUL character; expected a text file in UTF-8"),
        (b"[agents.f]\nscript = '\xff'\n", "2:11: not UTF-8: byte 0xff; save the file as UTF-8"),
        ("[agents.f]\n".encode("utf-16"), "1:1: not UTF-8 but UTF-16; save the file as UTF-8"),
        ("a = " + "[" * 5000, "arrays or inline tables are nested too deeply"),
        (
            "#" * (4 * 1024 * 1024 + 1),
            "the file is larger than 4MiB, far more than a tree needs; is it the right file?",
        ),
    ],
)
def test_a_mistake_is_reported_with_its_place(fleet: Path, text: str | bytes, expected: str) -> None:
    assert errors(fleet, text) == [expected if expected[0].isdigit() else f" {expected}"]


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(fleet: Path) -> None:
    text = '[node]\nnam = "x"\n[agents.feed]\nscript = "fed.py"\nshutdown = "5"\n[programs.web]\nready = "notfy"\n[agent]\n'
    assert [line.partition(": ")[0] for line in errors(fleet, text)] == ["2:1", "4:1", "5:1", "6:11", "7:1", "8:2"]


def test_a_problem_carries_its_parts_as_data(fleet: Path) -> None:
    (fleet / "otpd.toml").write_text(AGENT + 'shutdown = "5"\n')
    with pytest.raises(ConfigErrors) as caught:
        load("otpd.toml")
    assert [problem.to_dict() for problem in caught.value.problems] == [
        {
            "file": "otpd.toml",
            "line": 3,
            "column": 1,
            "key": "agents.feed.shutdown",
            "what": SHUTDOWN + 'the string "5": it has no unit; did you mean "5s"?',
            "expected": SHUTDOWN.removeprefix("expected ").removesuffix(", got "),
            "got": 'the string "5"',
            "nearest": "5s",
        }
    ]


def test_a_cycle_is_reported_at_each_supervisor_in_it_and_nowhere_else(fleet: Path) -> None:
    text = OK + 'supervisor = "a"\n[supervisors.a]\nsupervisor = "b"\n[supervisors.b]\nsupervisor = "a"\n'
    assert errors(fleet, text) == [
        "5:1: supervisors.a.supervisor: a supervisor can't be its own ancestor: a -> b -> a",
        "7:1: supervisors.b.supervisor: a supervisor can't be its own ancestor: b -> a -> b",
    ]


def test_supervisors_are_nested_at_most_32_deep(fleet: Path) -> None:
    text = OK + "[supervisors.s0]\n" + "".join(f'[supervisors.s{n}]\nsupervisor = "s{n - 1}"\n' for n in range(1, 34))
    deep = "expected at most 32 supervisors inside each other, got more"
    assert errors(fleet, text) == [
        f"67:1: supervisors.s32.supervisor: {deep}",
        f"69:1: supervisors.s33.supervisor: {deep}",
    ]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, "no such file; `otpd init` writes a first otpd.toml"),
        (Path.mkdir, "expected a file, got a directory; name the file in it, for example otpd.toml/otpd.toml"),
        (lambda path: path.symlink_to("otpd.toml"), "can't be read: Too many levels of symbolic links"),
        (os.mkfifo, "expected a file, got a FIFO"),
    ],
)
def test_a_file_that_is_none_is_refused_with_the_reason_and_not_kept_open(
    fleet: Path, make: object, expected: str
) -> None:
    assert callable(make)
    make(fleet / "otpd.toml")
    with pytest.raises(ConfigErrors) as caught:
        load("otpd.toml")
    assert str(caught.value) == f"otpd.toml: {expected}"
    assert open_below(fleet) == []


def test_a_file_that_may_not_be_read_is_refused_with_the_reason(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("otpd.supervisor.config._unwaiting", denied)
    with pytest.raises(ConfigErrors) as caught:
        load("otpd.toml")
    assert str(caught.value) == "otpd.toml: can't be read: Permission denied"


def test_another_user_is_refused_to_everybody_but_root(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert errors(fleet, AGENT + 'user = "root"\n') == [
        "3:1: agents.feed.user: only root can start a worker as another user; you are uid 4711, drop this key"
    ]


def test_of_very_many_mistakes_the_first_fifty_are_shown(fleet: Path) -> None:
    (fleet / "otpd.toml").write_text("".join(f"[agents.a{n}]\n" for n in range(60)))
    with pytest.raises(ConfigErrors) as caught:
        load("otpd.toml")
    lines = str(caught.value).split("\n")
    assert (len(caught.value.problems), len(lines), lines[-1]) == (60, 51, "... and 10 more errors")


def test_a_mistake_in_the_tables_of_commands_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("")
    text = """\
[commands]
worker = 2
[commands.profiles.build]
rw = ["work"]
limits = { memory = "64MB" }
[agents.a]
script = "a.py"
commands = ["git 'log"]
"""
    (tmp_path / "otpd.toml").write_text(text)
    with pytest.raises(ConfigErrors) as raised:
        load(tmp_path / "otpd.toml")
    assert [(problem.line, problem.key, problem.nearest) for problem in raised.value.problems] == [
        (2, "commands.worker", "workers"),
        (5, "commands.profiles.build.limits.memory", "64MiB"),
        (8, "agents.a.commands[0]", ""),
    ]
