"""What a task may be, and where a worker finds it: today's code, of the owner that asks."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otpd.agents.errors import NotData
from otpd.agents.tasks.functions import Library, Named, named


def helper() -> None: ...


@pytest.fixture
def clean() -> Iterator[None]:
    path, modules = sys.path[:], set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(file: Path, value: str, at: int) -> None:
    file.write_text(f"def answer():\n    return {value!r}\n")
    os.utime(file, ns=(at, at))


def test_what_can_be_imported_has_a_name_and_the_rest_has_none() -> None:
    assert named(len) == Named("builtins", "len")
    assert named("a.b:c.d") == Named("a.b", "c.d", None, os.path.abspath(sys.path[0]))
    mine = named(helper)
    assert mine is not None and (mine.module, mine.name, mine.file) == (__name__, "helper", __file__)
    nameless: list[Any] = [lambda: 1, functools.partial(len), [].append, type("Local", (), {})]
    assert [named(each) for each in nameless] == [None] * 4


@pytest.mark.parametrize(("wrong", "text"), [("len", "got 'len'"), (":f", "got ':f'"), ("m:", "got 'm:'"), (7, "got 7")])
def test_what_is_no_function_is_refused_with_a_sample(wrong: Any, text: str) -> None:
    with pytest.raises(NotData, match=f"{text}; write: self.task"):
        named(wrong)


def test_a_changed_file_is_imported_anew(tmp_path: Path, clean: None) -> None:
    file, library = tmp_path / "alpha_task.py", Library()
    what = Named("alpha_task", "answer", str(file), str(tmp_path))
    write(file, "old", 10**18)
    assert (library.find(what)(), library.find(what)()) == ("old", "old")
    write(file, "new", 2 * 10**18)
    assert library.find(what)() == "new"


def test_two_owners_may_have_modules_of_the_same_name(tmp_path: Path, clean: None) -> None:
    library, found = Library(), []
    for home in ("one", "two", "one"):
        (tmp_path / home).mkdir(exist_ok=True)
        file = tmp_path / home / "beta_task.py"
        write(file, home, 10**18)
        found.append(library.find(Named("beta_task", "answer", str(file), str(tmp_path / home)))())
    assert found == ["one", "two", "one"]


def make(file: Path, text: str) -> str:
    """Its directory."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return str(file.parent)


def test_a_text_means_the_module_of_the_one_who_asks(tmp_path: Path, clean: None) -> None:
    library, found = Library(), []
    for home in ("one", "two", "one"):
        make(tmp_path / home / "gamma_task.py", f"def answer(): return {home!r}")
        found.append(library.find(Named("gamma_task", "answer", None, str(tmp_path / home)))())
    assert found == ["one", "two", "one"]
    with pytest.raises(ImportError, match="gamma_task"):
        library.find(Named("gamma_task", "answer", None, str(tmp_path)))


def test_a_module_of_the_owner_goes_before_one_of_the_node(tmp_path: Path, clean: None) -> None:
    library, found = Library(), []
    sys.path.insert(0, make(tmp_path / "node" / "delta_task.py", "def answer(): return 'node'"))
    for home in ("node", "own", "node"):
        directory = make(tmp_path / home / "delta_task.py", f"def answer(): return {home!r}")
        found.append(library.find(Named("delta_task", "answer", None, directory))())
    assert found == ["node", "own", "node"]


def test_what_the_function_imports_is_of_its_owner_too(tmp_path: Path, clean: None) -> None:
    library, found = Library(), []
    for home in ("one", "two", "one"):
        make(tmp_path / home / "zeta_helper.py", f"NAME = {home!r}")
        directory = make(tmp_path / home / f"zeta_{home}.py", "def answer():\n import zeta_helper\n return zeta_helper.NAME")
        found.append(library.find(Named(f"zeta_{home}", "answer", None, directory))())
    assert found == ["one", "two", "one"]


def test_a_text_is_imported_anew_when_its_file_has_changed(tmp_path: Path, clean: None) -> None:
    file, library = tmp_path / "own" / "eta_task.py", Library()
    what = Named("eta_task", "answer", None, make(file, ""))
    write(file, "old", 10**18)
    assert library.find(what)() == "old"
    write(file, "new", 2 * 10**18)
    assert library.find(what)() == "new"


def test_a_script_is_a_module_of_its_own_and_does_not_run(tmp_path: Path, clean: None) -> None:
    script = tmp_path / "agent.py"
    script.write_text("def f():\n    return __name__\nif __name__ == '__main__':\n    raise RuntimeError\n")
    assert Library().find(Named("__main__", "f", str(script), str(tmp_path)))() == "__otpd_main__"
    script.write_text("import sys\nsys.exit(2)\n")
    with pytest.raises(ImportError, match=r"put run\(...\) below"):
        Library().find(Named("__main__", "f", str(script), str(tmp_path)))


def test_what_is_missing_is_named(clean: None) -> None:
    with pytest.raises(AttributeError, match="math has no nothing"):
        Library().find(Named("math", "nothing"))
