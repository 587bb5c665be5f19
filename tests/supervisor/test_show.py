"""The resolved tree is shown as a person reads it and, as data, with every field."""

from __future__ import annotations

from pathlib import Path

from otpd.supervisor.config import load
from otpd.supervisor.show import lines, to_dict

TEXT = """
[node]
name = "shop"
[supervisors.s]
strategy = "rest_for_one"
auto_shutdown = "any_significant"
[agents.a]
script = "a.py"
supervisor = "s"
restart = "transient"
significant = true
shutdown = "infinity"
[supervisors.t]
supervisor = "s"
shutdown = "1m"
[agents.b]
script = "a.py"
instances = 2
watchdog = "30s"
spawn = "deny"
restart_when = { memory = "1GiB", cpu = "90%", files = 9, threads = 9, age = "1h" }
health = { call = true }
[programs.c]
script = "a.py"
args = ["x"]
ready = { tcp = 80 }
shutdown = "brutal_kill"
backoff = false
user = "root"
[services.store]
max_state = "2MiB"
[commands]
workers = 4
[commands.profiles.build]
rw = ["w"]
"""


def test_the_resolved_tree_has_a_line_per_child(tmp_path: Path) -> None:
    """T15: what becomes of output when the disk is full, too."""
    (tmp_path / "a.py").touch()
    (tmp_path / "otpd.toml").write_text(TEXT)
    node = load(tmp_path / "otpd.toml")
    limits = "memory above 1GiB or cpu above 90% over 1m or files above 9 or threads above 9 or older than 1h"
    b = "agent DIR/a.py, permanent, stop SIGTERM then 5s, group b, health call each 10s, report, "
    b += f"restart when {limits}, spawn deny, watchdog 30s, back-off 100ms to 30s"
    assert [line.replace(str(tmp_path), "DIR") for line in lines(node)] == [
        "shop  config DIR/otpd.toml, state DIR/.otpd",
        "log  16MiB per file, 5 kept, full = drop",
        "services.store  max_state = 2097152",
        "commands  workers = 4, profiles default, build",
        'commands.profiles.build  rw = ["w"]',
        "top  one_for_one, no restart limit, isolates",
        "|- s  rest_for_one, 3 restarts in 5s, auto_shutdown any_significant, permanent, back-off 100ms to 30s",
        "|  |- a  agent DIR/a.py, transient, significant, stop SIGTERM and wait, spawn warn",
        "|  `- t  one_for_one, 3 restarts in 5s, permanent, stop then 1m",
        f"|- b-1  {b}",
        f"|- b-2  {b}",
        "`- c  program DIR/a.py x, permanent, stop by SIGKILL, ready {'port': 80, 'host': '127.0.0.1'}, user root",
    ]
    data = to_dict(node)
    assert (data["schema"], data["name"], len(data["top"]["children"])) == ("otpd/1", "shop", 4)
    assert data["services"] == {"store": {"max_state": 2097152}}


def test_a_service_that_is_left_out_is_shown_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.py").touch()
    (tmp_path / "otpd.toml").write_text('[programs.a]\nscript = "a.py"\n[services.store]\nenabled = false\n')
    assert lines(load(tmp_path / "otpd.toml"))[2] == "services.store  left out"
