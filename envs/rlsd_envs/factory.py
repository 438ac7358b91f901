"""``make_vec_env``: one door to every way of running several environments at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.vec_env import VecEnv

from rlsd_envs.adapter import VectorEnvAdapter
from rlsd_envs.autoreset import AnyVectorEnv
from rlsd_envs.backend import BACKENDS
from rlsd_envs.errors import BackendNotInstalled, UnsupportedByBackend
from rlsd_envs.local import LocalVecEnv
from rlsd_envs.registry import EnvId, find_spec
from rlsd_envs.scoring import AleScoring, EnvPoolAtariScoring, Scoring
from rlsd_envs.single import AnyEnv, SingleEnv, Wrapper
from rlsd_envs.statistics import EpisodeStatistics
from rlsd_envs.vectorised import has_exact_twin, make_gymnasium
from rlsd_envs.workers import WorkerVecEnv

# A vectorised step of CartPole costs about as much as five steps of single environments, however many it makes.
_MIN_VECTORISED = 6

BackendVecEnv = LocalVecEnv | WorkerVecEnv | VectorEnvAdapter


@dataclass(frozen=True)
class _Request:
    """What the user asked for, checked."""

    id: EnvId
    n_envs: int
    seeds: list[int | None]
    env_kwargs: dict[str, Any]
    wrappers: tuple[Wrapper, ...]
    monitor_dir: Path | None
    vec_env_kwargs: dict[str, Any]

    @property
    def name(self) -> str:
        return self.id if isinstance(self.id, str) else getattr(self.id, "__name__", repr(self.id))

    def source(self) -> EnvSpec | Callable[..., AnyEnv]:
        return find_spec(self.id) if isinstance(self.id, str) else self.id

    def spec(self, backend: str) -> EnvSpec:
        source = self.source()
        if not isinstance(source, EnvSpec):
            raise UnsupportedByBackend(f"backend={backend!r} needs a registered id, not {self.name}; use 'dummy'.")
        return source


def make_vec_env(
    id: EnvId,
    n_envs: int = 1,
    backend: str = "auto",
    seed: int | Sequence[int] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Wrapper | Sequence[Wrapper] | None = None,
    monitor_dir: str | Path | None = None,
    vec_env_kwargs: Mapping[str, Any] | None = None,
    step_infos: bool | None = None,
) -> VecEnv:
    """Make several environments that SB3 can train on.

    What comes back is monitored, keeps SB3's contract whatever runs the environments, and says in its attributes
    ``backend`` and ``backend_reason``, or with ``describe_backend()``, which backend that is and why. For example::

        env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
        PPO("MlpPolicy", env).learn(50_000)

    =============  =====================================================================================
    backend        runs
    =============  =====================================================================================
    ``auto``       the fastest one known to run exactly the environment that ``gymnasium.make`` makes
    ``dummy``      single environments, one after the other
    ``subproc``    single environments, each in a process of its own: for slow ones
    ``gymnasium``  the environment's own vectorised version, else Gymnasium's loop over single ones
    ``envpool``    EnvPool's compiled version, which may differ in detail: ``describe_backend()`` says so
    ``ale``        ale-py's compiled Atari, with the usual preprocessing and 4 pictures in a stack
    =============  =====================================================================================

    :param id: a registered id such as ``"CartPole-v1"``, ``"my_module:My-v0"`` to import a module first, or a class or
        function that returns an environment; for ``envpool`` one of EnvPool's own ids
    :param n_envs: number of environments, at least 1
    :param backend: one of the above
    :param seed: environment ``i`` gets ``seed + i``, as in SB3; or one seed for each; None draws them from NumPy's
        global generator, as SB3 does
    :param env_kwargs: settings of the environment, the same for all
    :param wrappers: put around each single, monitored environment, the first one innermost; only for ``dummy`` and
        ``subproc``
    :param monitor_dir: a folder for ``*.monitor.csv``, as SB3's ``Monitor`` writes them: one for each environment with
        ``dummy`` and ``subproc``, one for all with the others
    :param vec_env_kwargs: settings of the backend: ``start_method`` and ``timeout`` (seconds) of ``subproc``,
        ``num_threads`` of ``envpool`` and ``ale``
    :param step_infos: for ``gymnasium``, ``envpool`` and ``ale``: hand out what the environments say at every step, or
        only at the end of an episode. By default at every step with ``gymnasium``, at the end with the compiled ones,
        where it would cost more than the step itself.
    :raises UnknownEnvironment: no such id; the message has the nearest ones
    :raises UnsupportedByBackend: the backend cannot run this environment, or not with these settings
    :raises BackendNotInstalled: the backend's package is missing
    :raises ValueError: an unknown backend, or not one seed for each environment
    """
    if backend not in BACKENDS:
        raise ValueError(f"Unknown backend {backend!r}; there are {', '.join(BACKENDS)}.")
    request = _Request(
        id,
        _checked_count(n_envs),
        _seeds(seed, n_envs),
        dict(env_kwargs or {}),
        (wrappers,) if callable(wrappers) else tuple(wrappers or ()),
        None if monitor_dir is None else Path(monitor_dir),
        dict(vec_env_kwargs or {}),
    )
    reason = "as asked"
    if backend == "auto":
        if request.vec_env_kwargs:
            raise ValueError(f"vec_env_kwargs={request.vec_env_kwargs} are settings of one backend: name the backend.")
        backend, reason = _choose(request)
    if request.monitor_dir is not None:
        request.monitor_dir.mkdir(parents=True, exist_ok=True)
    env = _BUILDERS[backend](request, step_infos)
    env.backend = backend
    env.backend_reason = f"{reason}; {env.backend_reason}" if env.backend_reason else reason
    _seed(env, request, seed)
    return env


def _choose(request: _Request) -> tuple[str, str]:
    """Return the fastest backend that is sure not to change the task, and why."""
    source = request.source()
    if not isinstance(source, EnvSpec):
        return "dummy", "chosen because it was given as a function, not as a registered id"
    if request.wrappers:
        return "dummy", "chosen because wrappers go around single environments"
    if not has_exact_twin(source, request.env_kwargs):
        return "dummy", f"chosen because no faster backend is known to run exactly {source.id}"
    if request.n_envs < _MIN_VECTORISED:
        return "dummy", f"chosen because it is the faster one for fewer than {_MIN_VECTORISED} environments"
    return "gymnasium", "chosen as the fastest that runs the same environment"


def _make_single(request: _Request, cls: type[LocalVecEnv] | type[WorkerVecEnv]) -> BackendVecEnv:
    source = request.source()
    folder = request.monitor_dir
    env_fns = [
        SingleEnv(source, request.env_kwargs, request.wrappers, seed, None if folder is None else folder / str(index))
        for index, seed in enumerate(request.seeds)
    ]
    return cls(env_fns, **request.vec_env_kwargs)


def _make_dummy(request: _Request, step_infos: bool | None) -> BackendVecEnv:
    _refuse_settings(request, "dummy")
    return _make_single(request, LocalVecEnv)


def _make_subproc(request: _Request, step_infos: bool | None) -> BackendVecEnv:
    return _make_single(request, WorkerVecEnv)


def _make_gymnasium(request: _Request, step_infos: bool | None) -> BackendVecEnv:
    _refuse_wrappers(request, "gymnasium")
    _refuse_settings(request, "gymnasium")
    env, reason = make_gymnasium(request.source(), request.n_envs, request.env_kwargs)
    return _adapt(request, env, Scoring(), step_infos is not False, reason)


def _make_ale(request: _Request, step_infos: bool | None) -> BackendVecEnv:
    _refuse_wrappers(request, "ale")
    try:
        from rlsd_envs.ale import make_ale
    except ModuleNotFoundError as error:
        raise _not_installed("ale", "ale-py", error) from error
    spec = request.spec("ale")
    settings = dict(request.env_kwargs)
    clip = bool(settings.pop("reward_clipping", True))
    env = make_ale(spec, request.n_envs, settings, request.vec_env_kwargs)
    return _adapt(request, env, AleScoring(clip), bool(step_infos), "84x84 grey pictures, 4 in a stack")


def _make_envpool(request: _Request, step_infos: bool | None) -> BackendVecEnv:
    _refuse_wrappers(request, "envpool")
    try:
        from rlsd_envs.pool import Pool, adopt_gymnasium_spaces
    except ModuleNotFoundError as error:
        raise _not_installed("envpool", "envpool", error) from error
    if not isinstance(request.id, str):
        raise UnsupportedByBackend(f"backend='envpool' needs one of EnvPool's ids, not {request.name}; use 'dummy'.")
    env = Pool(request.id, request.n_envs, {**request.env_kwargs, **request.vec_env_kwargs})
    scoring = EnvPoolAtariScoring() if env.is_atari else Scoring()
    return _adapt(request, env, scoring, bool(step_infos), adopt_gymnasium_spaces(env))


_BUILDERS: dict[str, Callable[[_Request, bool | None], BackendVecEnv]] = {
    "dummy": _make_dummy,
    "subproc": _make_subproc,
    "gymnasium": _make_gymnasium,
    "envpool": _make_envpool,
    "ale": _make_ale,
}


def _adapt(request: _Request, env: AnyVectorEnv, scoring: Scoring, step_infos: bool, reason: str) -> VectorEnvAdapter:
    file = None if request.monitor_dir is None else request.monitor_dir / "0"
    statistics = EpisodeStatistics(request.n_envs, file, request.name)
    adapter = VectorEnvAdapter(env, scoring, statistics, step_infos)
    adapter.backend_reason = reason
    if request.seeds[0] is not None:
        adapter.action_space.seed(request.seeds[0])
    return adapter


def _refuse_wrappers(request: _Request, backend: str) -> None:
    if request.wrappers:
        message = f"backend={backend!r} steps all environments at once, and cannot put wrappers around single ones"
        raise UnsupportedByBackend(f"{message}; use backend='dummy' or 'subproc'.")


def _refuse_settings(request: _Request, backend: str) -> None:
    if request.vec_env_kwargs:
        raise UnsupportedByBackend(f"backend={backend!r} has no settings; given were {sorted(request.vec_env_kwargs)}.")


def _not_installed(backend: str, package: str, error: ModuleNotFoundError) -> BackendNotInstalled:
    return BackendNotInstalled(f"backend={backend!r} needs {package} ({error}): pip install 'rlsd[fast]'.")


def _checked_count(n_envs: int) -> int:
    if n_envs < 1:
        raise ValueError(f"n_envs={n_envs}; at least one environment is needed.")
    return n_envs


def _seeds(seed: int | Sequence[int] | None, n_envs: int) -> list[int | None]:
    if seed is None:
        return [None] * n_envs
    if isinstance(seed, int | np.integer):
        return [int(seed) + index for index in range(n_envs)]
    if len(seed) != n_envs:
        raise ValueError(f"{len(seed)} seeds given for {n_envs} environments; give one for each, or a single number.")
    return list(seed)


def _seed(env: VecEnv, request: _Request, seed: int | Sequence[int] | None) -> None:
    """Set the seeds of the first reset; ``VecEnv.seed`` knows only a number to count up from."""
    if seed is None:
        env.seed()
    else:
        env._seeds = list(request.seeds)
