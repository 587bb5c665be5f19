"""Who has a name: unique in the node, because logs, death records, cookies and messages all go by it.

Taken are the children in the tables of running supervisors and workers, everything that the configuration names (groups of
instances too), and what is reserved: names whose children are on their way into a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otpd.supervisor.spec import Launch, NodeSpec, SupervisorSpec

if TYPE_CHECKING:
    from otpd.supervisor.root import Root


class Names:
    def __init__(self, root: Root) -> None:
        self._root = root
        self._reserved: dict[str, str] = {}  # name -> path
        self._coming: dict[str, str] = {}
        self._of: NodeSpec | None = None  # what `_configured` was made of
        self._configured: dict[str, str] = {}

    def holder(self, name: str) -> str | None:
        """The path of who has it, None when it is free."""
        known = (self._reserved, self._coming, self._in_config())
        return self._root.tree.holder(name) or next((names[name] for names in known if name in names), None)

    def reserve(self, name: str, path: str) -> None:
        """It is about to be at `path`."""
        self._reserved[name] = path

    def release(self, name: str) -> None:
        """It has got there, or never will."""
        self._reserved.pop(name, None)

    @property
    def reserved(self) -> dict[str, str]:
        return dict(self._reserved)

    def expect(self, node: NodeSpec | None) -> None:
        """A reload is under way, and its names are taken from now on; None: it is over."""
        self._coming = {} if node is None else names_of(node.top, self._top)

    def clashes(self, node: NodeSpec) -> list[str]:
        """Names that `node` wants and children of running agents have, as sentences."""
        wanted = names_of(node.top, self._top)
        own = {path.rpartition("/")[2]: path for path in (*self._root.tree.own_paths(), *self._reserved.values())}
        return [
            f"the name '{name}' is taken by {self._root.shown(path)}, which its agent has started; rename one of them, "
            f"or stop that one: otpd child stop {name}"
            for name, path in own.items()
            if wanted.get(name, path) != path
        ]

    @property
    def _top(self) -> str:
        return self._root.path_below_top("")

    def _in_config(self) -> dict[str, str]:
        if self._of is not self._root.node:
            self._of, self._configured = self._root.node, names_of(self._root.node.top, self._top)
        return self._configured


def names_of(spec: SupervisorSpec, path: str) -> dict[str, str]:
    """name -> path of everything below the supervisor at `path`; the name of a group -> the path of its first instance."""
    found: dict[str, str] = {}
    for child in spec.children:
        below = f"{path}/{child.id}"
        found[child.id] = below
        if isinstance(child.start, SupervisorSpec):
            found |= names_of(child.start, below)
        elif isinstance(child.start, Launch) and child.start.group is not None:
            found.setdefault(child.start.group, below)
    return found
