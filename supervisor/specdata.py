"""NodeSpec to plain data (what msgpack carries) and back, exactly: from_data(to_data(node)) == node.

Only values that differ from the default are written, and workers of one group share their Launch, so that 10,000
instances fit into one request. `from_data` trusts nothing: anything that is not a NodeSpec is a SpecDataError. The spec
of one child or one supervisor travels the same way, for requests to a running node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Final, TypeAlias, TypeVar

from otpd.supervisor.spec import (
    SPAWN_POLICIES,
    AutoShutdown,
    Backoff,
    ChildSpec,
    ChildType,
    Dynamic,
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

#: Counts up when a field is added, removed or gets another default.
VERSION: Final = 4

T = TypeVar("T")
_Parse: TypeAlias = Callable[[Any], Any]


class SpecDataError(ValueError):
    """The data is no spec of the expected kind, or one of another version of otpd."""


def to_data(spec: NodeSpec | ChildSpec | SupervisorSpec) -> dict[str, Any]:
    """Dicts, lists, strings, numbers, booleans and None only."""
    writer = _Writer()
    data = writer.write(spec)
    return {"otpd_spec": VERSION, _KEYS[type(spec)]: data, "launches": writer.launches}


def from_data(data: object) -> NodeSpec:
    """The NodeSpec that `to_data` wrote; SpecDataError for anything else."""
    return _read(data, NodeSpec, _Reader.node)


def child_from_data(data: object) -> ChildSpec:
    """The ChildSpec that `to_data` wrote; SpecDataError for anything else."""
    return _read(data, ChildSpec, _Reader.child)


def supervisor_from_data(data: object) -> SupervisorSpec:
    """The SupervisorSpec that `to_data` wrote; SpecDataError for anything else."""
    return _read(data, SupervisorSpec, _Reader.supervisor)


#: Under which key a spec of each kind stands.
_KEYS: Final[Mapping[type, str]] = {NodeSpec: "node", ChildSpec: "child", SupervisorSpec: "supervisor"}


def _read(data: object, kind: type[T], read: Callable[[_Reader, Any], T]) -> T:
    key = _KEYS[kind]
    if not isinstance(data, dict) or not _is_int(data.get("otpd_spec")):
        raise SpecDataError(f"expected a {key} spec of otpd, got {type(data).__name__} without a version (otpd_spec)")
    if data["otpd_spec"] != VERSION:
        age = "a newer" if data["otpd_spec"] > VERSION else "an older"
        raise SpecDataError(
            f"expected version {VERSION} of the {key} spec, got version {data['otpd_spec']}: it is of {age} otpd; "
            "restart the node with the otpd that you call now"
        )
    try:
        launches = tuple(_parse(Launch, item, _LEAVES) for item in _list(data.get("launches")))
        return read(_Reader(launches), data.get(key))
    except RecursionError:
        raise SpecDataError(f"expected a {key} spec, got data nested too deeply") from None


class _Writer:
    def __init__(self) -> None:
        self.launches: list[dict[str, Any]] = []
        self.numbers: dict[int, int] = {}  # id() of a Launch that the node keeps alive -> index in launches

    def write(self, value: Any) -> Any:
        match value:
            case Launch():
                return self.launch(value)
            case TcpReady() | ExecReady() | HttpReady():
                return {type(value).__name__: self.dataclass(value)}
            case Backoff() | Limits() | Inbox() | Health() | RestartWhen() | LogPolicy():
                return self.dataclass(value)
            case ChildSpec() | SupervisorSpec() | NodeSpec():
                return self.dataclass(value)
            case tuple():
                return [self.write(item) for item in value]
            case str():
                return str(value)
            case int() | float() | dict() | None:
                return value
            case _:
                raise TypeError(f"a node spec can't hold {value!r}")

    def launch(self, value: Launch) -> int:
        number = self.numbers.get(id(value))
        if number is None:
            number = self.numbers[id(value)] = len(self.launches)
            self.launches.append(self.dataclass(value))
        return number

    def dataclass(self, value: Any) -> dict[str, Any]:
        return {
            item.name: self.write(getattr(value, item.name))
            for item in fields(value)
            if not _is_default(getattr(value, item.name), item)
        }


def _is_default(value: Any, item: Any) -> bool:
    default = item.default_factory() if item.default_factory is not MISSING else item.default
    return type(value) is type(default) and value == default


class _Reader:
    """Reads what can hold a worker; `launches` are what the numbers in `start` mean."""

    def __init__(self, launches: tuple[Launch, ...]) -> None:
        self.launches = launches
        self.parsers: Mapping[str, _Parse] = {
            **_LEAVES,
            "tuple[ChildSpec, ...]": lambda value: tuple(self.child(item) for item in _list(value)),
            "ChildSpec | None": lambda value: None if value is None else self.child(value),
            "SupervisorSpec | Launch | object": self.start,
            "SupervisorSpec": self.supervisor,
        }

    def node(self, value: Any) -> NodeSpec:
        return _parse(NodeSpec, value, self.parsers)

    def child(self, value: Any) -> ChildSpec:
        return _parse(ChildSpec, value, self.parsers)

    def supervisor(self, value: Any) -> SupervisorSpec:
        return _parse(SupervisorSpec, value, self.parsers)

    def start(self, value: Any) -> SupervisorSpec | Launch:
        if isinstance(value, dict):
            return self.supervisor(value)
        if isinstance(value, int) and 0 <= value < len(self.launches) and value is not True and value is not False:
            return self.launches[value]
        raise SpecDataError(f"expected a supervisor or the number of a launch, got {value!r}")


def _parse(kind: type[T], value: Any, parsers: Mapping[str, _Parse]) -> T:
    if not isinstance(value, dict):
        raise SpecDataError(f"expected the fields of {kind.__name__}, got {type(value).__name__}")
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    for name in value:
        if name not in known:
            raise SpecDataError(f"{kind.__name__} has no field {name!r}")
    for name, item in known.items():
        if name not in value and item.default is MISSING and item.default_factory is MISSING:
            raise SpecDataError(f"{kind.__name__} lacks its field {name!r}")
    return kind(**{name: _field(kind, name, parsers[str(known[name].type)], item) for name, item in value.items()})


def _field(kind: type, name: str, parse: _Parse, value: Any) -> Any:
    try:
        return parse(value)
    except SpecDataError as error:
        raise SpecDataError(f"{kind.__name__}.{name}: {error}") from None
    except (ValueError, TypeError):
        raise SpecDataError(f"{kind.__name__}.{name}: unexpected {value!r}") from None


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _exactly(*kinds: type) -> _Parse:
    def parse(value: Any) -> Any:
        if type(value) not in kinds:
            raise SpecDataError(f"expected {' or '.join(kind.__name__ for kind in kinds)}, got {value!r}")
        return value

    return parse


_list: Final = _exactly(list)
_NONE: Final = type(None)


def _float(value: Any) -> float:
    found = float(_exactly(float, int)(value))
    if not math.isfinite(found):
        raise SpecDataError(f"expected a finite number, got {found}")
    return found


def _shutdown(value: Any) -> Any:
    return _words("brutal_kill", "infinity")(value) if isinstance(value, str) else _float(value)


def _words(*words: str) -> _Parse:
    def parse(value: Any) -> Any:
        if value not in words:
            raise SpecDataError(f"expected one of {', '.join(words)}, got {value!r}")
        return value

    return parse


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(_exactly(str)(item) for item in _list(value))


def _environment(value: Any) -> dict[str, str]:
    return {_exactly(str)(key): _exactly(str)(item) for key, item in _exactly(dict)(value).items()}


def _arguments(value: Any) -> dict[str, Any]:
    return {_exactly(str)(key): item for key, item in _exactly(dict)(value).items()}


def _options(value: Any) -> dict[str, dict[str, Any]]:
    return {_exactly(str)(key): _arguments(item) for key, item in _exactly(dict)(value).items()}


def _ready(value: Any) -> Any:
    return _probe(value, "init", "spawned", "notify")


def _probe(value: Any, *words: str) -> Any:
    match value:
        case {"TcpReady": item} if len(value) == 1:
            return _parse(TcpReady, item, _LEAVES)
        case {"ExecReady": item} if len(value) == 1:
            return _parse(ExecReady, item, _LEAVES)
        case {"HttpReady": item} if len(value) == 1:
            return _parse(HttpReady, item, _LEAVES)
        case _:
            return _words(*words)(value)


def _one(kind: type[T]) -> Callable[[Any], T]:
    return lambda value: _parse(kind, value, _LEAVES)


#: How a field is read, by its annotation in spec.
_LEAVES: Final[Mapping[str, _Parse]] = {
    "str": _exactly(str),
    "str | None": _exactly(str, _NONE),
    "int": _exactly(int),
    "int | None": _exactly(int, _NONE),
    "bool": _exactly(bool),
    "float": _float,
    "float | None": lambda value: None if value is None else _float(value),
    "tuple[str, ...]": _strings,
    "tuple[str, ...] | None": lambda value: None if value is None else _strings(value),
    "dict[str, str]": _environment,
    "dict[str, Any]": _arguments,
    "dict[str, dict[str, Any]]": _options,
    "dict[str, Any] | None": lambda value: None if value is None else _arguments(value),
    "Kind": _words("agent", "program", "service", "pool"),
    "SpawnPolicy": _words(*SPAWN_POLICIES),
    "Ready": _ready,
    "Limits": _one(Limits),
    "Inbox": _one(Inbox),
    "LogPolicy": _one(LogPolicy),
    "Backoff | None": lambda value: None if value is None else _parse(Backoff, value, _LEAVES),
    "Health | None": lambda value: None if value is None else _parse(Health, value, _LEAVES),
    "RestartWhen | None": lambda value: None if value is None else _parse(RestartWhen, value, _LEAVES),
    "TcpReady | ExecReady | HttpReady | Literal['call']": lambda value: _probe(value, "call"),
    "Literal['report', 'restart']": _words("report", "restart"),
    "Shutdown": _shutdown,
    "Restart": Restart,
    "Strategy": Strategy,
    "ChildType": ChildType,
    "AutoShutdown": AutoShutdown,
    "Dynamic | None": lambda value: None if value is None else Dynamic(value),
    "Literal['drop', 'block']": _words("drop", "block"),
    "Literal['reject', 'drop_oldest', 'drop_newest']": _words("reject", "drop_oldest", "drop_newest"),
}


def plain(value: Any) -> Any:
    """One value of a spec as plain data with all of its fields, for --json."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    match value:
        case tuple() | list():
            return [plain(item) for item in value]
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case str():
            return str(value)
        case _:
            return value
