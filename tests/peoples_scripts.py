"""What people do with Stable-Baselines3, as they write it: nothing here knows of rlsd.

A script takes ``wrap``, which makes of an algorithm the class to use in its place, and a folder; it returns the agents
that it ends with. Steps and networks are as small as can be.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import torch
import yaml
from agents import TinyGoalEnv
from gymnasium import spaces
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.utils import get_action_masks
from sb3_contrib.common.wrappers import ActionMasker, TimeFeatureWrapper
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common import callbacks
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import obs_as_tensor, polyak_update
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecFrameStack, VecMonitor, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from torch import nn
from torch.nn import functional

Wrap = Callable[[type[Any]], type[Any]]


def on_policy(**changes: Any) -> dict[str, Any]:
    """Settings of a small PPO."""
    small = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "policy_kwargs": {"net_arch": [8]}}
    return {"seed": 1, "device": "cpu"} | small | changes


def off_policy(**changes: Any) -> dict[str, Any]:
    """Settings of a small agent with a replay buffer."""
    small = {"learning_starts": 32, "batch_size": 16, "buffer_size": 500, "policy_kwargs": {"net_arch": [8]}}
    return {"seed": 1, "device": "cpu"} | small | changes


def cartpole(n: int = 2, **options: Any) -> Any:
    return make_vec_env("CartPole-v1", n_envs=n, seed=3, **options)


def pendulum(n: int = 1) -> Any:
    return make_vec_env("Pendulum-v1", n_envs=n, seed=3)


# --- As the zoo does: a YAML of settings, schedules, evaluations, checkpoints, and all of it loaded again -----------

ZOO = """
policy: MlpPolicy
n_steps: 32
batch_size: 32
n_epochs: 2
learning_rate: lin_0.003
clip_range: lin_0.2
policy_kwargs: "dict(net_arch=dict(pi=[8], vf=[8]), activation_fn=nn.ReLU)"
"""


def linear_schedule(start: float) -> Callable[[float], float]:
    return lambda remaining: remaining * start


def zoo(wrap: Wrap, folder: Path) -> list[Any]:
    settings = yaml.safe_load(ZOO)
    for key in ("learning_rate", "clip_range"):
        settings[key] = linear_schedule(float(settings[key].removeprefix("lin_")))
    settings["policy_kwargs"] = eval(settings["policy_kwargs"])
    env, eval_env = VecNormalize(cartpole()), VecNormalize(cartpole(1), training=False, norm_reward=False)
    every_step = callbacks.CheckpointCallback(64, str(folder / "checkpoints"), save_vecnormalize=True)
    evaluate = callbacks.EvalCallback(
        eval_env,
        callback_on_new_best=callbacks.StopTrainingOnRewardThreshold(1e6),
        callback_after_eval=callbacks.StopTrainingOnNoModelImprovement(50),
        eval_freq=48,
        verbose=0,
        n_eval_episodes=2,
        best_model_save_path=str(folder / "best"),
        log_path=str(folder / "evaluations"),
    )
    model = wrap(PPO)(env=env, seed=1, device="cpu", tensorboard_log=str(folder / "tb"), **settings)
    model.learn(256, callback=[every_step, evaluate], tb_log_name="zoo", log_interval=1)
    model.save(folder / "model")
    model.get_vec_normalize_env().save(folder / "vecnormalize.pkl")

    env = VecNormalize.load(folder / "vecnormalize.pkl", cartpole())
    again = wrap(PPO).load(folder / "model", env=env, seed=2, device="cpu", **settings)
    again.learn(64, reset_num_timesteps=False)
    fixed = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    steps = max((folder / "checkpoints").glob("rl_model_*_steps.zip"), key=lambda path: path.stat().st_mtime_ns)
    for path in (folder / "best" / "best_model.zip", steps):
        enjoyed = wrap(PPO).load(path, custom_objects=fixed, device="cpu")
        evaluate_policy(enjoyed, eval_env, n_eval_episodes=2)
    return [again]


# --- Resets against the primacy bias: layers and optimizers begin anew in mid-training -------------------------------


class Resets(callbacks.BaseCallback):
    """Every so often new last layers, a new state of the optimizers, and the targets as the critics are."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every

    def _on_step(self) -> bool:
        if self.n_calls % self.every == 0:
            for network in (self.model.actor, self.model.critic):
                for layer in network.modules():
                    if isinstance(layer, nn.Linear):
                        layer.reset_parameters()
                network.optimizer.state.clear()
            self.model.critic_target.load_state_dict(self.model.critic.state_dict())
            self.model.actor.optimizer = type(self.model.actor.optimizer)(self.model.actor.parameters(), lr=1e-3)
        return True


def resets(wrap: Wrap, folder: Path) -> list[Any]:
    noise = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
    settings = off_policy(tau=0.02, use_sde=True, sde_sample_freq=8, train_freq=2, action_noise=noise)
    model = wrap(SAC)("MlpPolicy", pendulum(), **settings)
    return [model.learn(160, callback=Resets(60))]


# --- A policy, an extractor and networks of one's own ----------------------------------------------------------------


class Combined(BaseFeaturesExtractor):
    """One small network for each part of the observation."""

    def __init__(self, observation_space: spaces.Dict, width: int = 4) -> None:
        super().__init__(observation_space, width * len(observation_space.spaces))
        sizes = {key: spaces.flatdim(part) for key, part in observation_space.spaces.items()}
        self.parts = nn.ModuleDict({key: nn.Sequential(nn.Linear(n, width), nn.ReLU()) for key, n in sizes.items()})

    def forward(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([part(observations[key].flatten(1)) for key, part in self.parts.items()], dim=1)


class TwoTowers(nn.Module):
    """Takes the place of SB3's ``mlp_extractor``."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = 6, 5
        self.policy_net = nn.Sequential(nn.Linear(size, 6), nn.LayerNorm(6), nn.ReLU(), nn.Dropout(0.1))
        self.value_net = nn.Sequential(nn.Linear(size, 5), nn.ReLU())

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: torch.Tensor) -> torch.Tensor:
        return self.policy_net(features)

    def forward_critic(self, features: torch.Tensor) -> torch.Tensor:
        return self.value_net(features)


class OwnPolicy(ActorCriticPolicy):
    """The example of SB3's documentation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **(kwargs | {"ortho_init": False, "features_extractor_class": Combined}))

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = TwoTowers(self.features_dim)


class Seen(gym.ObservationWrapper):
    """A CartPole that says what it sees by two names, and a part with a number."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        part = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = spaces.Dict({"cart": part, "pole": part, "side": spaces.Discrete(2)})

    def observation(self, observation: np.ndarray) -> dict[str, Any]:
        return {"cart": observation[:2], "pole": observation[2:], "side": int(observation[0] > 0)}


def own_network(wrap: Wrap, folder: Path) -> list[Any]:
    env = make_vec_env(lambda: Seen(gym.make("CartPole-v1")), n_envs=2, seed=3)
    model = wrap(PPO)(OwnPolicy, env, ent_coef=0.01, target_kl=0.5, **on_policy(policy_kwargs={}))
    model.learn(256)
    model.policy.save(folder / "policy")
    OwnPolicy.load(folder / "policy").predict(env.reset())
    return [model]


# --- A Q-learner with an update and a buffer of one's own ------------------------------------------------------------


class Prioritized(ReplayBuffer):
    """Draws what surprised, from an array beside SB3's own."""

    def __init__(self, *args: Any, alpha: float = 0.6, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.alpha, self.priorities, self.drawn = alpha, np.zeros(self.buffer_size), np.zeros(0, int)

    def add(self, *args: Any, **kwargs: Any) -> None:
        self.priorities[self.pos] = max(self.priorities.max(), 1.0)
        super().add(*args, **kwargs)

    def sample(self, batch_size: int, env: Any = None) -> Any:
        weights = self.priorities[: self.size()] ** self.alpha
        self.drawn = np.random.choice(self.size(), batch_size, p=weights / weights.sum())  # noqa: NPY002
        return self._get_samples(self.drawn, env=env)


class DoubleDQN(DQN):
    """Overrides ``train``, as its users do."""

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            with torch.no_grad():
                best = self.q_net(batch.next_observations).argmax(dim=1, keepdim=True)
                following = self.q_net_target(batch.next_observations).gather(1, best)
                target = batch.rewards + (1 - batch.dones) * self.gamma * following
            current = self.q_net(batch.observations).gather(1, batch.actions.long())
            self.replay_buffer.priorities[self.replay_buffer.drawn] = (target - current).abs().detach().numpy()[:, 0]
            loss = functional.smooth_l1_loss(current, target)
            self.policy.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
        self._n_updates += gradient_steps
        self.logger.record("train/loss", loss.item())


def own_q_learner(wrap: Wrap, folder: Path) -> list[Any]:
    settings = {"replay_buffer_class": Prioritized, "replay_buffer_kwargs": {"alpha": 0.5}, "gradient_steps": 2}
    model = wrap(DoubleDQN)("MlpPolicy", cartpole(1), train_freq=4, target_update_interval=64, **off_policy(**settings))
    model.learn(200, log_interval=2)
    model.save_replay_buffer(folder / "buffer")
    model.load_replay_buffer(folder / "buffer")
    return [model.learn(64, reset_num_timesteps=False)]


# --- A curriculum: environments through set_env, learning in loops, settings changed by hand -------------------------


class Level(gym.Wrapper):
    """A CartPole with another pole."""

    def __init__(self, env: gym.Env, level: int) -> None:
        super().__init__(env)
        env.unwrapped.length *= 1 + 0.3 * level


def curriculum(wrap: Wrap, folder: Path) -> list[Any]:
    def level(number: int, n: int = 2) -> Any:
        return make_vec_env(lambda: Level(gym.make("CartPole-v1"), number), n_envs=n, seed=number)

    model = wrap(A2C)("MlpPolicy", level(0), learning_rate=0.002, n_steps=8, seed=1, device="cpu", use_rms_prop=False)
    for number in range(4):
        model.set_env(level(number))
        for _ in range(3):
            model.learn(32, reset_num_timesteps=number % 2 == 0, tb_log_name=f"level{number}")
        model.learning_rate *= 0.5
        model._setup_lr_schedule()
        model.ent_coef, model.gamma = 0.01 * number, 0.98
    model.save(folder / "model")
    more = wrap(A2C).load(folder / "model", env=level(4, n=3), n_envs=3, device="cpu")
    return [more.learn(96, reset_num_timesteps=False)]


# --- Self-play: a callback keeps the agent's past selves as opponents in the environment -----------------------------


class Nim(gym.Env):
    """Take one to three of a heap, in turns with an opponent; who takes the last one wins."""

    observation_space = spaces.Box(0.0, 1.0, (10,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self) -> None:
        self.opponent: Any = None

    def seen(self) -> np.ndarray:
        return np.eye(10, dtype=np.float32)[self.heap - 1] if self.heap else np.zeros(10, np.float32)

    def action_masks(self) -> np.ndarray:
        return np.arange(1, 4) <= max(self.heap, 1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.heap = int(self.np_random.integers(5, 11))
        return self.seen(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.heap -= int(action) + 1
        if self.heap == 0:
            return self.seen(), 1.0, True, False, {}
        if self.opponent is None:
            answer = int(self.np_random.integers(min(3, self.heap)))
        else:
            answer = int(self.opponent.predict(self.seen(), action_masks=self.action_masks(), deterministic=True)[0])
        self.heap -= answer + 1
        return self.seen(), -1.0 if self.heap == 0 else 0.0, self.heap == 0, False, {}


class SelfPlay(callbacks.BaseCallback):
    """Saves the agent now and then, and sets a past self, loaded or copied, as everybody's opponent."""

    def __init__(self, folder: Path, algorithm: type[Any]) -> None:
        super().__init__()
        self.folder, self.algorithm, self.pool = folder, algorithm, deque(maxlen=3)

    def _on_rollout_end(self) -> None:
        path = self.folder / f"past_{self.num_timesteps}"
        self.model.save(path)
        self.pool.append(self.algorithm.load(path, device="cpu"))
        self.pool.append(copy.deepcopy(self.model.policy).eval())
        self.training_env.set_attr("opponent", self.pool[self.n_calls % len(self.pool)])

    def _on_step(self) -> bool:
        return True


def self_play(wrap: Wrap, folder: Path) -> list[Any]:
    env = DummyVecEnv([lambda: Monitor(ActionMasker(Nim(), lambda env: env.action_masks()))] * 2)
    model = wrap(MaskablePPO)("MlpPolicy", env, **on_policy(batch_size=32))
    model.learn(320, callback=SelfPlay(folder, wrap(MaskablePPO)))
    model.predict(env.reset(), action_masks=get_action_masks(env))
    return [model]


# --- Imitation: cloning by hand with the policy's optimizer, and a learned reward ------------------------------------


def demonstrations(env: Any, n: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Observations, and what a rule of thumb does there."""
    observations, seen = [], env.reset()
    for _ in range(n):
        observations.append(seen)
        seen = env.step((seen[:, 2] + seen[:, 3] > 0).astype(int))[0]
    flat = np.concatenate(observations)
    return flat, (flat[:, 2] + flat[:, 3] > 0).astype(int)


def cloning(wrap: Wrap, folder: Path) -> list[Any]:
    env = cartpole()
    states, actions = (torch.as_tensor(part) for part in demonstrations(env))
    model = wrap(PPO)("MlpPolicy", env, **on_policy(learning_rate=1e-3))
    policy = model.policy
    policy.set_training_mode(True)
    for batch in torch.arange(len(states)).split(32):
        _, log_prob, entropy = policy.evaluate_actions(states[batch], actions[batch])
        loss = -log_prob.mean() - 1e-3 * entropy.mean() + 1e-4 * sum(p.square().sum() for p in policy.parameters())
        policy.optimizer.zero_grad()
        loss.backward()
        policy.optimizer.step()
    apart = ActorCriticPolicy(env.observation_space, env.action_space, lambda _: 1e-3, net_arch=[8])
    apart.load_state_dict(policy.state_dict())
    evaluate_policy(apart, env, n_eval_episodes=2)
    model.policy.load_state_dict(apart.state_dict())
    return [model.learn(256, callback=callbacks.StopTrainingOnMaxEpisodes(10_000), progress_bar=False)]


class LearnedReward(VecEnvWrapper):
    """Replaces the rewards by those of a discriminator, and keeps what the agent did."""

    def __init__(self, venv: Any, discriminator: nn.Module) -> None:
        super().__init__(venv)
        self.discriminator, self.kept = discriminator, []

    def reset(self) -> np.ndarray:
        self.seen = self.venv.reset()
        return self.seen

    def step_async(self, actions: np.ndarray) -> None:
        self.done = actions
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        pairs = torch.as_tensor(np.c_[self.seen, self.done], dtype=torch.float32)
        self.kept.append(pairs)
        with torch.no_grad():
            rewards = -functional.logsigmoid(-self.discriminator(pairs)).numpy()[:, 0]
        self.seen, _, dones, infos = self.venv.step_wait()
        return self.seen, rewards, dones, infos


def adversarial(wrap: Wrap, folder: Path) -> list[Any]:
    states, actions = demonstrations(cartpole())
    expert = torch.as_tensor(np.c_[states, actions], dtype=torch.float32)
    torch.manual_seed(5)
    discriminator = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-2)
    generator = wrap(PPO)("MlpPolicy", cartpole(), **on_policy())
    env = LearnedReward(DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2), discriminator)
    env.seed(3)
    generator.set_env(VecMonitor(env))
    generator.set_logger(configure(str(folder / "logs"), ["csv"]))
    for _ in range(4):
        generator.learn(generator.n_steps * generator.n_envs, reset_num_timesteps=False)
        fake = torch.cat(env.kept)
        env.kept.clear()
        scores = discriminator(torch.cat([expert, fake]))
        labels = torch.cat([torch.ones(len(expert)), torch.zeros(len(fake))])
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(scores[:, 0], labels).backward()
        optimizer.step()
    generator.logger.close()
    return [generator]


# --- Goals, noise, and a replay buffer that is saved and loaded ------------------------------------------------------


def goals(wrap: Wrap, folder: Path) -> list[Any]:
    point = spaces.Box(-1.0, 1.0, (2,), np.float32)
    seen = spaces.Dict({"achieved_goal": point, "desired_goal": point, "observation": spaces.Box(-1.0, 1.0, (3,))})
    env = DummyVecEnv([lambda: Monitor(TinyGoalEnv(seen, point))] * 2)
    env.seed(3)
    settings = {
        "replay_buffer_class": HerReplayBuffer,
        "replay_buffer_kwargs": {"n_sampled_goal": 2, "goal_selection_strategy": "future"},
        "action_noise": VectorizedActionNoise(OrnsteinUhlenbeckActionNoise(np.zeros(2), 0.2 * np.ones(2)), 2),
    }
    model = wrap(TD3)("MultiInputPolicy", env, train_freq=(4, "step"), gradient_steps=-1, **settings, **off_policy())
    model.learn(96)
    model.save(folder / "model")
    model.save_replay_buffer(folder / "buffer")
    again = wrap(TD3).load(folder / "model", env=env, device="cpu")
    again.load_replay_buffer(folder / "buffer", truncate_last_traj=False)
    return [again.learn(64, reset_num_timesteps=False)]


# --- The life of an agent: copied, pickled, set up again, weights in and out -----------------------------------------


def life_cycle(wrap: Wrap, folder: Path) -> list[Any]:
    model = wrap(PPO)("MlpPolicy", pendulum(2), **on_policy())
    twin = copy.deepcopy(model)
    twin.learn(128)
    model.learn(128)
    weights = model.get_parameters()
    thawed = pickle.loads(cloudpickle.dumps(model.policy))
    thawed.predict(model.env.reset())
    model.n_steps = 16
    model._setup_model()  # other rollouts, and new weights
    model.learn(96)
    model.set_parameters(weights)
    model.set_random_seed(7)
    model.learn(96, reset_num_timesteps=False)
    return [model, twin]


# --- Memory: frames stacked, an LSTM's states carried by hand, keywords of a monitor, time as a feature --------------


class Speed(gym.Wrapper):
    """Says in every ``info`` how fast it turns."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"speed": float(observation[2])}


def memory(wrap: Wrap, folder: Path) -> list[Any]:
    def make() -> gym.Env:
        env = Speed(TimeFeatureWrapper(gym.make("Pendulum-v1", g=9.0), max_steps=200))
        return Monitor(env, str(folder / f"monitor{len([*folder.iterdir()])}"), info_keywords=("speed",))

    env = VecFrameStack(DummyVecEnv([make] * 2), 2)
    env.seed(3)
    changes = {"policy_kwargs": {"net_arch": [8], "lstm_hidden_size": 4, "enable_critic_lstm": False}}
    changes["policy_kwargs"]["shared_lstm"] = True
    with contextlib.closing(env):  # and its files
        model = wrap(RecurrentPPO)("MlpLstmPolicy", env, **on_policy(**changes))
        model.learn(256)
        seen, states, starts = env.reset(), None, np.ones(2, bool)
        for _ in range(5):
            actions, states = model.predict(seen, state=states, episode_start=starts, deterministic=True)
            seen, _, starts, _ = env.step(actions)
        return [model]


# --- An algorithm of one's own: another loss beside, other rewards in the rollout, another rollout buffer ------------


class Discounted(RolloutBuffer):
    """Clips advantages."""

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: np.ndarray) -> None:
        super().compute_returns_and_advantage(last_values, dones)
        self.advantages = self.advantages.clip(-2.0, 2.0)


class Curious(PPO):
    """PPO with a bonus for what a small network does not know yet, added to the rollout before the update."""

    def __init__(self, *args: Any, bonus: float = 0.1, **kwargs: Any) -> None:
        self.bonus = bonus
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        size = int(np.prod(self.observation_space.shape))
        self.known, self.drawn = nn.Linear(size, 4), nn.Linear(size, 4)
        self.learner = torch.optim.Adam(self.known.parameters(), 1e-2)

    def collect_rollouts(self, env: Any, callback: Any, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        going_on = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        if going_on:
            seen = torch.as_tensor(rollout_buffer.observations)
            surprise = (self.known(seen) - self.drawn(seen).detach()).square().mean(-1)
            rollout_buffer.rewards += self.bonus * surprise.detach().numpy()
            with torch.no_grad():
                values = self.policy.predict_values(obs_as_tensor(self._last_obs, self.device))
            rollout_buffer.compute_returns_and_advantage(values, self._last_episode_starts)
            self.learner.zero_grad()
            surprise.mean().backward()
            self.learner.step()
        return going_on

    def train(self) -> None:
        super().train()
        batch = next(self.rollout_buffer.get(16))
        entropy = -self.policy.get_distribution(batch.observations).entropy().mean()
        self.policy.optimizer.zero_grad()
        (0.01 * entropy).backward()
        self.policy.optimizer.step()
        polyak_update(self.known.parameters(), self.drawn.parameters(), 0.01)
        self.logger.record("train/auxiliary", entropy.item())

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "learner"]


def own_algorithm(wrap: Wrap, folder: Path) -> list[Any]:
    model = wrap(Curious)("MlpPolicy", cartpole(), bonus=0.5, rollout_buffer_class=Discounted, **on_policy())
    model.learn(256)
    model.save(folder / "model")
    again = wrap(Curious).load(folder / "model", env=cartpole(), device="cpu")
    return [again.learn(128, reset_num_timesteps=False)]


# --- Trials: many small agents after one another, some stopped early, the loop of learn() written by hand ------------


class Prune(callbacks.BaseCallback):
    """Ends a trial."""

    def _on_step(self) -> bool:
        return self.num_timesteps < 130


def trials(wrap: Wrap, folder: Path) -> list[Any]:
    ended = []
    for trial in range(2):
        model = wrap(TRPO)("MlpPolicy", cartpole(), seed=trial, device="cpu", n_steps=32, batch_size=64, cg_max_steps=5)
        model.learn(192, callback=Prune() if trial else None)
        ended.append(model)
    model = ended[0]
    total, callback = model._setup_learn(128, None, reset_num_timesteps=False)
    callback.on_training_start(locals(), globals())
    while model.num_timesteps < total:
        model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=model.n_steps)
        model._update_current_progress_remaining(model.num_timesteps, total)
        model.train()
    callback.on_training_end()
    return ended


#: Every script, and the algorithm that it uses.
SCRIPTS: dict[Callable[[Wrap, Path], list[Any]], type[Any]] = {
    zoo: PPO,
    resets: SAC,
    own_network: PPO,
    own_q_learner: DQN,
    curriculum: A2C,
    self_play: MaskablePPO,
    cloning: PPO,
    adversarial: PPO,
    goals: TD3,
    life_cycle: PPO,
    memory: RecurrentPPO,
    own_algorithm: PPO,
    trials: TRPO,
}
