"""Several distillations of one agent at once: each has its teacher, states and strength, and their penalties add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from rlsd.change import ChangeEvent
from rlsd.clock import StepCounter
from rlsd.config import DistillConfig
from rlsd.distiller import Distiller
from rlsd.metrics import Activity
from rlsd.plain import SavedState, State
from rlsd.returns import Episodes
from rlsd.several import DistillConfigs


class Distillers:
    """The self-distillations of one agent, each a :class:`Distiller`: ``agent.distiller.members["guard"]``.

    They count the same steps and episodes. Those whose ``states`` are the same share one store, from which each draws
    its own minibatches. Each pulls as it would alone: what is injected is the sum of their gradients, each bounded by
    itself where SB3 clips nothing.

    :param config: the five answers of each.
    :param agent: the agent to distil.
    :raises TypeError: when one of them cannot be had by this agent.
    """

    def __init__(self, config: DistillConfigs, agent: BaseAlgorithm) -> None:
        self.config = config
        self.clock, self.ended = StepCounter(), Episodes()
        #: In how many updates any of them pulled.
        self.activity = Activity()
        #: The metrics of the latest line of the log, by their TensorBoard keys.
        self.logged: dict[str, float] = {}
        #: Each distillation by its name.
        self.members: dict[str, Distiller] = {}
        for name, answers in config.members.items():
            try:
                self.members[name] = Distiller(answers, agent, self.clock, self.ended, beside=self._all)
            except (TypeError, ValueError) as error:
                raise type(error)(f"distillation {name!r}: {error}") from error

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {member!r}" for name, member in self.members.items())

    def _repr_html_(self) -> str:
        return "".join(f"<h4>{name}</h4>{member._repr_html_()}" for name, member in self.members.items())

    @property
    def figures(self) -> dict[str, float]:
        """Another name of :attr:`logged`."""
        return self.logged

    @property
    def _all(self) -> list[Distiller]:
        return [*self.members.values()]

    @property
    def steps(self) -> int:
        """Gradient steps of the actor while there was something to learn, of the one that had most."""
        return max(member.steps for member in self._all)

    @property
    def deposits(self) -> int:
        """Penalties of all of them."""
        return sum(member.deposits for member in self._all)

    def is_of(self, agent: BaseAlgorithm) -> bool:
        """Tell whether the agent still has the policy that this was made for, compiled or not."""
        return all(member.is_of(agent) for member in self._all)

    def begin(self, agent: BaseAlgorithm) -> None:
        """Let the teachers look at an agent whose distillation begins."""
        for member in self._all:
            member.begin(agent)

    def restart(self, agent: BaseAlgorithm) -> None:
        """Called when the agent's weights are others than its updates made."""
        for member in self._all:
            member.restart(agent)

    def recorders(self, agent: BaseAlgorithm) -> list[BaseCallback]:
        """Return the callbacks that must watch the coming rollout."""
        wanted = [*(member.source.recorder(agent) for member in self._all), self.ended.recorder(agent)]
        return [recorder for recorder in wanted if recorder is not None]

    def sync(self, agent: BaseAlgorithm) -> None:
        """Bring the steps and episodes up to date."""
        self.clock.steps(agent)
        self.ended.sync(agent)

    @contextmanager
    def armed(self, agent: BaseAlgorithm) -> Iterator[None]:
        """Let the agent's own update, run inside, also distil; see :meth:`Distiller.armed`."""
        before = self.deposits
        with ExitStack() as stack:
            for member in self._all:
                stack.enter_context(member.armed(agent))
            yield
        self.activity.count(self.deposits > before, self.clock.steps(agent))

    def after(self, agent: BaseAlgorithm, update: Callable[[], None]) -> None:
        """Do what is due beside the agent's own updates, after each."""
        for member in self._all:
            member.after(agent, update)

    def untold(self) -> list[ChangeEvent]:
        """Return the changes of the task that were noticed since the latest call."""
        return [event for member in self._all for event in member.untold()]

    def log(self, agent: BaseAlgorithm) -> None:
        """Hand the metrics to SB3's logger, those of ``guard`` as ``distill/guard/...``, and begin new ones."""
        found: dict[str, float] = {}
        for name, member in self.members.items():
            for key, value in member.line().items():
                shared = key == "time/distill_fraction"
                named = key if shared else key.replace("distill/", f"distill/{name}/", 1)
                found[named] = found.get(named, 0.0) + value
        self.logged = found or self.logged
        for key, value in found.items():
            agent.logger.record(key, value)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the distillations' state, by name."""
        return {f"{name}/{key}": t for name, member in self.members.items() for key, t in member.tensors().items()}

    def state(self) -> State:
        """Return the rest of the state as plain data."""
        return {
            "members": {name: member.state() for name, member in self.members.items()},
            "activity": self.activity.state(),
        }

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: SavedState) -> None:
        """Load what :meth:`tensors` and :meth:`state` returned.

        :raises ValueError: when it is another configuration's, or does not fit the agent.
        """
        try:
            for name, member in self.members.items():
                mine = {k.removeprefix(f"{name}/"): t for k, t in tensors.items() if k.startswith(f"{name}/")}
                member.load(agent, mine, state["members"][name])
            self.activity.load(state["activity"])
        except KeyError as error:
            raise ValueError(f"the saved distillation state does not fit this agent: {error} is missing") from error


def distiller_for(config: DistillConfig | DistillConfigs, agent: BaseAlgorithm) -> Distiller | Distillers:
    """Return the distillation of an agent, or its several.

    :raises TypeError: when it cannot be had by this agent.
    """
    return Distiller(config, agent) if isinstance(config, DistillConfig) else Distillers(config, agent)
