"""What type checkers see of ``SelfDistilled(PPO)``: PPO with its constructor's arguments and ours, and ``distiller``.

Python's types know no intersection of classes, so each algorithm's constructor is written down here; a test holds them
equal to those of SB3. A subclass of yours is seen as the algorithm that it is made from. Nothing here runs.
"""
# ruff: noqa: D101, D103, N802
# fmt: off

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, overload

    import torch
    from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
    from sb3_contrib.ars.policies import ARSPolicy
    from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
    from sb3_contrib.crossq.policies import CrossQPolicy
    from sb3_contrib.qrdqn.policies import QRDQNPolicy
    from sb3_contrib.tqc.policies import TQCPolicy
    from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
    from stable_baselines3.common.noise import ActionNoise
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.type_aliases import GymEnv, Schedule
    from stable_baselines3.dqn.policies import DQNPolicy
    from stable_baselines3.sac.policies import SACPolicy
    from stable_baselines3.td3.policies import TD3Policy

    from rlsd.distiller import Distiller
    from rlsd.presets import Distill
    from rlsd.speed import Speed

    Device = torch.device | str

    class _Distilled:
        distiller: Distiller | None  # of several distillations at once a Distillers, which few have
        keeper: BaseAlgorithm | None

    class DistilledPPO(PPO, _Distilled):
        def __init__(
            self, policy: str | type[ActorCriticPolicy], env: GymEnv | str, learning_rate: float | Schedule = ...,
            n_steps: int = ..., batch_size: int = ..., n_epochs: int = ..., gamma: float = ...,
            gae_lambda: float = ..., clip_range: float | Schedule = ..., clip_range_vf: float | Schedule | None = ...,
            normalize_advantage: bool = ..., ent_coef: float = ..., vf_coef: float = ..., max_grad_norm: float = ...,
            use_sde: bool = ..., sde_sample_freq: int = ..., rollout_buffer_class: type[RolloutBuffer] | None = ...,
            rollout_buffer_kwargs: dict[str, Any] | None = ..., target_kl: float | None = ...,
            stats_window_size: int = ..., tensorboard_log: str | None = ...,
            policy_kwargs: dict[str, Any] | None = ..., verbose: int = ..., seed: int | None = ...,
            device: Device = ...,
            *, distill: Distill = ..., speed: str | Speed | None = ..., rollout_device: Device | None = ...,
            workers: Any = ...,
            teacher: Any = ..., states: Any = ..., divergence: Any = ..., strength: Any = ..., timing: Any = ...,
        ) -> None: ...

    class DistilledA2C(A2C, _Distilled):
        def __init__(
            self, policy: str | type[ActorCriticPolicy], env: GymEnv | str, learning_rate: float | Schedule = ...,
            n_steps: int = ..., gamma: float = ..., gae_lambda: float = ..., ent_coef: float = ...,
            vf_coef: float = ..., max_grad_norm: float = ..., rms_prop_eps: float = ..., use_rms_prop: bool = ...,
            use_sde: bool = ..., sde_sample_freq: int = ..., rollout_buffer_class: type[RolloutBuffer] | None = ...,
            rollout_buffer_kwargs: dict[str, Any] | None = ..., normalize_advantage: bool = ...,
            stats_window_size: int = ..., tensorboard_log: str | None = ...,
            policy_kwargs: dict[str, Any] | None = ..., verbose: int = ..., seed: int | None = ...,
            device: Device = ...,
            *, distill: Distill = ..., speed: str | Speed | None = ..., rollout_device: Device | None = ...,
            workers: Any = ...,
            teacher: Any = ..., states: Any = ..., divergence: Any = ..., strength: Any = ..., timing: Any = ...,
        ) -> None: ...

    class DistilledDQN(DQN, _Distilled):
        def __init__(
            self, policy: str | type[DQNPolicy], env: GymEnv | str, learning_rate: float | Schedule = ...,
            buffer_size: int = ..., learning_starts: int = ..., batch_size: int = ..., tau: float = ...,
            gamma: float = ..., train_freq: int | tuple[int, str] = ..., gradient_steps: int = ...,
            replay_buffer_class: type[ReplayBuffer] | None = ..., replay_buffer_kwargs: dict[str, Any] | None = ...,
            optimize_memory_usage: bool = ..., n_steps: int = ..., target_update_interval: int = ...,
            exploration_fraction: float = ..., exploration_initial_eps: float = ...,
            exploration_final_eps: float = ..., max_grad_norm: float = ..., stats_window_size: int = ...,
            tensorboard_log: str | None = ..., policy_kwargs: dict[str, Any] | None = ..., verbose: int = ...,
            seed: int | None = ..., device: Device = ...,
            *, distill: Distill = ..., speed: str | Speed | None = ..., rollout_device: Device | None = ...,
            workers: Any = ...,
            teacher: Any = ..., states: Any = ..., divergence: Any = ..., strength: Any = ..., timing: Any = ...,
        ) -> None: ...

    class DistilledSAC(SAC, _Distilled):
        def __init__(
            self, policy: str | type[SACPolicy], env: GymEnv | str, learning_rate: float | Schedule = ...,
            buffer_size: int = ..., learning_starts: int = ..., batch_size: int = ..., tau: float = ...,
            gamma: float = ..., train_freq: int | tuple[int, str] = ..., gradient_steps: int = ...,
            action_noise: ActionNoise | None = ..., replay_buffer_class: type[ReplayBuffer] | None = ...,
            replay_buffer_kwargs: dict[str, Any] | None = ..., optimize_memory_usage: bool = ..., n_steps: int = ...,
            ent_coef: str | float = ..., target_update_interval: int = ..., target_entropy: str | float = ...,
            use_sde: bool = ..., sde_sample_freq: int = ..., use_sde_at_warmup: bool = ...,
            stats_window_size: int = ..., tensorboard_log: str | None = ...,
            policy_kwargs: dict[str, Any] | None = ..., verbose: int = ..., seed: int | None = ...,
            device: Device = ...,
            *, distill: Distill = ..., speed: str | Speed | None = ..., rollout_device: Device | None = ...,
            workers: Any = ...,
            teacher: Any = ..., states: Any = ..., divergence: Any = ..., strength: Any = ..., timing: Any = ...,
        ) -> None: ...

    class DistilledTD3(TD3, _Distilled):
        def __init__(
            self, policy: str | type[TD3Policy], env: GymEnv | str, learning_rate: float | Schedule = ...,
            buffer_size: int = ..., learning_starts: int = ..., batch_size: int = ..., tau: float = ...,
            gamma: float = ..., train_freq: int | tuple[int, str] = ..., gradient_steps: int = ...,
            action_noise: ActionNoise | None = ..., replay_buffer_class: type[ReplayBuffer] | None = ...,
            replay_buffer_kwargs: dict[str, Any] | None = ..., optimize_memory_usage: bool = ..., n_steps: int = ...,
            policy_delay: int = ..., target_policy_noise: float = ..., target_noise_clip: float = ...,
            stats_window_size: int = ..., tensorboard_log: str | None = ...,
            policy_kwargs: dict[str, Any] | None = ..., verbose: int = ..., seed: int | None = ...,
            device: Device = ...,
            *, distill: Distill = ..., speed: str | Speed | None = ..., rollout_device: Device | None = ...,
            workers: Any = ...,
            teacher: Any = ..., states: Any = ..., divergence: Any = ..., strength: Any = ..., timing: Any = ...,
        ) -> None: ...

    class DistilledDDPG(DDPG, _Distilled):
        def __init__(
            self, policy: str | type[TD3Policy], env: GymEnv | str, learning_rate: float | Schedule = ...,
            buffer_size: int = ..., learning_starts: int = ..., batch_size: int = ..., tau: float = ...,
            gamma: float = ..., train_freq: int | tuple[int, str] = ..., gradient_steps: int = ...,
            action_noise: ActionNoise | None = ..., replay_buffer_class: type[ReplayBuffer] | None = ...,
            replay_buffer_kwargs: dict[str, Any] | None = ..., optimize_memory_usage: bool = ..., n_steps: int = ...,
            tensorboard_log: str | None = ..., policy_kwargs: dict[str, Any] | None = ..., verbose: int = ...,
            seed: int | None = ..., device: Device = ...,
            *, distill: Distill = ..., speed: str | Speed | None = ..., rollout_device: Device | None = ...,
            workers: Any = ...,
            teacher: Any = ..., states: Any = ..., divergence: Any = ..., strength: Any = ..., timing: Any = ...,
        ) -> None: ...

    class DistilledMaskablePPO(MaskablePPO, _Distilled):
        def __init__(
            self, policy: str | type[MaskableActorCriticPolicy], env: GymEnv | str,
            learning_rate: float | Schedule = ..., n_steps: int = ..., batch_size: int | None = ...,
            n_epochs: int = ..., gamma: float = ..., gae_lambda: float = ..., clip_range: float | Schedule = ...,
            clip_range_vf: float | Schedule | None = ..., normalize_advantage: bool = ..., ent_coef: float = ...,
            vf_coef: float = ..., max_grad_norm: float = ..., rollout_buffer_class: type[RolloutBuffer] | None = ...,
            rollout_buffer_kwargs: dict[str, Any] | None = ..., target_kl: float | None = ...,
            stats_window_size: int = ..., tensorboard_log: str | None = ...,
            policy_kwargs: dict[str, Any] | None = ..., verbose: int = ..., seed: int | None = ...,
            device: Device = ...,
            *, distill: Distill = ..., speed: str | Speed | None = ..., rollout_device: Device | None = ...,
            workers: Any = ...,
            teacher: Any = ..., states: Any = ..., divergence: Any = ..., strength: Any = ..., timing: Any = ...,
        ) -> None: ...

    class DistilledRecurrentPPO(RecurrentPPO, _Distilled):
        def __init__(
            self, policy: str | type[RecurrentActorCriticPolicy], env: GymEnv | str,
            learning_rate: float | Schedule = ..., n_steps: int = ..., batch_size: int | None = ...,
            n_epochs: int = ..., gamma: float = ..., gae_lambda: float = ..., clip_range: float | Schedule = ...,
            clip_range_vf: float | Schedule | None = ..., normalize_advantage: bool = ..., ent_coef: float = ...,
            vf_coef: float = ..., max_grad_norm: float = ..., use_sde: bool = ..., sde_sample_freq: int = ...,
            target_kl: float | None = ..., stats_window_size: int = ..., tensorboard_log: str | None = ...,
            policy_kwargs: dict[str, Any] | None = ..., verbose: int = ..., seed: int | None = ...,
            device: Device = ...,
            *, distill: Distill = ..., speed: str | Speed | None = ..., rollout_device: Device | None = ...,
            workers: Any = ...,
            teacher: Any = ..., states: Any = ..., divergence: Any = ..., strength: Any = ..., timing: Any = ...,
        ) -> None: ...

    class DistilledTRPO(TRPO, _Distilled):
        def __init__(
            self, policy: str | type[ActorCriticPolicy], env: GymEnv | str, learning_rate: float | Schedule = ...,
            n_steps: int = ..., batch_size: int = ..., gamma: float = ..., cg_max_steps: int = ...,
            cg_damping: float = ..., line_search_shrinking_factor: float = ..., line_search_max_iter: int = ...,
            n_critic_updates: int = ..., gae_lambda: float = ..., use_sde: bool = ..., sde_sample_freq: int = ...,
            rollout_buffer_class: type[RolloutBuffer] | None = ...,
            rollout_buffer_kwargs: dict[str, Any] | None = ..., normalize_advantage: bool = ...,
            target_kl: float = ..., sub_sampling_factor: int = ..., stats_window_size: int = ...,
            tensorboard_log: str | None = ..., policy_kwargs: dict[str, Any] | None = ..., verbose: int = ...,
            seed: int | None = ..., device: Device = ...,
            *, distill: Distill = ..., speed: str | Speed | None = ..., rollout_device: Device | None = ...,
            workers: Any = ...,
            teacher: Any = ..., states: Any = ..., divergence: Any = ..., strength: Any = ..., timing: Any = ...,
        ) -> None: ...

    class DistilledARS(ARS, _Distilled):
        def __init__(
            self, policy: str | type[ARSPolicy], env: GymEnv | str, n_delta: int = ..., n_top: int | None = ...,
            learning_rate: float | Schedule = ..., delta_std: float | Schedule = ..., zero_policy: bool = ...,
            alive_bonus_offset: float = ..., n_eval_episodes: int = ..., policy_kwargs: dict[str, Any] | None = ...,
            stats_window_size: int = ..., tensorboard_log: str | None = ..., seed: int | None = ...,
            verbose: int = ..., device: Device = ...,
            *, distill: Distill = ..., speed: str | Speed | None = ..., rollout_device: Device | None = ...,
            workers: Any = ...,
            teacher: Any = ..., states: Any = ..., divergence: Any = ..., strength: Any = ..., timing: Any = ...,
        ) -> None: ...

    class DistilledQRDQN(QRDQN, _Distilled):
        def __init__(
            self, policy: str | type[QRDQNPolicy], env: GymEnv | str, learning_rate: float | Schedule = ...,
            buffer_size: int = ..., learning_starts: int = ..., batch_size: int = ..., tau: float = ...,
            gamma: float = ..., train_freq: int | tuple[int, str] = ..., gradient_steps: int = ...,
            replay_buffer_class: type[ReplayBuffer] | None = ..., replay_buffer_kwargs: dict[str, Any] | None = ...,
            optimize_memory_usage: bool = ..., n_steps: int = ..., target_update_interval: int = ...,
            exploration_fraction: float = ..., exploration_initial_eps: float = ...,
            exploration_final_eps: float = ..., max_grad_norm: float | None = ..., stats_window_size: int = ...,
            tensorboard_log: str | None = ..., policy_kwargs: dict[str, Any] | None = ..., verbose: int = ...,
            seed: int | None = ..., device: Device = ...,
            *, distill: Distill = ..., speed: str | Speed | None = ..., rollout_device: Device | None = ...,
            workers: Any = ...,
            teacher: Any = ..., states: Any = ..., divergence: Any = ..., strength: Any = ..., timing: Any = ...,
        ) -> None: ...

    class DistilledTQC(TQC, _Distilled):
        def __init__(
            self, policy: str | type[TQCPolicy], env: GymEnv | str, learning_rate: float | Schedule = ...,
            buffer_size: int = ..., learning_starts: int = ..., batch_size: int = ..., tau: float = ...,
            gamma: float = ..., train_freq: int | tuple[int, str] = ..., gradient_steps: int = ...,
            action_noise: ActionNoise | None = ..., replay_buffer_class: type[ReplayBuffer] | None = ...,
            replay_buffer_kwargs: dict[str, Any] | None = ..., optimize_memory_usage: bool = ..., n_steps: int = ...,
            ent_coef: str | float = ..., target_update_interval: int = ..., target_entropy: str | float = ...,
            top_quantiles_to_drop_per_net: int = ..., use_sde: bool = ..., sde_sample_freq: int = ...,
            use_sde_at_warmup: bool = ..., stats_window_size: int = ..., tensorboard_log: str | None = ...,
            policy_kwargs: dict[str, Any] | None = ..., verbose: int = ..., seed: int | None = ...,
            device: Device = ...,
            *, distill: Distill = ..., speed: str | Speed | None = ..., rollout_device: Device | None = ...,
            workers: Any = ...,
            teacher: Any = ..., states: Any = ..., divergence: Any = ..., strength: Any = ..., timing: Any = ...,
        ) -> None: ...

    class DistilledCrossQ(CrossQ, _Distilled):
        def __init__(
            self, policy: str | type[CrossQPolicy], env: GymEnv | str, learning_rate: float | Schedule = ...,
            buffer_size: int = ..., learning_starts: int = ..., batch_size: int = ..., gamma: float = ...,
            train_freq: int | tuple[int, str] = ..., gradient_steps: int = ...,
            action_noise: ActionNoise | None = ..., replay_buffer_class: type[ReplayBuffer] | None = ...,
            replay_buffer_kwargs: dict[str, Any] | None = ..., optimize_memory_usage: bool = ..., n_steps: int = ...,
            ent_coef: str | float = ..., target_entropy: str | float = ..., policy_delay: int = ...,
            use_sde: bool = ..., sde_sample_freq: int = ..., use_sde_at_warmup: bool = ...,
            stats_window_size: int = ..., tensorboard_log: str | None = ...,
            policy_kwargs: dict[str, Any] | None = ..., verbose: int = ..., seed: int | None = ...,
            device: Device = ...,
            *, distill: Distill = ..., speed: str | Speed | None = ..., rollout_device: Device | None = ...,
            workers: Any = ...,
            teacher: Any = ..., states: Any = ..., divergence: Any = ..., strength: Any = ..., timing: Any = ...,
        ) -> None: ...

    @overload
    def SelfDistilled(base: type[PPO]) -> type[DistilledPPO]: ...
    @overload
    def SelfDistilled(base: type[A2C]) -> type[DistilledA2C]: ...
    @overload
    def SelfDistilled(base: type[DQN]) -> type[DistilledDQN]: ...
    @overload
    def SelfDistilled(base: type[SAC]) -> type[DistilledSAC]: ...
    @overload
    def SelfDistilled(base: type[DDPG]) -> type[DistilledDDPG]: ...  # type: ignore[overload-overlap]
    @overload
    def SelfDistilled(base: type[TD3]) -> type[DistilledTD3]: ...
    @overload
    def SelfDistilled(base: type[MaskablePPO]) -> type[DistilledMaskablePPO]: ...
    @overload
    def SelfDistilled(base: type[RecurrentPPO]) -> type[DistilledRecurrentPPO]: ...
    @overload
    def SelfDistilled(base: type[TRPO]) -> type[DistilledTRPO]: ...
    @overload
    def SelfDistilled(base: type[ARS]) -> type[DistilledARS]: ...
    @overload
    def SelfDistilled(base: type[QRDQN]) -> type[DistilledQRDQN]: ...
    @overload
    def SelfDistilled(base: type[TQC]) -> type[DistilledTQC]: ...
    @overload
    def SelfDistilled(base: type[CrossQ]) -> type[DistilledCrossQ]: ...
    @overload
    def SelfDistilled(base: type[BaseAlgorithm]) -> type[Any]: ...
    def SelfDistilled(base: type[BaseAlgorithm]) -> type[Any]: ...
