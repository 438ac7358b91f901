"""The doors to distillation: built, wrapped, undone, copied, interrupted; and nothing left behind by any of it."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from agents import (
    ALGORITHMS,
    ALL_ALGORITHMS,
    ROLLOUT,
    Record,
    build,
    config,
    copied,
    differences,
    distillation_state,
    distilled,
    generators,
    make_env,
    patches,
    scramble,
    training_state,
    untouched_generators,
)
from stable_baselines3 import A2C, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import DummyVecEnv

import rlsd
from rlsd import environment_state
from rlsd.presets import DEFAULT, resolve

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS.keys())


class At(BaseCallback):
    """Does something at one step of training; says whether to go on."""

    def __init__(self, step: int, action: Callable[[Any], Any]) -> None:
        super().__init__()
        self.step, self.action = step, action

    def _on_step(self) -> bool:
        return self.action(self.model) is not False if self.n_calls == self.step else True


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


# --- Building -------------------------------------------------------------------------------------


def test_one_base_has_one_class() -> None:
    wrapped = rlsd.SelfDistilled(PPO)
    assert rlsd.SelfDistilled(PPO) is wrapped
    assert rlsd.SelfDistilled(wrapped) is wrapped
    assert rlsd.SelfDistilled(A2C) is not wrapped
    assert wrapped.__mro__[1] is PPO
    assert repr(wrapped) == "<class 'rlsd.wrapping.SelfDistilled(PPO)'>"


def _on_a_gpu(agent: Any) -> None:
    agent.device = torch.device("cuda")
    agent._maybe_recommend_cpu()


MESSAGES: dict[str, Callable[[Any], Any]] = {
    "a GPU": _on_a_gpu,
    "more environments": lambda agent: agent.set_env(make_env(n_envs=3)),
    "an unknown argument": lambda agent: type(agent)("MlpPolicy", None, nonsense=1),
    "a missing argument": lambda agent: type(agent)(),
}


@pytest.mark.parametrize("provoke", MESSAGES.values(), ids=MESSAGES.keys())
@every_algorithm
def test_sb3s_own_messages_read_as_those_of_the_plain_algorithm(
    algorithm: type[BaseAlgorithm], provoke: Callable[[Any], Any]
) -> None:
    said = []
    for agent in (build(algorithm), distilled(algorithm), rlsd.distill(build(algorithm)), build(_own(algorithm))):
        with pytest.raises((Warning, Exception)) as caught:
            provoke(agent)
        said.append(str(caught.value))
    assert algorithm.__name__ in said[0]
    assert said == [said[0]] * 4


def _own(algorithm: type[BaseAlgorithm]) -> type[Any]:
    return type(algorithm.__name__, (rlsd.SelfDistilled(algorithm),), {})


@pytest.mark.parametrize("name", ALL_ALGORITHMS)
def test_a_script_that_asks_for_the_name_of_the_class_gets_the_plain_ones(name: str) -> None:
    assert rlsd.SelfDistilled(ALL_ALGORITHMS[name]).__name__ == name


@pytest.mark.parametrize("base", [None, "PPO", dict, build])
def test_only_an_sb3_algorithm_can_be_wrapped(base: Any) -> None:
    with pytest.raises(TypeError, match="takes an SB3 algorithm class"):
        rlsd.SelfDistilled(base)


def test_only_an_agent_can_be_distilled() -> None:
    with pytest.raises(TypeError, match="takes an SB3 agent"):
        rlsd.distill(PPO)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="see undistill"):
        rlsd.distill(build(PPO), None)


@pytest.mark.parametrize("distill", ["snapshto", {"teachr": "snapshot"}, {"teacher": {"every": -1}}, 3])
def test_a_wrong_config_leaves_an_agent_as_it_was(distill: Any) -> None:
    agent = build(PPO)
    before = dict(vars(agent))
    with pytest.raises(ValueError, match=r"snapshto|teachr|teacher\.every|got 3"):
        rlsd.distill(agent, distill)
    with pytest.raises(ValueError, match=r"snapshto|teachr|teacher\.every|got 3"):
        build(rlsd.SelfDistilled(PPO), distill=distill)
    assert type(agent) is PPO
    assert vars(agent) == before


@pytest.mark.parametrize("distill", ["snapshot", True, {"teacher": {"every": 5}}, config()])
def test_whatever_says_what_is_wanted_is_taken(distill: Any) -> None:
    agent = build(rlsd.SelfDistilled(PPO), distill=distill)
    assert rlsd.distill(build(PPO), distill).distiller.config == agent.distiller.config


def test_the_default_is_to_distil() -> None:
    assert build(rlsd.SelfDistilled(PPO)).distiller.config == resolve(DEFAULT)


@pytest.mark.parametrize("algorithm", [PPO])  # the others' doors are the contract's
def test_all_doors_lead_to_the_same_training(algorithm: type[BaseAlgorithm]) -> None:
    built = distilled(algorithm).learn(4 * ROLLOUT)
    expected = copied((training_state(built), distillation_state(built)))
    wrapped = rlsd.distill(build(algorithm), config()).learn(4 * ROLLOUT)
    assert not differences(expected, (training_state(wrapped), distillation_state(wrapped)))
    called = build(algorithm)
    called.learn(4 * ROLLOUT, callback=rlsd.SelfDistillation(config()))
    assert not differences(expected, (training_state(called), distillation_state(called)))


def test_a_users_own_subclass_with_several_bases_is_distilled() -> None:
    class Counts:
        def counted(self) -> int:
            return self._n_updates  # type: ignore[attr-defined, no-any-return]

    class Mine(Counts, PPO):
        def train(self) -> None:
            self.trained = getattr(self, "trained", 0) + 1
            super().train()

    agent = distilled(Mine).learn(3 * ROLLOUT)
    assert agent.trained == 3
    assert agent.counted() == 6
    assert agent.distiller.deposits > 0
    plain = rlsd.undistill(agent)
    assert type(plain) is Mine
    rlsd.distill(plain, config()).learn(3 * ROLLOUT)
    assert plain.distiller.deposits > 0


class Own(rlsd.SelfDistilled(PPO)):  # type: ignore[misc]
    """A user's subclass of the class to build from, where a copy can import it."""

    def train(self) -> None:
        self.trained = getattr(self, "trained", 0) + 1
        super().train()


@pytest.mark.filterwarnings("ignore:distill starts over")
@pytest.mark.parametrize("speed", ["exact", None])
def test_a_subclass_of_the_wrapped_class_is_wrapped_once(speed: str | None) -> None:
    assert rlsd.SelfDistilled(Own) is Own
    agent = build(Own, distill=config(), speed=speed).learn(3 * ROLLOUT)
    assert rlsd.distill(agent, config(strength=0.3)) is agent
    agent.learn(3 * ROLLOUT, callback=rlsd.SelfDistillation(config(strength=0.3)))
    assert type(agent) is Own
    assert agent.trained == 6
    assert agent.distiller.deposits > 0
    assert patches(agent) == []


def test_a_subclass_of_the_wrapped_class_trains_as_the_wrapped_class() -> None:
    agents = [build(cls, distill=config()).learn(4 * ROLLOUT) for cls in (Own, rlsd.SelfDistilled(PPO))]
    assert not differences(*(copied(agent.policy.state_dict()) for agent in agents))


def test_a_subclass_of_the_wrapped_class_can_be_switched_off_and_on(tmp_path: Path) -> None:
    agent = build(Own, distill=config()).learn(3 * ROLLOUT)
    rlsd.undistill(agent)
    assert type(agent) is Own
    assert agent.distiller is agent.accelerator is None
    agent.learn(ROLLOUT)
    agent.save(tmp_path / "agent")
    assert Own.load(tmp_path / "agent", distill=None).distiller is None
    rlsd.accelerate(rlsd.distill(agent, config())).learn(3 * ROLLOUT)
    assert agent.distiller.deposits > 0
    assert rlsd.accelerate(rlsd.undistill(agent), None) is agent


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent))], ids=["copy", "pickle"]
)
def test_a_copy_of_a_subclass_of_the_wrapped_class_is_one(copier: Callable[[Any], Any]) -> None:
    agent = build(Own, distill=config()).learn(3 * ROLLOUT)
    agent.predict(agent._last_obs)  # the graph of the last update is in SB3's action_dist, and refuses to be copied
    twin = copier(agent)
    assert type(twin) is Own
    assert twin.learn(ROLLOUT, reset_num_timesteps=False).trained == 4


def test_a_subclass_of_the_wrapped_class_is_compressed_resumed_and_taught_in_company(tmp_path: Path) -> None:
    agent = build(Own, distill=config()).learn(3 * ROLLOUT)
    assert type(rlsd.compress(agent, {"net_arch": [4]}, states=64, steps=2, batch_size=8)) is PPO
    rlsd.save_checkpoint(agent, tmp_path / "checkpoint")
    assert type(rlsd.resume(tmp_path / "checkpoint")) is Own
    rlsd.learn_together([agent, build(Own, distill=config())], ROLLOUT)


@pytest.mark.parametrize(
    ("algorithm", "kind"), [(PPO, "discrete"), (PPO, "box"), (A2C, "box"), (SAC, "box"), (TD3, "box")]
)
def test_an_actor_that_is_frozen_is_left_alone(algorithm: type[BaseAlgorithm], kind: str) -> None:
    trained = []
    for make in (build, distilled):
        agent = make(algorithm, kind)
        for name, parameter in agent.policy.named_parameters():
            if "value" not in name and "critic" not in name:
                parameter.requires_grad_(False)
        scramble()
        trained.append(copied(agent.learn(4 * ROLLOUT).policy.state_dict()))
    assert not differences(*trained), "the critic alone trains, as in plain SB3"


# --- Undoing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "kind"), [(PPO, "discrete"), (A2C, "gsde"), (PPO, "normalized"), (A2C, "dict")])
def test_after_a_pull_undistilled_training_is_plain(algorithm: type[BaseAlgorithm], kind: str) -> None:
    agent = distilled(algorithm, kind).learn(4 * ROLLOUT)
    assert agent.distiller.deposits > 0
    twin = build(algorithm, kind)
    twin.learn(4 * ROLLOUT)  # as far in its episodes; what it learned is replaced
    twin.set_parameters(copy.deepcopy(agent.get_parameters()))
    rlsd.undistill(agent)
    _copy_training(agent, twin)
    states = []
    for each in (agent, twin):
        scramble()
        each.learn(2 * ROLLOUT, reset_num_timesteps=False)
        states.append(copied(training_state(each)))
    assert not differences(states[0]["policy"], states[1]["policy"])
    assert not differences(states[0]["optimizer"], states[1]["optimizer"])
    assert not differences(states[0]["generators"], states[1]["generators"])


def _copy_training(source: Any, target: Any) -> None:
    """Put an agent's environment and what it last saw into another one."""
    target.set_env(environment_state.thaw(environment_state.freeze(source.env)), force_reset=False)
    for name in ("_last_obs", "_last_episode_starts", "ep_info_buffer", "num_timesteps", "_n_updates"):
        setattr(target, name, copy.deepcopy(getattr(source, name)))


def test_undistilling_a_plain_agent_changes_nothing() -> None:
    agent = build(PPO)
    before = dict(vars(agent))
    assert rlsd.undistill(agent) is agent
    assert type(agent) is PPO and vars(agent) == before


def test_distilling_again_starts_over_with_the_new_answers() -> None:
    agent = distilled().learn(3 * ROLLOUT)
    first = agent.distiller
    with pytest.warns(UserWarning, match="starts over with teacher 'snapshot': its teacher 'snapshot' and .* dropped"):
        rlsd.distill(agent, config(strength=0.2))
    assert agent.distiller is not first
    assert agent.distiller.states.count == 0
    assert type(agent) is rlsd.SelfDistilled(PPO)
    agent.learn(3 * ROLLOUT, reset_num_timesteps=False)
    assert agent.distiller.present_metrics()["distill/coef"] == 0.2


MOMENTS = ("_on_rollout_start", "_on_step", "_on_rollout_end")


@pytest.mark.filterwarnings("ignore:distill starts over")
@pytest.mark.parametrize(
    ("name", "moment"),
    [
        (name, moment)
        for i, name in enumerate(ALL_ALGORITHMS)
        for j, moment in enumerate(MOMENTS)
        if name in ("PPO", "SAC", "ARS") or i % 3 == j
    ],
)
def test_distillation_can_begin_and_end_at_every_moment_of_learn(name: str, moment: str) -> None:
    algorithm = ALL_ALGORITHMS[name]
    agent = build(algorithm, "box" if name in ("SAC", "TQC", "CrossQ", "TD3", "DDPG") else "discrete")
    callback = At(0, lambda _: None)
    setattr(callback, moment, lambda: rlsd.distill(agent, config()) and True)
    agent.learn(ROLLOUT, callback=callback)
    assert type(agent) is rlsd.SelfDistilled(algorithm)
    agent.learn(4 * ROLLOUT)
    assert agent.distiller.deposits > 0
    setattr(callback, moment, lambda: rlsd.undistill(agent) and True)
    agent.learn(4 * ROLLOUT, callback=callback)
    assert type(agent) is algorithm
    assert not {"distiller", "_distill_config"} & vars(agent).keys()
    assert patches(agent) == []


def test_begun_inside_learn_with_vecnormalize_it_waits_for_a_whole_rollout() -> None:
    agent = build(PPO, "normalized")
    with pytest.warns(UserWarning, match="this rollout's states were not recorded"):
        agent.learn(4 * ROLLOUT, callback=At(3, lambda model: rlsd.distill(model, config())))
    assert agent.distiller.states.count == 3 * ROLLOUT
    assert agent.distiller.deposits > 0


# --- Whatever happens, nothing stays behind -------------------------------------------------------


class Fails(PPO):
    """Fails in the middle of an update: after its first gradient is computed, before it is applied."""

    error: type[BaseException] | None = None

    def train(self) -> None:
        if self.error is not None:
            error, self.error = self.error, None
            self.policy.optimizer.zero_grad()
            assert patches(self) != [], "nothing was armed, so nothing is shown"
            raise error("in train")
        super().train()


@pytest.mark.parametrize(
    ("place", "error"),
    [
        *[("train", ValueError), ("train", SystemExit), ("env", KeyboardInterrupt), ("step", SystemExit)],
        *[("rollout end", ValueError), ("train's own optimizer", KeyboardInterrupt)],
    ],
)
def test_nothing_stays_behind_after_an_error_and_training_goes_on(
    error: type[BaseException], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = distilled(Fails, distill=config(teacher=rlsd.Snapshot(every=1))).learn(ROLLOUT)

    def fail(*_: Any, **__: Any) -> Any:
        raise error(f"in {place}")

    with monkeypatch.context() as patch:
        callback = None
        if place == "train":
            agent.error = error
        elif place == "env":
            patch.setattr(agent.env, "step_wait", fail)
        elif place == "step":
            callback = At(5, fail)
        elif place == "rollout end":
            callback = At(10**6, fail)
            patch.setattr(callback, "_on_rollout_end", fail)
        else:
            patch.setattr(agent.policy.optimizer, "step", fail)
        with pytest.raises(error, match="in train" if place == "train" else f"in {place}"):
            agent.learn(2 * ROLLOUT, callback=callback)
    assert patches(agent) == []
    before = agent.distiller.deposits
    agent.learn(2 * ROLLOUT)
    assert patches(agent) == []
    assert agent.distiller.deposits > before


@pytest.mark.parametrize("kind", ["discrete", "normalized"])
def test_what_was_seen_before_a_stop_is_not_mixed_into_later_rollouts(kind: str) -> None:
    agent = distilled(PPO, kind)
    agent.learn(ROLLOUT, callback=At(5, lambda _: False))
    assert agent.distiller.states.count == 0
    agent.learn(2 * ROLLOUT)
    assert agent.distiller.states.count == 2 * ROLLOUT


def test_the_users_callbacks_see_what_they_would_without_us() -> None:
    class Sees(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []

        def _on_rollout_start(self) -> None:
            self.seen.append(("start", self.num_timesteps))

        def _on_step(self) -> bool:
            self.seen.append((self.n_calls, self.num_timesteps, sorted(self.locals), self.locals["rewards"].tolist()))
            assert self.parent is None
            return True

        def _on_rollout_end(self) -> None:
            self.seen.append(("end", self.num_timesteps, "rollout_buffer" in self.locals))

    views = []
    for algorithm, off in ((PPO, {}), (rlsd.SelfDistilled(PPO), {"distill": config(strength=0)})):
        views.append(Sees())
        build(algorithm, "normalized", **off).learn(2 * ROLLOUT, callback=views[-1])
    plain, wrapped = (view.seen for view in views)
    assert wrapped == plain


# --- As an SB3 agent is used ----------------------------------------------------------------------


def test_another_environment_can_be_set() -> None:
    agent = distilled().learn(3 * ROLLOUT)
    agent.set_env(make_env("discrete"))
    agent.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert agent.distiller.states.count == 64
    assert agent.distiller.states.seen == 5 * ROLLOUT
    with pytest.raises(ValueError, match="space"):
        agent.set_env(make_env("discrete_observations"))


def test_another_normalising_environment_can_be_set() -> None:
    agent = distilled(PPO, "normalized").learn(3 * ROLLOUT)
    agent.set_env(make_env("normalized"))
    agent.learn(3 * ROLLOUT, reset_num_timesteps=False)
    assert agent.distiller.states.seen == 6 * ROLLOUT


@pytest.mark.parametrize("kind", ["discrete", "gsde", "dict", "normalized", "regularized"])
def test_predictions_are_those_of_the_plain_agent(kind: str) -> None:
    agent = distilled(PPO, kind).learn(2 * ROLLOUT)
    observations = agent.env.reset()
    expected, _ = agent.predict(observations, deterministic=True)
    with untouched_generators():
        agent.predict(observations, deterministic=True)
    rlsd.undistill(agent)
    np.testing.assert_array_equal(agent.predict(observations, deterministic=True)[0], expected)


COPIERS: dict[str, Callable[[Any], Any]] = {
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda agent: pickle.loads(pickle.dumps(agent)),
    "cloudpickle": lambda agent: cloudpickle.loads(cloudpickle.dumps(agent)),
}


@pytest.mark.parametrize(
    ("algorithm", "kind", "copier"),
    [(PPO, "discrete", "copy.deepcopy"), (A2C, "box", "pickle"), (PPO, "image_chw", "cloudpickle")],
)
def test_a_copy_trains_on_as_the_original(algorithm: type[BaseAlgorithm], kind: str, copier: str) -> None:
    agent = distilled(algorithm, kind).learn(3 * ROLLOUT)
    agent.predict(agent._last_obs)  # the graph of the last update is in SB3's action_dist, and refuses to be copied
    twin = COPIERS[copier](agent)
    assert type(twin) is type(agent)
    states = []
    for each in (agent, twin):
        scramble()
        each.learn(2 * ROLLOUT, reset_num_timesteps=False)
        states.append(copied((training_state(each), distillation_state(each))))
    assert not differences(*states)
    assert agent.distiller.teacher is not twin.distiller.teacher


def test_a_copy_of_an_agent_that_never_trained() -> None:
    twin = copy.deepcopy(distilled())
    twin.learn(3 * ROLLOUT)
    assert twin.distiller.deposits > 0


def test_wrapping_and_building_draw_no_random_number() -> None:
    plain = build(PPO, "gsde")
    after = copied(generators())
    assert plain is not None
    distilled(PPO, "gsde")
    assert not differences(after, generators())


def test_one_environment_and_several_give_the_same_shapes() -> None:
    agent = distilled(env=make_env("discrete", n_envs=1), batch_size=4).learn(ROLLOUT)
    assert isinstance(agent.env, DummyVecEnv)
    assert agent.distiller.states.tensors()["@observation"].shape == (ROLLOUT, 3)


# --- SB3's own life cycle, once more and out of order ---------------------------------------------


def _doors(algorithm: type[Any], kind: str = "discrete") -> dict[str, Any]:
    """An agent through each door."""
    called = build(algorithm, kind)
    called.learn(1, callback=rlsd.SelfDistillation(config()))
    later = build(rlsd.SelfDistilled(algorithm), kind, distill=config(), _init_setup_model=False)
    later._setup_model()
    return {
        "built": distilled(algorithm, kind),
        "off": build(rlsd.SelfDistilled(algorithm), kind, distill=None),
        "distilled": rlsd.distill(build(algorithm, kind), config()),
        "accelerated": rlsd.accelerate(build(algorithm, kind)),
        "called": called,
        "set up by the user": later,
        "own": build(_own(algorithm), kind, distill=config()),
    }


def _kind_for(name: str) -> str:
    return "box" if name in ("SAC", "TQC", "CrossQ", "TD3", "DDPG", "ARS") else "discrete"


@pytest.mark.parametrize("name", ["PPO", "RecurrentPPO", "DQN", "SAC", "ARS"])
def test_set_up_once_more_it_starts_over_with_the_new_networks(name: str) -> None:
    doors = _doors(ALL_ALGORITHMS[name], _kind_for(name)).items()
    for door, agent in doors if name == "PPO" else [(door, agent) for door, agent in doors if door in ("built", "off")]:
        agent.learn(4 * ROLLOUT)
        before, speed, policy = agent.distiller, agent.accelerator, agent.policy
        agent._setup_model()
        assert agent.accelerator is speed, door
        assert (agent.distiller is None) == (before is None), door
        assert agent.policy is not policy, door
        agent.learn(4 * ROLLOUT)
        assert patches(agent) == [], door
        if agent.distiller is not None:
            assert agent.distiller is not before, door
            assert agent.distiller.deposits > 0, door


@every_algorithm
@pytest.mark.parametrize("kind", ["discrete", "normalized"])
def test_set_up_once_more_it_trains_as_plain_sb3(algorithm: type[BaseAlgorithm], kind: str) -> None:
    trained = []
    for make, off in ((build, {}), (distilled, {"distill": config(strength=0)})):
        agent = make(algorithm, kind, **off).learn(2 * ROLLOUT)
        agent.n_steps = 4
        agent._setup_model()
        agent.learn(2 * ROLLOUT)
        trained.append(copied(training_state(agent)))
    assert not differences(*trained)


def test_set_up_once_more_inside_a_rollout_it_is_where_it_trains() -> None:
    agent = distilled(SAC, "box", rollout_device="cpu", learning_starts=0).learn(ROLLOUT)
    agent.learn(4 * ROLLOUT, callback=At(3, lambda model: model._setup_model()))
    assert agent.distiller.is_of(agent)
    assert agent.distiller.deposits > 0


def test_a_set_up_that_is_refused_says_so_again_instead_of_training_on_without_a_word() -> None:
    agent = distilled().learn(ROLLOUT)
    agent.policy_class = type("Strange", (BasePolicy,), {"__init__": _strange, "_predict": None})
    for act in (agent._setup_model, lambda: agent.learn(ROLLOUT), lambda: agent.save(io.BytesIO())):
        with pytest.raises(TypeError, match="does not know how this policy acts"):
            act()


def _strange(self: Any, observation_space: Any, action_space: Any, *_: Any, **__: Any) -> None:
    BasePolicy.__init__(self, observation_space, action_space)


@every_algorithm
def test_another_policy_in_its_place_starts_distillation_over(algorithm: type[BaseAlgorithm], tmp_path: Path) -> None:
    agent = distilled(algorithm).learn(3 * ROLLOUT)
    agent.policy = build(algorithm, policy_kwargs={"net_arch": [5, 4]}).policy
    agent.save(tmp_path / "agent")
    assert agent.distiller.teacher.version == agent.distiller.states.count == 0
    agent.learn(3 * ROLLOUT)
    assert agent.distiller.deposits > 0
    assert agent.distiller.teacher.policy.mlp_extractor.policy_net[0].out_features == 5


def test_a_compiled_policy_is_the_same_policy() -> None:
    agent = distilled().learn(3 * ROLLOUT)
    distiller = agent.distiller
    agent.policy = SimpleNamespace(_orig_mod=agent.policy)
    assert distiller.is_of(agent)


@pytest.mark.parametrize("teacher", [rlsd.Ema(decay=0.9), rlsd.Selective(every=1, average=100.0)])
def test_parameters_of_another_time_are_not_averaged_with_those_of_now(teacher: Any) -> None:
    agent = distilled(distill=config(teacher=teacher)).learn(3 * ROLLOUT)
    agent.set_parameters(copy.deepcopy(build(PPO, seed=8).get_parameters()))
    mine, theirs = (dict(each.named_parameters()) for each in (agent.distiller.teacher.policy, agent.policy))
    assert not differences({name: theirs[name] for name in mine}, mine)


def test_learning_can_be_set_up_by_hand() -> None:
    agent = distilled()
    agent._setup_learn(100)
    agent._setup_learn(100, reset_num_timesteps=False)
    assert agent.learn(4 * ROLLOUT).distiller.deposits > 0


def test_a_logger_and_a_seed_can_be_set_between_and_inside_learn_calls() -> None:
    def both(model: Any) -> None:
        model.set_logger(Logger(None, [Record()]))
        model.set_random_seed(5)

    trained = []
    for make, off in ((build, {}), (distilled, {"distill": config(strength=0)})):
        agent = make(PPO, **off).learn(2 * ROLLOUT, callback=At(3, both))
        both(agent)
        trained.append(copied(training_state(agent.learn(2 * ROLLOUT))))
    assert not differences(*trained)


def test_more_environments_can_be_set_where_the_agent_is_set_up_again() -> None:
    often = rlsd.recipe("selective", **{"teacher.every": ROLLOUT})
    agent = distilled(distill=often).learn(3 * ROLLOUT)
    agent.n_envs = 3
    agent.set_env(make_env(n_envs=3))
    agent._setup_model()
    twin = copy.deepcopy(agent)
    for each in (agent, twin, pickle.loads(pickle.dumps(agent))):
        distiller = each.distiller
        assert each.learn(3 * ROLLOUT).distiller is distiller
        assert each.distiller.teacher.version > 0
