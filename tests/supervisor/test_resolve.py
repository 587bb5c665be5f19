"""Which configuration a command means, and what it says when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from otpd.supervisor.problems import ConfigErrors
from otpd.supervisor.resolve import find_config, load_node


def test_the_nearest_file_upwards_is_found(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "otpd.toml").touch()
    assert find_config(None, {}, deep) == tmp_path / "otpd.toml"
    (deep / "otpd.toml").mkdir()  # no file
    assert find_config(None, {}, deep) == tmp_path / "otpd.toml"


def test_the_option_wins_over_the_variable_and_the_variable_over_the_search(tmp_path: Path) -> None:
    for name in ("otpd.toml", "one.toml", "two.toml"):
        (tmp_path / name).touch()
    env = {"OTPD_CONFIG": "two.toml"}
    assert find_config("one.toml", env, tmp_path) == tmp_path / "one.toml"
    assert find_config(None, env, tmp_path) == tmp_path / "two.toml"
    assert find_config(None, {"OTPD_CONFIG": ""}, tmp_path) == tmp_path / "otpd.toml"


def test_a_directory_that_is_named_means_the_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "otpd.toml").touch()
    assert find_config("shop", {}, tmp_path) == tmp_path / "shop" / "otpd.toml"


@pytest.mark.parametrize(
    ("option", "env", "message"),
    [
        ("no.toml", {}, "DIR/no.toml: no such file, named by --config; `otpd init` writes a first otpd.toml"),
        (
            None,
            {"OTPD_CONFIG": "/no/x"},
            "/no/x: no such file, named by $OTPD_CONFIG; `otpd init` writes a first otpd.toml",
        ),
        (
            None,
            {},
            "DIR/otpd.toml: no otpd.toml here or above; `otpd init` writes one, or name it with --config or $OTPD_CONFIG",
        ),
    ],
)
def test_no_configuration_names_the_next_step(
    tmp_path: Path, option: str | None, env: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigErrors) as caught:
        find_config(option, env, tmp_path)
    assert str(caught.value).replace(str(tmp_path), "DIR") == message


def test_a_python_file_is_read_as_a_tree_and_anything_else_as_toml(tmp_path: Path) -> None:
    (tmp_path / "tree.py").write_text('node = {"programs": {"a": {"command": ["sleep", "1"]}}}')
    (tmp_path / "tree.conf").write_text('[programs.a]\ncommand = ["sleep", "1"]\n')
    assert load_node(tmp_path / "tree.py").top == load_node(tmp_path / "tree.conf").top
