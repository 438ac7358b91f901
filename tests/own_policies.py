"""Policies as people write them: with a distribution of their own."""

from __future__ import annotations

import torch
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import distributions as dist
from torch import nn


class Own(Distribution):
    """What SB3 asks of a distribution, around one of torch's that :meth:`make` builds from a network's output."""

    outputs = 2  # of the network, for each action

    def __init__(self, low, high) -> None:
        super().__init__()
        self.low, self.scale = torch.as_tensor(low), torch.as_tensor(high - low)  # settings, in tensors

    def make(self, output):
        raise NotImplementedError

    def proba_distribution_net(self, latent_dim):
        return nn.Linear(latent_dim, self.outputs * len(self.low))

    def proba_distribution(self, output):
        self.distribution = self.make(output)
        return self

    def log_prob(self, actions):
        found = self.distribution.log_prob(((actions - self.low) / self.scale).clamp(1e-5, 1 - 1e-5))
        return found.sum(-1) if found.dim() > 1 else found

    def entropy(self):
        return None  # as SB3 has it where there is no closed form

    def sample(self):
        return self.low + self.scale * self.distribution.sample()

    def mode(self):
        return self.low + self.scale * self.distribution.mean

    def actions_from_params(self, output, deterministic=False):
        return self.proba_distribution(output).get_actions(deterministic)

    def log_prob_from_params(self, output):
        actions = self.actions_from_params(output)
        return actions, self.log_prob(actions)


class BetaDistribution(Own):
    def make(self, output):
        a, b = (nn.functional.softplus(output) + 1.0).chunk(2, -1)
        return dist.Beta(a, b)


class LaplaceDistribution(Own):
    def make(self, output):
        place, scale = output.chunk(2, -1)
        return dist.Laplace(place, scale.exp())


class JoinedGamma(Own):
    def make(self, output):
        a, b = (nn.functional.softplus(output) + 1.0).chunk(2, -1)
        return dist.Independent(dist.Gamma(a, b), 1)


class Correlated(Own):
    outputs = 3

    def make(self, output):
        mean, spread, below = output.split([2, 2, 2], -1)
        corner = torch.zeros(len(output), 2, 2)
        corner = corner + torch.diag_embed(spread.exp())
        corner[:, 1, 0] = corner[:, 1, 0] + below[:, 0]
        return dist.MultivariateNormal(mean, scale_tril=corner)


class SquashedBeta(BetaDistribution):
    """The Beta stretched over the actions by torch itself."""

    def make(self, output):
        return dist.TransformedDistribution(super().make(output), [dist.AffineTransform(self.low, self.scale)])

    def log_prob(self, actions):
        return self.distribution.log_prob(actions.clamp(-1 + 1e-5, 1 - 1e-5)).sum(-1)

    def sample(self):
        return self.distribution.sample()

    def mode(self):
        return self.low + self.scale * self.distribution.base_dist.mean


class ShiftedByState(BetaDistribution):
    """The same over a range that the network decides: no bijection that is alike for all states."""

    outputs = 3

    def make(self, output):
        shape, shift = output.split([4, 2], -1)
        return dist.TransformedDistribution(super().make(shape), [dist.AffineTransform(shift, self.scale)])

    def log_prob(self, actions):
        return self.distribution.log_prob(actions.clamp(-1 + 1e-5, 1 - 1e-5)).sum(-1)

    def sample(self):
        return self.distribution.sample()


class MixtureDistribution(Own):
    outputs = 4

    def make(self, output):
        mean, spread = output.view(len(output), 2, 2, 2).unbind(-1)
        which = dist.Categorical(logits=torch.zeros(len(output), 2, 2))
        return dist.MixtureSameFamily(which, dist.Normal(mean, spread.exp()))


class LaplaceInGaussian(DiagGaussianDistribution):
    """A distribution that is SB3's by its class, and not by what it is."""

    def proba_distribution(self, mean_actions, log_std):
        self.distribution = dist.Laplace(mean_actions, torch.ones_like(mean_actions) * log_std.exp())
        return self


class Binned(Own):
    """Continuous actions in seven bins each."""

    outputs = 7

    def make(self, output):
        return dist.Categorical(logits=output.view(len(output), 2, 7))

    def log_prob(self, actions):
        return self.distribution.log_prob(((actions - self.low) / self.scale * 6).round().clamp(0, 6)).sum(-1)

    def sample(self):
        return self.low + self.scale * self.distribution.sample() / 6

    def mode(self):
        return self.low + self.scale * self.distribution.logits.argmax(-1) / 6


def policy_with(distribution: type, base: type = ActorCriticPolicy) -> type:
    """A policy that acts by a distribution of one's own."""

    class OwnPolicy(base):
        def _build(self, lr_schedule):
            super()._build(lr_schedule)
            if distribution is LaplaceInGaussian:
                self.action_dist = LaplaceInGaussian(self.action_space.shape[0])
                return
            self.action_dist = distribution(self.action_space.low, self.action_space.high)
            self.action_net = self.action_dist.proba_distribution_net(self.mlp_extractor.latent_dim_pi)
            self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

        def _get_action_dist_from_latent(self, latent_pi):
            if distribution is LaplaceInGaussian:
                return super()._get_action_dist_from_latent(latent_pi)
            return self.action_dist.proba_distribution(self.action_net(latent_pi))

    OwnPolicy.__name__ = f"{distribution.__name__}Policy"
    return OwnPolicy


class BetaPolicy(policy_with(BetaDistribution)):  # type: ignore[misc] # by a name that can be pickled
    pass
