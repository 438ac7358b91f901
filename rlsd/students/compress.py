"""A smaller agent that does what a trained one does, for deployment."""

from __future__ import annotations

import copy
import io
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import get_obs_shape, is_image_space
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, VecTransposeImage

from rlsd import environment_state
from rlsd.actors import Actor, MaskedActorCritic, examined
from rlsd.actors.on_policy import RecurrentActorCritic
from rlsd.config import checked_integer, checked_number
from rlsd.divergences import KL
from rlsd.observations import as_items, with_context
from rlsd.rng import own_generator, private_numbers
from rlsd.sources import ReplaySource
from rlsd.states import Reservoir, StateStore
from rlsd.students.collection import DaggerCollector, shaped
from rlsd.students.course import Course
from rlsd.students.imitation_loss import Demonstrator, ImitationLoss
from rlsd.wrapping import plain

#: Sets the random stream apart from every other that is made from the same seed ("comp" in ASCII).
_STREAM = 0x636F6D70
#: States gathered when none are given or stored; states kept at most; stored states that are enough to do without.
_GATHERED, _KEPT, _ENOUGH = 50_000, 200_000, 5_000
#: What training has made of an agent besides its weights: a new agent begins without.
_HISTORY: dict[str, Any] = {
    "num_timesteps": 0,
    "_num_timesteps_at_start": 0,
    "_current_progress_remaining": 1.0,
    "_n_updates": 0,
    "_episode_num": 0,
    "_n_calls": 0,
    "_last_obs": None,
    "_last_episode_starts": None,
    "_last_original_obs": None,
    "ep_info_buffer": None,
    "ep_success_buffer": None,
}


def compress(
    agent: BaseAlgorithm,
    policy_kwargs: Mapping[str, Any],
    states: Any = None,
    steps: int = 20_000,
    learning_rate: float = 1e-3,
    batch_size: int = 256,
    value_weight: float = 0.5,
    rounds: int = 5,
    seed: int = 0,
    env: Any = None,
) -> Any:
    """Return a new plain SB3 agent of the same algorithm whose smaller policy does what a trained agent does.

    Policies are compared by the KL of their action distributions, critics by the squared error of their values, as in
    :class:`Reborn`. The agent stays as it is. The new one can be saved, loaded by plain SB3, and trained on with the
    agent's hyperparameters; its counters start at 0.

    :param agent: the teacher, distilled or plain; not a RecurrentPPO.
    :param policy_kwargs: what differs from the agent's own, such as ``{"net_arch": [16]}``.
    :param states: raw observations to learn on, ``(n, *shape)``, by key where the space is a Dict, images with their
        channels first or last; where the agent takes masks, all actions count as allowed. Or how many to gather in the
        environment. By default those that the agent's distiller or replay buffer holds where these are 5,000, else
        50,000 are gathered. Gathered states are labelled by the teacher: first the teacher acts, then in turns with
        learning the student, so that where its own mistakes lead is covered too (DAgger, Ross et al. 2011).
    :param steps: gradient steps in all. Usual range 5,000 to 100,000.
    :param learning_rate: of Adam, falling to 0. Usual range 3e-4 to 3e-3.
    :param batch_size: states at one gradient step. Usual range 64 to 1024.
    :param value_weight: weight of the critic's part; 0 leaves the new agent's critic untrained.
    :param rounds: in how many turns states are gathered; in the first the teacher acts. Usual range 2 to 10.
    :param seed: of the new weights and of all that is drawn; the global generators are left as they were.
    :param env: where to gather, and the new agent's environment; by default a copy of the agent's. With the agent's
        ``VecNormalize`` statistics around it if the agent has them and the environment has none.
    :raises TypeError: when the agent cannot be compressed.
    :raises ValueError: when a value is wrong, or states must be gathered and there is no environment for it.
    """
    if not isinstance(agent, BaseAlgorithm):
        raise TypeError(f"compress takes an SB3 agent, got {agent!r}: load one with its algorithm's load(...)")
    if not isinstance(policy_kwargs, Mapping):
        raise ValueError(f"policy_kwargs must be a mapping such as {{'net_arch': [16]}}, got {policy_kwargs!r}")
    counts = {"steps": steps, "batch_size": batch_size, "rounds": rounds}
    steps, batch_size, rounds = (checked_integer(name, value, low=1) for name, value in counts.items())
    checked_number("learning_rate", learning_rate, low_open=True)
    checked_number("value_weight", value_weight)
    actor = examined(agent)
    if isinstance(actor, RecurrentActorCritic):
        raise TypeError("a RecurrentPPO cannot be compressed: a student of another size remembers other things")
    generator = own_generator(seed, _STREAM)
    place, reason = place_of(agent, env)
    student = new_student(agent, dict(policy_kwargs), seed, place, generator)
    comparison = ImitationLoss(Demonstrator(agent, actor), KL(), value_weight, generator)
    store, missing = states_of(agent, actor, states, seed)
    if missing and place is None:
        raise ValueError(f"states must be gathered in the agent's environment, but {reason}: pass env=... or states")
    walk = DaggerCollector(place, actor, store) if missing and place is not None else None
    course = Course(student, comparison, store, generator, steps, learning_rate, batch_size, rounds)
    course.run(walk, agent, missing)
    learning(place, True)
    return student


def place_of(agent: BaseAlgorithm, env: Any) -> tuple[VecEnv | None, str]:
    """Return where to act, with statistics that stand still, or None and why there is no such place."""
    own = agent.get_env()
    if env is None:
        if own is None:
            return None, "it has none"
        try:
            place = environment_state.thaw(environment_state.freeze(own, to_reset=True))
        except ValueError as error:
            return None, f"{error}"
        for inner in getattr(place.unwrapped, "envs", ()):
            _close_monitors(inner)
    else:
        place = agent._wrap_env(env, verbose=0)
        statistics = agent.get_vec_normalize_env()
        if statistics is not None and not _normalizers(place):
            normalized = VecNormalize(place, norm_reward=statistics.norm_reward)
            for key in ("obs_rms", "ret_rms", "clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs"):
                setattr(normalized, key, copy.deepcopy(getattr(statistics, key)))
            place = normalized
    learning(place, False)
    return place, ""


def learning(place: VecEnv | None, on: bool) -> None:
    """Let the statistics of an environment move, or stand still."""
    for normalizer in _normalizers(place):
        normalizer.training = on


def _normalizers(env: Any) -> list[VecNormalize]:
    found = []
    while env is not None:
        found += [env] if isinstance(env, VecNormalize) else []
        env = getattr(env, "venv", None)
    return found


def _close_monitors(env: Any) -> None:
    """Keep a copy of an environment from writing to the files of the original."""
    while env is not None:
        if isinstance(env, Monitor) and env.results_writer is not None:
            env.results_writer.close()
            env.results_writer = None
        env = getattr(env, "env", None)


def new_student(
    agent: Any, policy_kwargs: dict[str, Any], seed: int, place: VecEnv | None, generator: np.random.Generator
) -> Any:
    """Return a new agent with the settings of another, but for its policy's.

    :raises ValueError: when no policy can be made with them.
    """
    algorithm: Any = plain(type(agent))
    zipped = io.BytesIO()
    algorithm.save(agent, zipped)
    zipped.seek(0)
    data, _, variables = load_from_zip_file(zipped, device=agent.device)
    assert data is not None
    data |= {key: value for key, value in _HISTORY.items() if key in data}
    data |= {"policy_kwargs": {**agent.policy_kwargs, **policy_kwargs}, "seed": seed}
    if place is not None:
        data["n_envs"] = place.num_envs
    with private_numbers(generator):
        student = algorithm(policy=data["policy_class"], env=place, device=agent.device, _init_setup_model=False)
        student.__dict__.update(data)
        try:
            student._setup_model()
        except Exception as error:  # all else is as it was when the agent itself was set up
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ValueError(
                f"no {data['policy_class'].__name__} can be made with policy_kwargs {policy_kwargs!r} ({reason}): "
                "give what it takes, such as {'net_arch': [16]}"
            ) from error
        if student.use_sde:
            student.policy.reset_noise()
    student.seed = agent.seed
    for name, value in (variables or {}).items():
        if name != "weights" and value is not None:  # ARS has its own from its policy
            getattr(student, name).data = value.data
    return student


def states_of(
    agent: Any, actor: Actor, states: Any, seed: int, beside: Mapping[str, np.ndarray] | None = None
) -> tuple[StateStore, int]:
    """Return the states to learn on, and how many must be gathered for that.

    :param beside: what is stored with given states, by keys that begin with ``"@"``.
    """
    distiller = getattr(agent, "distiller", None)
    stores = [member.states for member in (distiller.members.values() if distiller is not None else ())]
    store = max(stores, key=lambda store: store.at_hand, default=None)
    if states is None and store is not None and store.at_hand >= _ENOUGH:
        return store, 0
    store = Reservoir(capacity=_KEPT, batch_size=1).build(np.random.SeedSequence([seed, _STREAM]), agent)
    if states is None:
        buffer = getattr(agent, "replay_buffer", None)
        if buffer is None or buffer.size() * buffer.n_envs < _ENOUGH:
            return store, _GATHERED
        for states, _ in ReplaySource().new(agent):
            store.add(states)
        return store, 0
    if isinstance(states, numbers.Real):
        return store, checked_integer("states", states, low=1)
    given = _given(agent, states)
    if isinstance(actor, MaskedActorCritic):
        # Who does the same while all is allowed does so under any mask.
        n = len(next(iter(given.values())))
        given = with_context(given, {"@mask": np.ones((n, actor.family.size), dtype=np.uint8)})
    store.add(with_context(given, beside) if beside else given)
    if store.count == 0:
        raise ValueError("states must hold finite observations, and of those given none is")
    return store, 0


def _given(agent: BaseAlgorithm, states: Any) -> dict[str, np.ndarray]:
    """Return observations that the user gave, by key, in the shape that the agent's buffers give them.

    :raises ValueError: when they are not observations of the agent's.
    """
    space, by_key = agent.observation_space, isinstance(states, Mapping)
    parts, shapes = as_items(space), as_items(get_obs_shape(space))  # a Dict space is a mapping itself
    given = {key: np.asarray(value) for key, value in as_items(states).items()}
    if given.keys() != parts.keys():
        wanted = f"a dict of arrays by the keys {list(parts)}" if isinstance(space, spaces.Dict) else "one array"
        found = f"a dict by the keys {list(given)}" if by_key else f"a {type(states).__name__}"
        raise ValueError(f"states must be {wanted}, got {found}")
    for key, array in given.items():
        shape, own = shapes[key], array.shape[1:]
        if own != shape and own == (*shape[1:], *shape[:1]) and is_image_space(parts[key]):
            given[key] = VecTransposeImage.transpose_image(array)  # the environment has its channels last
        elif own not in (shape, parts[key].shape) or not array.ndim or array.dtype.kind not in "biuf":
            name = f"states[{key!r}]" if by_key else "states"
            wanted = ", ".join(["n", *map(str, shape)])
            raise ValueError(f"{name} must be numbers of shape ({wanted}), got {array.dtype} of shape {array.shape}")
    lengths = {key: len(array) for key, array in given.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"states must hold as many observations by each key, got {lengths}")
    return shaped(given, agent)
