"""The table [commands]: what it means, and what is said when it means nothing."""

from __future__ import annotations

from typing import Any

import pytest

from otpd.agents.sandbox import Limits, PoolSettings, Profile, ProfileError, read


def one(table: dict[str, Any]) -> Profile:
    return read({"profiles": {"p": table}}, "/base").profiles["p"]


def test_an_empty_table_is_all_defaults() -> None:
    assert read({}, "/") == PoolSettings(profiles={"default": Profile()})


def test_everything_can_be_said() -> None:
    table = {
        "workers": 4, "max_queue": 9, "max_per_caller": 3, "queue_timeout": "2s", "backend": "bwrap",
        "slot_uids": "300000-300003", "recycle_after": 10,
        "profiles": {
            "p": {
                "view": "host-ro", "ro": ["/opt/x"], "rw": ["data", "/srv/"], "protect": ["data/.git"], "net": "host",
                "env": {"A": "1"}, "workspace": "tmpfs:8MiB",
                "on_output_limit": "kill", "grace": "1m", "require": ["userns"],
                "allow_degraded": ["memory", "netns"], "commands": ["git"], "unix_sockets": True, "debug": True,
                "python": "/opt/x/bin/python",
                "limits": {
                    "wall": "250ms", "cpu": "1h", "memory": "1GiB", "memory_mode": "hard", "pids": 5, "file_size": "8KiB",
                    "tmp": "1.5MiB", "tmp_files": 99, "shm": "4KiB", "output": "1MiB", "disk": "2TiB", "files": 32,
                },
            }
        },
    }  # fmt: skip
    limits = Limits(0.25, 3600.0, 2**30, "hard", 5, 8192, 3 * 2**19, 99, 4096, 2**20, 2 * 2**40, 32)
    profile = Profile(
        "p", "host-ro", ("/opt/x",), ("/base/data", "/srv"), ("/base/data/.git",), "host", {"A": "1"}, 8 * 2**20, limits,
        "kill", 60.0, ("userns",), ("memory", "netns"), ("git",), True, True, "/opt/x/bin/python",
    )  # fmt: skip
    expected = PoolSettings(4, 9, 3, 2.0, "bwrap", (300_000, 300_003), 10, {"default": Profile(), "p": profile})
    assert read(table, "/base") == expected


def test_a_profile_extends_another_key_by_key() -> None:
    tables = {
        "child": {"extends": "parent", "env": {"B": "2"}, "limits": {"pids": 7}},
        "parent": {"net": "host", "env": {"A": "1", "B": "1"}, "limits": {"wall": "2s"}},
    }
    child = read({"profiles": tables}, "/").profiles["child"]
    assert child == Profile("child", net="host", env={"A": "1", "B": "2"}, limits=Limits(wall=2.0, pids=7))


def test_a_read_only_path_in_a_writable_one_is_protected() -> None:
    assert one({"rw": ["/a", "/b"], "ro": ["/a/x", "/c"], "protect": ["/b/y"]}).protected == ("/b/y", "/a/x")


def test_profiles_survive_a_journey_as_data() -> None:
    profile = one({"rw": ["/a"], "commands": ["git"], "limits": {"pids": 3}})
    assert Profile.from_dict(profile.to_dict()) == profile


P = "commands.profiles.p"


def of(**table: Any) -> dict[str, Any]:
    return {"profiles": {"p": table}}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"workrs": 1}, "commands.workrs: there is no such key; did you mean 'workers'?"),
        ({"workers": 0}, "commands.workers: expected an integer from 1 to 256, got 0"),
        ({"workers": True}, "commands.workers: expected an integer from 1 to 256, got True"),
        ({"queue_timeout": 5}, 'commands.queue_timeout: expected a duration such as "250ms"'),
        ({"backend": "docker"}, "commands.backend: expected one of 'auto', 'native', 'bwrap', 'landlock', got 'docker'"),
        ({"slot_uids": "0-10"}, "commands.slot_uids: expected a range of uids that nobody else has"),
        ({"profiles": []}, "commands.profiles: expected a table, got []"),
        (of(limits={"memory": "64MB"}), P + '.limits.memory: expected a size such as'),
        (of(limits={"cpus": 1}), P + ".limits.cpus: there is no such key; did you mean 'cpu'?"),
        (of(env={"A=B": "x"}), P + ".env: expected names of variables without"),
        (of(rw=["~/x"]), P + '.rw[0]: expected a path ("~" is not expanded)'),
        (of(rw="x"), P + ".rw: expected an array of strings, got 'x'"),
        (of(protect=["/x"]), P + ".protect: expected a path beneath one of `rw`, got '/x'"),
        (of(workspace="/x"), P + ".workspace: expected a private directory such as"),
        (of(require=["usrns"]), P + ".require[0]: there is no 'usrns'; did you mean 'userns'?"),
        (of(extends="q"), P + ".extends: expected the name of a profile"),
        (of(extends="p"), P + ".extends: expected no circle, got p -> p"),
        (of(limits={"output": "1GiB"}), P + ".limits.output: expected at most 256MiB"),
        (of(net="proxy"), P + ".net: expected one of 'none', 'host', got 'proxy'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_key(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ProfileError) as error:
        read(table, "/")
    assert said in str(error.value)


def test_limits_of_the_pool_are_those_of_every_profile_that_says_nothing_else() -> None:
    table = {"limits": {"wall": "3s", "pids": 7}, "profiles": {"a": {"limits": {"pids": 9}}, "b": {"extends": "a"}}}
    found = read(table, "/").profiles
    assert {name: (each.limits.wall, each.limits.pids) for name, each in found.items()} == {
        "default": (3.0, 7),
        "a": (3.0, 9),
        "b": (3.0, 9),
    }
