"""What an otpd.toml means: every default filled in, everything relative resolved, the order of the file kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpd.supervisor.config import ConfigErrors, load
from otpd.supervisor.locate import Places
from otpd.supervisor.nodebuild import build
from otpd.supervisor.sections import SECTIONS
from otpd.supervisor.spec import (
    INFINITY,
    AutoShutdown,
    Backoff,
    ChildSpec,
    ChildType,
    ExecReady,
    Health,
    HttpReady,
    Inbox,
    Launch,
    Limits,
    LogPolicy,
    NodeSpec,
    Restart,
    RestartWhen,
    Strategy,
    SupervisorSpec,
    TcpReady,
)

SLEEP = str(shutil.which("sleep"))


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "shop"
    (home / "sub").mkdir(parents=True)
    (home / "a.py").write_text("from elsewhere import Thing, run\nrun(Thing)\n")
    monkeypatch.chdir(home)
    return home


def read(fleet: Path, text: str | bytes) -> NodeSpec:
    (fleet / "otpd.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    return load("otpd.toml")


def launch(node: NodeSpec, index: int = 0) -> Launch:
    start = node.top.children[index].start
    assert isinstance(start, Launch)
    return start


def test_a_minimal_file_gets_every_default(fleet: Path) -> None:
    assert read(fleet, '[agents.a]\nscript = "a.py"\n') == NodeSpec(
        name="shop",
        state_dir=str(fleet / ".otpd"),
        config=str(fleet / "otpd.toml"),
        top=SupervisorSpec(
            strategy=Strategy.ONE_FOR_ONE,
            max_restarts=None,
            isolate=True,
            children=(
                ChildSpec(
                    id="a",
                    start=Launch(kind="agent", script=str(fleet / "a.py"), ready="init", cwd=str(fleet), spawn="warn"),
                    restart=Restart.PERMANENT,
                    shutdown=5.0,
                    type=ChildType.WORKER,
                    backoff=Backoff(),
                ),
            ),
        ),
        log=LogPolicy(),
    )


def test_every_key_reaches_its_field(fleet: Path) -> None:
    (fleet / ".env").write_text("A=from file\nB=\"x\\ny\" # why\nexport C='z'\nD=plain # not this\n")
    text = """
[node]
name = "other"
state_dir = "../state"
log = { max_size = "1MiB", keep = 2, full = "block" }
[programs.p]
script = "a.py"
args = ["--fast"]
ready = "notify"
restart = "transient"
shutdown = "brutal_kill"
start_timeout = "1m"
env = { A = "mine" }
env_file = ".env"
cwd = "sub"
user = "root"
umask = "027"
stop_signal = "SIGINT"
limits = { memory = "512MiB", files = 1024, cpu = "1500ms", processes = 9, core = "0B" }
restart_when = { memory = "400MiB", cpu = "90.5% over 5m", files = 100, threads = 20, age = "24h" }
health = { tcp = 80, interval = "1s", timeout = "500ms", failures = 1, successes = 1, grace = "0s", action = "restart" }
watchdog = "30s"
detach = true
backoff = { initial = "1s", factor = 3, max = "10s", jitter = 0, reset_after = "1h" }
"""
    node = read(fleet, text)
    assert (node.name, node.state_dir) == ("other", str(fleet.parent / "state"))
    assert node.log == LogPolicy(max_bytes=2**20, keep=2, full="block")
    assert node.top.children == (
        ChildSpec(
            id="p",
            restart=Restart.TRANSIENT,
            shutdown="brutal_kill",
            backoff=Backoff(initial=1.0, factor=3.0, max=10.0, jitter=0.0, reset_after=3600.0),
            start=Launch(
                kind="program",
                script=str(fleet / "a.py"),
                argv=("--fast",),
                ready="notify",
                start_timeout=60.0,
                stop_signal=2,
                env={"A": "mine", "B": "x\ny", "C": "z", "D": "plain"},
                cwd=str(fleet / "sub"),
                user="root",
                umask=0o027,
                limits=Limits(memory=2**29, files=1024, cpu=2, processes=9, core=0),
                watchdog=30.0,
                health=Health(
                    check=TcpReady(port=80), interval=1.0, timeout=0.5, failures=1, successes=1, grace=0.0, action="restart"
                ),
                restart_when=RestartWhen(memory=400 * 2**20, cpu=90.5, cpu_over=300.0, files=100, threads=20, age=86400.0),
                detach=True,
            ),
        ),
    )


def test_an_inbox_has_the_defaults_of_the_contract_and_what_is_given(fleet: Path) -> None:
    text = """
[agents.plain]
script = "a.py"
[agents.small]
script = "a.py"
inbox = { messages = 5, bytes = "2KiB", policy = "drop_oldest" }
"""
    starts = [child.start for child in read(fleet, text).top.children]
    inboxes = [start.inbox for start in starts if isinstance(start, Launch)]
    assert inboxes == [
        Inbox(messages=100, bytes=2**20, policy="reject"),
        Inbox(messages=5, bytes=2048, policy="drop_oldest"),
    ]


def test_what_becomes_of_an_agents_own_processes_is_warned_about_unless_it_says_otherwise(fleet: Path) -> None:
    text = """
[agents.plain]
script = "a.py"
[agents.strict]
script = "a.py"
spawn = "deny"
[programs.p]
script = "a.py"
"""
    starts = [child.start for child in read(fleet, text).top.children]
    assert [start.spawn for start in starts if isinstance(start, Launch)] == ["warn", "deny", "allow"]


def test_order_of_start_is_order_of_first_appearance_across_sections(fleet: Path) -> None:
    text = """
[programs.one]
command = ["sleep", "1"]
[supervisors.two]
[agents.three]
script = "a.py"
[programs.four.env]
X = "1"
[agents.five]
script = "a.py"
supervisor = "two"
[supervisors.six]
[programs.four]
command = ["sleep", "1"]
"""
    node = read(fleet, text)
    assert [child.id for child in node.top.children] == ["one", "two", "three", "four", "six"]


def test_supervisors_nest_and_follow_otp_unless_they_say_otherwise(fleet: Path) -> None:
    text = """
[supervisors.outer]
strategy = "rest_for_one"
max_restarts = 0
max_seconds = 9
auto_shutdown = "all_significant"
[agents.a]
script = "a.py"
supervisor = "inner"
[supervisors.inner]
supervisor = "outer"
shutdown = "1m"
[agents.b]
script = "a.py"
supervisor = "outer"
restart = "temporary"
significant = true
backoff = {}
"""
    outer = read(fleet, text).top.children[0]
    start = Launch(kind="agent", script=str(fleet / "a.py"), ready="init", cwd=str(fleet), spawn="warn")
    assert outer == ChildSpec(
        id="outer",
        type=ChildType.SUPERVISOR,
        shutdown=INFINITY,
        backoff=Backoff(),
        start=SupervisorSpec(
            strategy=Strategy.REST_FOR_ONE,
            max_restarts=0,
            max_seconds=9,
            auto_shutdown=AutoShutdown.ALL_SIGNIFICANT,
            children=(
                ChildSpec(
                    id="inner",
                    type=ChildType.SUPERVISOR,
                    shutdown=60.0,
                    start=SupervisorSpec(children=(ChildSpec(id="a", start=start),)),
                ),
                ChildSpec(id="b", start=start, restart=Restart.TEMPORARY, significant=True, backoff=Backoff()),
            ),
        ),
    )


def test_instances_share_a_group_and_one_launch(fleet: Path) -> None:
    node = read(fleet, '[agents.a]\nscript = "a.py"\ninstances = 10000\n[agents.b]\nscript = "a.py"\ninstances = 1\n')
    ids = [child.id for child in node.top.children]
    assert (len(ids), ids[:2], ids[-2:]) == (10001, ["a-1", "a-2"], ["a-10000", "b"])
    assert {id(child.start) for child in node.top.children[:-1]} == {id(node.top.children[0].start)}
    assert (launch(node).group, launch(node, -1).group) == ("a", None)


def test_backoff_false_at_the_top_is_no_backoff(fleet: Path) -> None:
    assert read(fleet, '[agents.a]\nscript = "a.py"\nbackoff = false\n').top.children[0].backoff is None


@pytest.mark.parametrize(
    ("ready", "expected"),
    [
        ('"spawned"', "spawned"),
        ('"notify"', "notify"),
        ("{ tcp = 8080 }", TcpReady(port=8080)),
        ('{ tcp = "db:5432" }', TcpReady(host="db", port=5432)),
        ('{ tcp = "[::1]:5432" }', TcpReady(host="::1", port=5432)),
        ('{ exec = ["true"] }', ExecReady(argv=("true",))),
        ('{ http = "http://127.0.0.1:80/health?x=1" }', HttpReady(url="http://127.0.0.1:80/health?x=1")),
    ],
)
def test_a_program_says_how_it_is_ready(fleet: Path, ready: str, expected: object) -> None:
    assert launch(read(fleet, f'[programs.a]\ncommand = ["sleep", "1"]\nready = {ready}\n')).ready == expected


def test_a_command_is_looked_up_in_path_in_the_cwd_or_where_its_own_path_says(
    fleet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = fleet / "sub" / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    text = '[programs.a]\ncommand = ["%s", ""]\n'
    assert launch(read(fleet, text % "sleep")).command == (SLEEP, "")
    assert launch(read(fleet, text % "sub/tool")).command == (str(tool), "")
    assert launch(read(fleet, text % "./tool" + 'cwd = "sub"\n')).command == (str(tool), "")
    assert launch(read(fleet, text % "tool" + f'env = {{ PATH = "{fleet}/sub" }}\n')).command == (str(tool), "")
    monkeypatch.delenv("PATH")
    assert launch(read(fleet, text % "sleep")).command is not None


def _with_bom(raw: bytes) -> bytes:
    return b"\xef\xbb\xbf" + raw


def _with_crlf(raw: bytes) -> bytes:
    return raw.replace(b"\n", b"\r\n")


@pytest.mark.parametrize("change", [_with_bom, _with_crlf, bytes.rstrip])
def test_bom_crlf_and_a_missing_last_newline_change_nothing(fleet: Path, change: object) -> None:
    assert callable(change)
    text = b'[agents.a]\nscript = "a.py"\nargs = { x = "y" }\n'
    assert read(fleet, change(text)) == read(fleet, text)


@pytest.mark.parametrize(
    "source",
    [
        "def nothing(): pass\n",
        "this is no python",
        "from otpd.agents import Agent, run\nclass A(Agent):\n    def init(self, **kw): ...\nrun(A)\n",
        "from otpd.agents import Agent, run\nclass A(Agent):\n    @wrapped\n    def init(self): ...\nrun(A)\n",
        "class A(Base):\n    pass\nrun(A)\n",
        "class B(Agent):\n    def init(self, x: 'Path'): ...\nclass A(B): ...\nrun(A)\n",
        "class A(Agent):\n    def init(self, x: Optional[int | str] = None): ...\n",
        "class A(Agent):\n    def init(self, x: Literal['y', 'z']): ...\n",
        "class A(A):\n    pass\nrun(A)\n",
        "\0",
    ],
)
def test_arguments_pass_where_the_source_allows_them_or_does_not_tell(fleet: Path, source: str) -> None:
    (fleet / "a.py").write_text(source)
    assert launch(read(fleet, '[agents.a]\nscript = "a.py"\nargs = { x = "y" }\n')).args == {"x": "y"}


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("class A(Agent): ...\nrun(A)\n", "A.init() at a.py:1 has no argument x; it takes none"),
        (
            "class B(Agent):\n  def init(self): ...\nclass A(B): ...\nrun(A)\n",
            "A.init() at a.py:2 has no argument x; it takes none",
        ),
        (
            "class A(Agent):\n  def init(self, x: bool): ...\n",
            'expected bool, as A.init() at a.py:2 says, got the string "y"',
        ),
        (
            "class A(Agent):\n  def init(self, x: Literal['z']): ...\n",
            "expected Literal['z'], as A.init() at a.py:2 says, got the string \"y\"",
        ),
    ],
)
def test_arguments_that_init_does_not_take_are_refused(fleet: Path, source: str, what: str) -> None:
    (fleet / "a.py").write_text(source)
    with pytest.raises(ConfigErrors) as caught:
        read(fleet, '[agents.a]\nscript = "a.py"\nargs = { x = "y" }\n')
    assert str(caught.value) == f"otpd.toml:3:10: agents.a.args.x: {what}"


def test_no_user_code_is_run(fleet: Path) -> None:
    (fleet / "a.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    read(fleet, '[agents.a]\nscript = "a.py"\nargs = { x = 1 }\n')
    assert sorted(os.listdir(fleet)) == ["a.py", "otpd.toml", "sub"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"A\n", 'DIR/.env:1:1: expected NAME=VALUE, got "A"'),
        (b"A='x\n", "DIR/.env:1:1: expected a value that ends with ', got \"'x\""),
        (b"=x\n", 'DIR/.env:1:1: expected NAME=VALUE, got "=x"'),
        (b"A=x\0\n", 'DIR/.env:1:1: expected a line without NUL, got "A=x\\x00"'),
        (b"OTPD_NODE=x\n", "DIR/.env:1:1: otpd sets this variable itself; choose another name"),
        (b"A=1\nB=\xff\n", "DIR/.env:2: not UTF-8: byte 0xff; save it as UTF-8"),
        (b"A=" + b"x" * 2**20, "expected a file of at most 1MiB, got DIR/.env, which is larger"),
    ],
)
def test_a_bad_env_file_is_refused_with_its_own_place(fleet: Path, content: bytes, what: str) -> None:
    (fleet / ".env").write_bytes(content)
    with pytest.raises(ConfigErrors) as caught:
        read(fleet, '[agents.a]\nscript = "a.py"\nenv_file = ".env"\n')
    assert str(caught.value).replace(str(fleet), "DIR") == f"otpd.toml:3:1: agents.a.env_file: {what}"


def test_a_number_with_thousands_of_digits_is_refused(fleet: Path) -> None:
    with pytest.raises(ConfigErrors, match=r"^otpd\.toml: not valid TOML: Exceeds the limit"):
        read(fleet, "x = " + "1" * 5000)


def test_a_directory_whose_name_is_no_name_gives_a_node_called_node(fleet: Path) -> None:
    odd = fleet / "-odd"
    odd.mkdir()
    (odd / "otpd.toml").write_text('[programs.a]\ncommand = ["sleep", "1"]\n')
    assert load(odd / "otpd.toml").name == "node"


_KEYS = st.sampled_from(
    ["node", *SECTIONS, *(key for keys in SECTIONS.values() for key in keys), "a", "b", "tcp", "initial"]
)
_VALUES = st.recursive(
    st.sampled_from(
        ["a", "b", "a.py", "5s", "1MiB", "true", "one_for_one", "permanent", "", "\0", "/", 0, 1, -1, 10**30]
    )
    | st.booleans()
    | st.floats()
    | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(list(SECTIONS)), st.dictionaries(st.sampled_from("abc"), _VALUES)) | _VALUES)
def test_whatever_the_tables_hold_the_answer_is_a_node_or_errors(data: object) -> None:
    try:
        assert build(data if isinstance(data, dict) else {"agents": data}, "otpd.toml", Places()).top.children
    except ConfigErrors as errors:
        assert errors.problems
        assert "None" not in str(errors)
