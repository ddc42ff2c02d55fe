"""Admission: which streams take part in a step. Memory for all streams is checked before any window is changed.

A stream that does not fit is refused. The other streams compute the same results as without it. Streams that have a window
take precedence over new ones. When pages run short, idle streams lose their windows first, least recently answered first. A
stream that lost its window starts again at an anchor frame: until then its frames hold only what changed since pictures that
the model no longer sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from codecflow.errors import ConfigError
from codecflow.vlm.answers import Request, compile_question
from codecflow.vlm.families.base import Family
from codecflow.vlm.kv_pool import KVPool
from codecflow.vlm.moves import Moves, Prefix
from codecflow.vlm.refresh import Refresh
from codecflow.vlm.scheduler import Task, failure_of
from codecflow.vlm.window import HeldFrame, StreamWindow, pages_of
from codecflow.vlm.work import Failure

_REMEMBERED = 100_000
"""Maximum number of lost streams to remember. Streams that never return are forgotten."""


class Admission:
    """Opens, slides and closes windows. `windows`: of all streams that hold pages. `lost`: streams whose window is gone and
    that start again at an anchor frame. `limit`: the first position that may not be used. `idle_after_s`: a stream that was
    not part of a step for this many seconds may lose its window to others. `background`: tokens outlive their frames."""

    def __init__(
        self,
        family: Family,
        pool: KVPool,
        prefix: Prefix,
        refresh: Refresh,
        limit: int,
        idle_after_s: float,
        clock: Callable[[], float],
        *,
        background: bool,
    ) -> None:
        self.family, self.pool, self.prefix, self.refresh, self.background = family, pool, prefix, refresh, background
        self.limit, self.idle_after_s, self.clock = limit, idle_after_s, clock
        self.windows: dict[str, StreamWindow] = {}
        self.lost: dict[str, None] = {}  # oldest first

    def drop(self, stream: str) -> None:
        """Releases everything that a stream holds. On its return it starts at an anchor frame."""
        window = self.windows.pop(stream, None)
        if window is not None:
            window.release()
            self._lose(stream)

    def refuse(self, task: Task, failure: Failure) -> None:
        """Removes a stream from the step and releases its window."""
        task.error = failure
        self.drop(task.work.stream)
        self._lose(task.work.stream)

    def _lose(self, stream: str) -> None:
        self.lost.pop(stream, None)
        self.lost[stream] = None
        if len(self.lost) > _REMEMBERED:
            del self.lost[next(iter(self.lost))]

    def admit(self, tasks: Sequence[Task]) -> None:
        """Slides the window of every planned stream that fits; the tasks of the others carry an error."""
        planned = [task for task in tasks if task.error is None]
        planned.sort(key=lambda task: not task.held.pages)  # those with a window first, otherwise in the given order
        busy = {task.work.stream for task in tasks}
        admitted: list[Task] = []
        growth = headroom = 0  # pages that windows gain; additional free pages for the largest question
        for task in planned:
            assert task.plan is not None
            more = task.plan.pages - len(task.held.pages)
            if not self._room(growth + more + headroom, busy):
                self.refuse(task, self._no_room(task))
                continue
            growth += more
            admitted.append(task)
            for request in task.pending:
                needed = self._tail(task.plan.slots, request.reserve)
                if needed > headroom and not self._room(growth + needed, busy):
                    request.error = Failure("no-room", self._too_long(request))
                else:
                    headroom = max(headroom, needed)
        moves = Moves(self.pool, self.prefix, self.family.inv_freq)
        for task in sorted(admitted, key=self._growth):  # those that return pages first
            self._move(task, moves)
        moves.apply()

    def _growth(self, task: Task) -> int:
        assert task.plan is not None
        return task.plan.pages - len(task.held.pages)

    def draft(self, task: Task) -> None:
        """Prepares a task's window and new frames, or sets its error. Nothing that is held changes."""
        self._guard(task, self._draft)

    def plan(self, task: Task) -> None:
        """Prepares the move of a drafted task's window, and its questions, or sets its error. Nothing that is held
        changes."""
        self._guard(task, self._plan)

    def _guard(self, task: Task, prepare: Callable[[Task], None]) -> None:
        try:
            prepare(task)
        except Exception as error:  # noqa: BLE001  # any error in one stream's frames
            self.refuse(task, failure_of(error))

    def _draft(self, task: Task) -> None:
        work = task.work
        frames = [frame for frame in work.frames if frame.index >= work.first]
        window = self.windows.get(work.stream)
        if window is None:
            since = 0
            if work.stream in self.lost:
                whole = [number for number, frame in enumerate(frames) if frame.anchor or frame.keep.all()]
                if not whole:
                    task.error = Failure("restarting", "its window was lost; it starts again at the next anchor frame")
                    return
                frames = frames[whole[0] :]
                since = frames[0].index
            window = StreamWindow(
                work.stream, self.family, self.prefix, self.pool, since, keeps_background=self.background
            )
        task.window = window
        task.new = [HeldFrame.of(self.family, frame) for frame in frames]

    def _plan(self, task: Task) -> None:
        work, window = task.work, task.held
        task.plan = plan = window.plan(work.first, task.new, from_scratch=self.refresh.name == "all")
        if plan.position - plan.turn > self.limit:
            reason = f"its window spans {plan.position - plan.turn} positions, but the model takes {self.limit}"
            self.refuse(task, Failure("no-room", f"{reason}: use a shorter window or fewer frames per second"))
            return
        for question in work.questions:
            request = Request(question, window)
            task.requests.append(request)
            try:
                compile_question(self.family, request)
            except ConfigError as error:
                request.error = Failure("question", str(error))
            except Exception as error:  # noqa: BLE001  # any error in one question
                request.error = failure_of(error)
            else:
                if plan.position - plan.turn + request.span > self.limit:
                    request.error = Failure("question", self._too_far(request, plan.position - plan.turn))

    def _move(self, task: Task, moves: Moves) -> None:
        window, plan = task.held, task.plan
        assert plan is not None
        from_scratch = self.refresh.name == "all"
        reach = plan.position + max((request.span for request in task.pending), default=0)
        self.windows[task.work.stream] = window
        self.lost.pop(task.work.stream, None)
        window.slide(plan, task.new, moves, from_scratch=from_scratch, rebase=reach > self.limit)
        window.answered_s = self.clock()
        if plan.moved and not from_scratch:
            task.overlap = [frame for frame in plan.stays if frame.tokens and not frame.fresh]

    def _room(self, pages: int, busy: set[str]) -> bool:
        """Whether this many pages are available, counting those of idle streams."""
        while pages > self.pool.free:
            now = self.clock()
            idle = [
                window
                for window in self.windows.values()
                if window.stream not in busy and now - window.answered_s >= self.idle_after_s
            ]
            if not idle:
                return False
            self.drop(min(idle, key=lambda window: window.answered_s).stream)
        return True

    def _tail(self, slots: int, tokens: int) -> int:
        """Pages needed for `tokens` after a window of `slots`, in addition to the window's own pages."""
        return pages_of(0, slots + tokens) - pages_of(0, slots)

    def rounds(self, tasks: Sequence[Task]) -> list[list[Request]]:
        """Splits the questions into rounds that each fit in the free pages. Every round uses the same slots."""
        waiting = [(task.held, request) for task in tasks if task.error is None for request in task.pending]
        rounds = []
        while waiting:
            taken: list[Request] = []
            later: list[tuple[StreamWindow, Request]] = []
            tails: dict[str, int] = {}
            free = self.pool.free
            for window, request in waiting:
                tail = tails.get(window.stream, 0)
                more = self._tail(window.slots, tail + request.reserve) - self._tail(window.slots, tail)
                if more > free:
                    later.append((window, request))
                    continue
                free -= more
                request.slot = window.slots + tail
                tails[window.stream] = tail + request.reserve
                taken.append(request)
            assert taken, "no room for one question, which admission had checked"
            rounds.append(taken)
            waiting = later
        return rounds

    def reserve(self, requests: Sequence[Request]) -> None:
        """Allocates room for the questions of a round."""
        ends: dict[str, int] = {}
        for one in requests:
            ends[one.window.stream] = one.slot + one.reserve - one.window.slots
        for stream, tokens in ends.items():
            self.windows[stream].reserve(tokens)

    def check_integrity(self) -> None:
        """Checks every window's bookkeeping and that pages are conserved."""
        for window in self.windows.values():
            window.check_integrity()
        self.pool.check_integrity([window.pages for window in self.windows.values()])

    def _no_room(self, task: Task) -> Failure:
        assert task.plan is not None
        size = self.pool.page_bytes / 2**20
        return Failure(
            "no-room",
            f"its window needs {task.plan.pages * size:,.1f} MiB of keys and values, {self.pool.free * size:,.1f} of"
            f" {self.pool.pages * size:,.1f} MiB are free; give the worker more memory or fewer streams",
        )

    def _too_long(self, request: Request) -> str:
        size = self.pool.page_bytes / 2**20
        needed = pages_of(0, request.reserve) * size
        return (
            f"question and answer take {needed:,.1f} MiB of keys and values, {self.pool.free * size:,.1f} MiB are free"
        )

    def _too_far(self, request: Request, window: int) -> str:
        return (
            f"question {request.question.id!r}: with its answer it takes {request.span} positions beyond the window's"
            f" {window}, but the model has {self.limit}: use a shorter question or window"
        )
