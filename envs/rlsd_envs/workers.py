"""The backend ``subproc``: every environment in a process of its own, and a clear error when one fails."""

from __future__ import annotations

import atexit
import faulthandler
import multiprocessing as mp
import os
import signal
import tempfile
import time
import traceback
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from numpy.typing import NDArray
from stable_baselines3.common.vec_env import SubprocVecEnv
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper, VecEnv
from stable_baselines3.common.vec_env.subproc_vec_env import _worker

from rlsd_envs.actions import ActionCheck
from rlsd_envs.backend import Backend
from rlsd_envs.errors import EnvironmentTimeout, EnvironmentWorkerError
from rlsd_envs.lifeline import end_group, guard, leave_signals_to_the_main_process, sheltered

_GRACE_SECONDS = 5.0  # for a worker to close its environment before it is killed
_START_SECONDS = 120.0  # at least, for a worker's first answer: a fresh process imports its packages first


@dataclass(frozen=True)
class _Failure:
    """What a worker sends instead of an answer when its environment raised."""

    error: str
    traceback: str


def _guarded_worker(remote: Any, parent_remote: Any, env_fn: CloudpickleWrapper, stack_file: str) -> None:
    """Run SB3's worker, and send home what it raises."""
    leave_signals_to_the_main_process()
    with Path(stack_file).open("w", encoding="utf-8") as stack:
        if hasattr(faulthandler, "register"):  # not on Windows
            faulthandler.register(signal.SIGUSR1, file=stack, all_threads=False)
        try:
            _worker(remote, parent_remote, env_fn)
        except BaseException as error:
            with suppress(OSError):  # nobody listens any more
                remote.send(_Failure(repr(error), traceback.format_exc()))


class _Remote:
    """The parent's end of a worker's pipe: raises where SB3's would block for ever or say only ``EOFError``."""

    def __init__(self, connection: Any, process: Any, index: int, timeout: float | None, stack_file: Path) -> None:
        self.connection = connection
        self.process = process
        self.index = index
        self.timeout = timeout
        self.stack_file = stack_file
        self.command = ""
        self.last_action: Any = None
        self.failed = False

    def send(self, message: tuple[str, Any]) -> None:
        self.command = message[0]
        if self.command == "step":
            self.last_action = message[1]
        try:
            self.connection.send(message)
        except OSError:
            self._raise_dead()

    def recv(self) -> Any:
        try:
            limit = self._limit()
            if limit is not None and not self.connection.poll(limit):
                raise self._error(EnvironmentTimeout, f"did not answer within {limit:g} s", self._stack())
            answer = self.connection.recv()
        except (EOFError, OSError):
            self._raise_dead()
        self._raise_failure(answer)
        return answer

    def close(self) -> None:
        self.connection.close()

    def _raise_failure(self, answer: Any) -> None:
        if isinstance(answer, _Failure):
            raise self._error(EnvironmentWorkerError, f"raised {answer.error}", answer.traceback)

    def _raise_dead(self) -> NoReturn:
        self.process.join(_GRACE_SECONDS)
        answer: Any = None
        with suppress(EOFError, OSError):
            # What it was asked came too late, but it said what it died of.
            if self.connection.poll():
                answer = self.connection.recv()
        self._raise_failure(answer)
        raise self._error(EnvironmentWorkerError, f"died with exit code {self.process.exitcode}", "")

    def _limit(self) -> float | None:
        if self.timeout is None or self.command != "get_spaces":
            return self.timeout
        return max(self.timeout, _START_SECONDS)

    def _error(self, cls: type[EnvironmentWorkerError], what: str, details: str) -> EnvironmentWorkerError:
        self.failed = True
        doing = "while it was made" if self.command == "get_spaces" else f"in {self.command}"
        action = "it had no action yet" if self.last_action is None else f"its last action was {self.last_action}"
        message = f"Environment {self.index} {what} {doing}; {action}."
        return cls(f"{message}\n{details}".rstrip(), self.index, self.last_action)

    def _stack(self) -> str:
        """Return where a hanging worker is, as far as it can still say."""
        if not hasattr(faulthandler, "register") or self.process.pid is None:
            return ""
        with suppress(OSError):
            os.kill(self.process.pid, signal.SIGUSR1)
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            text = self.stack_file.read_text(encoding="utf-8") if self.stack_file.exists() else ""
            if text.endswith("\n"):
                return f"It is here:\n{text}"
            time.sleep(0.02)
        return ""


_OPEN: weakref.WeakSet[WorkerVecEnv] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """End the workers that nobody closed. Before ``multiprocessing`` would: it asks by a signal, and waits for ever."""
    for env in list(_OPEN):
        env.close()


class WorkerVecEnv(Backend, SubprocVecEnv):
    """SB3's ``SubprocVecEnv`` that names the environment that failed, its last action and its traceback.

    After a failure ``close`` still ends every process, with whatever its environment started. Workers answer no signal:
    where a whole group is sent one, the main process can finish what it does. They end with it, however it ends.

    :param env_fns: functions that each return one environment; they are sent to the workers with cloudpickle
    :param start_method: of ``multiprocessing``; None takes forkserver where there is one, else spawn, as SB3 does
    :param timeout: seconds that an environment may take for one answer (to be made, a reset, a step) before it is held
        to hang; None waits for ever. The default leaves room for environments that start a simulator.
    :raises EnvironmentWorkerError: an environment raised, or its process died
    :raises EnvironmentTimeout: an environment did not answer in time
    """

    backend = "subproc"

    def __init__(self, env_fns: list[Any], start_method: str | None = None, timeout: float | None = 600.0) -> None:
        self.waiting = False
        self.closed = False
        self.processes: list[Any] = []
        self.remotes: tuple[_Remote, ...] = ()
        self._stacks = tempfile.TemporaryDirectory(prefix="rlsd_envs_", ignore_cleanup_errors=True)
        if start_method is None:
            start_method = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
        context: Any = mp.get_context(start_method)
        if start_method == "forkserver":
            # The server imports SB3 once, instead of every worker for itself. It keeps what it has if it runs already.
            context.set_forkserver_preload(["__main__", __name__])
        _OPEN.add(self)
        try:
            for index, env_fn in enumerate(env_fns):
                self._start(context, index, env_fn, timeout)
            # All are asked, so that one that cannot be made is found here and not at the first reset.
            remotes: list[_Remote] = list(self.remotes)
            for remote in remotes:
                remote.send(("get_spaces", None))
            answers = [remote.recv() for remote in remotes]
            VecEnv.__init__(self, len(env_fns), *answers[0])
        except BaseException:
            self.close()
            raise
        self._check_actions = ActionCheck(self.action_space, self.num_envs)

    def _start(self, context: Any, index: int, env_fn: Any, timeout: float | None) -> None:
        ours, theirs = context.Pipe()
        stack_file = Path(self._stacks.name) / str(index)
        arguments = (theirs, ours, CloudpickleWrapper(env_fn), str(stack_file))
        # daemon: if this process crashes, the workers must not stay
        process = context.Process(target=_guarded_worker, args=arguments, daemon=True)
        with sheltered():
            process.start()
        guard(process.pid)
        theirs.close()
        self.processes.append(process)
        self.remotes = (*self.remotes, _Remote(ours, process, index, timeout, stack_file))

    def step_async(self, actions: NDArray[Any]) -> None:
        """Send the actions ``(n_envs, *action_shape)`` to the workers.

        :raises InvalidAction: see :class:`rlsd_envs.actions.ActionCheck`
        """
        self._check_actions(actions)
        super().step_async(actions)

    def close(self) -> None:
        """End every worker: by asking, and after a few seconds by force. May be called again."""
        if self.closed:
            return
        self.closed = True
        remotes: list[_Remote] = list(self.remotes)
        for remote in remotes:
            with suppress(EnvironmentWorkerError):
                remote.send(("close", None))
            # A worker that is still sending an answer that nobody will read must not wait for us.
            remote.close()
        deadline = time.monotonic() + _GRACE_SECONDS
        hung = {remote.index for remote in remotes if remote.failed and remote.process.is_alive()}
        for index, process in enumerate(self.processes):
            process.join(0.1 if index in hung else max(0.0, deadline - time.monotonic()))
            leader = process.pid
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
            end_group(leader, max(0.0, deadline - time.monotonic()))
        self._stacks.cleanup()
