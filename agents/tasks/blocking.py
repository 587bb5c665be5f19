"""The verbs for tasks, for threads: each returns when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from otpd.agents.tasks.pools import DEFAULT
from otpd.agents.tasks.stream import Source, Stream
from otpd.agents.tasks.values import Outcome
from otpd.agents.tasks.verbs import Function, TaskVerbs


class BlockingTasks:
    """Mixed into `Blocking`."""

    def _do(self, verb: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a verb on the loop and wait for it."""
        raise NotImplementedError

    def _tasks_of(self) -> TaskVerbs:
        raise NotImplementedError

    def task(
        self,
        function: Function,
        /,
        *args: Any,
        pool: str = DEFAULT,
        timeout: float | None = None,
        wait: bool = False,
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """What `function` returns in a process of `pool`; see `TaskVerbs.task`."""
        return self._do(_result, self._tasks_of(), function, args, pool, timeout, wait, kwargs)

    def start_task(
        self,
        function: Function,
        /,
        *args: Any,
        pool: str = DEFAULT,
        timeout: float | None = None,
        wait: bool = False,
        kwargs: dict[str, Any] | None = None,
    ) -> bool:
        """Fire and forget; False when the queue is full."""
        start = self._tasks_of().start_task
        return self._do(start, function, *args, pool=pool, timeout=timeout, wait=wait, kwargs=kwargs)  # type: ignore[no-any-return]

    def stream(
        self,
        function: Function,
        items: Source,
        *,
        max_concurrency: int | None = None,
        ordered: bool = True,
        timeout: float | None = 5.0,
        on_timeout: Literal["exit", "kill_task"] = "exit",
        zip_input_on_exit: bool = False,
        nolink: bool = False,
        pool: str = DEFAULT,
    ) -> Iterator[Outcome]:
        """`for outcome in node.stream(parse, paths):`; see `TaskVerbs.stream`. To leave early ends what is out."""
        stream: Stream = self._do(
            self._tasks_of().stream, function, items, max_concurrency=max_concurrency, ordered=ordered, timeout=timeout,
            on_timeout=on_timeout, zip_input_on_exit=zip_input_on_exit, nolink=nolink, pool=pool,
        )  # fmt: skip
        return self._each(stream)

    def _each(self, stream: Stream) -> Iterator[Outcome]:
        try:
            while True:
                outcome = self._do(_next, stream)
                if outcome is None:
                    return
                yield outcome
        finally:
            self._do(stream.aclose)


async def _result(
    verbs: TaskVerbs, function: Function, args: Any, pool: str, timeout: float | None, wait: bool, kwargs: Any
) -> Any:
    return await verbs.task(function, *args, pool=pool, timeout=timeout, wait=wait, kwargs=kwargs)


async def _next(stream: Stream) -> Outcome | None:
    return await anext(stream, None)
