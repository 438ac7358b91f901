"""What TensorBoard shows of a run beside SB3's curves: boards of curves, the settings, marks, and the final metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, Logger, TensorBoardOutputFormat

from rlsd.cli.glance import GLANCE

if TYPE_CHECKING:
    from rlsd.cli.plan import Plan

#: Custom Scalars: boards, and in each the charts with their curves. Of several distillations at once, each has its own.
BOARDS: dict[str, dict[str, list[str]]] = {
    "Learning": {
        "return": ["rollout/ep_rew_mean", "eval/mean_reward"],
        "episode length": ["rollout/ep_len_mean", "eval/mean_ep_length"],
        "losses": [
            "train/loss",
            "train/policy_gradient_loss",
            "train/value_loss",
            "train/actor_loss",
            "train/critic_loss",
        ],
    },
    "Teacher and student": {
        "return of teacher and student": [f"{GLANCE}/return of the student", f"{GLANCE}/return of the teacher"],
        "what both do on the probe states, KL": [f"{GLANCE}/what both do, KL"],
        "divergence where it pulls": ["distill/kl", "train/approx_kl"],
        "agreement": ["distill/agreement"],
        "entropy": ["distill/teacher_entropy", "distill/student_entropy"],
        "teacher's age": ["distill/teacher_age"],
        "return, and what the best teacher earned": ["rollout/ep_rew_mean", "distill/best_mark"],
    },
    "Strength and gates": {
        "strength": ["distill/coef", "distill/open"],
        "penalty's gradient / the agent's own": ["distill/grad_ratio"],
        "changes of the task": ["distill/change", "distill/evidence", "distill/frozen_share"],
    },
    "Cost": {
        "share of the time": ["time/distill_fraction"],
        "steps/s": ["time/fps"],
        "states, snapshots": ["distill/states", "distill/snapshots"],
    },
}
#: The final agent's return, in HParams.
FINAL = "final/mean_reward"
#: Metrics that HParams shows: each the latest of its curve.
_METRICS = (FINAL, "eval/mean_reward", "rollout/ep_rew_mean")
#: What is marked when its count rises, by the last word of its key.
_MARKS = {
    "snapshots": "the teacher was taken anew",
    "change": "alarm: episodes begin otherwise than they did",
    "rebirths": "a student with new weights took over",
    "rebirths_returned": "a predecessor came back",
}
#: Marks of a kind in a run: a teacher that is taken anew before each update needs none.
_MOST = 50


def run_name(plan: Plan, folder: str | None, anew: bool) -> str:
    """Return what TensorBoard calls the run: algorithm, recipe and seed.

    :param folder: where TensorBoard's files go; None for nowhere.
    :param anew: whether this is no part of a run that is resumed; one keeps the name that it has.
    """
    algorithm = plan.algorithm.__name__
    found = [] if anew or folder is None else sorted(Path(folder).glob(f"{algorithm}*_*"))
    if found:
        return found[-1].name.rpartition("_")[0]
    kind = "plain" if plan.distill is None else Path(plan.recipe).stem
    return f"{algorithm}-{kind}-seed{plan.seed}"


def furnish(logger: Logger, plan: Plan) -> None:
    """Write the boards, the settings as text, and those that HParams compares runs by."""
    for output in _outputs(logger):
        output.writer.add_custom_scalars(
            {
                board: {chart: ["Multiline", [_of_each(tag) for tag in tags]] for chart, tags in charts.items()}
                for board, charts in BOARDS.items()
            }
        )
        texts = {"settings/distillation": {} if plan.distill is None else plan.distill.to_dict()}
        texts["settings/hyperparameters"] = dict(plan.hyperparams.values)
        for tag, data in texts.items():
            output.writer.add_text(tag, _code(yaml.safe_dump(data, sort_keys=False)), 0)
        output.write({"hparams": HParam(hyperparameters(plan), dict.fromkeys(_METRICS, 0.0))}, {"hparams": ()}, 0)


def finish(logger: Logger, returns: Mapping[str, float], steps: int) -> None:
    """Write what the run reached."""
    for output in _outputs(logger):
        for tag, value in returns.items():
            output.writer.add_scalar(tag, value, steps)
        output.writer.flush()


class Marks(BaseCallback):
    """Says in TensorBoard's texts when the teacher, the task or the student changed, and when the penalty set in."""

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[str, float] = {}
        self._written: dict[str, int] = {}

    def _on_rollout_start(self) -> None:
        distiller = getattr(self.model, "distiller", None)
        now: dict[str, float] = {}
        for key, value in ({} if distiller is None else distiller.figures).items():
            group, word = key.rpartition("/")[::2]
            if group.startswith("distill") and (word in _MARKS or word == "coef"):
                now[key] = float(value > 0.0) if word == "coef" else value
        for key, value in now.items():
            before = self._before.get(key, 0.0)
            if value != before:
                self._mark(key, _MARKS.get(key.rpartition("/")[2]) or f"the penalty {'set in' if value else 'ended'}")
        self._before = now

    def _mark(self, key: str, text: str) -> None:
        self._written[key] = self._written.get(key, 0) + 1
        if self._written[key] <= _MOST:
            name = key.removeprefix("distill/").rpartition("/")[0]
            for output in _outputs(self.logger):
                output.writer.add_text("marks", f"{name}: {text}" if name else text, self.model.num_timesteps)

    def _on_step(self) -> bool:
        return True


def _outputs(logger: Logger) -> list[TensorBoardOutputFormat]:
    return [output for output in logger.output_formats if isinstance(output, TensorBoardOutputFormat)]


def _of_each(tag: str) -> str:
    """Return the pattern of a curve's key: TensorBoard takes patterns."""
    named = r"( \(.*\))?" if tag.startswith(GLANCE) else ""
    return tag.replace("distill/", "distill/(.*/)?") + named + "$"


def _code(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def hyperparameters(plan: Plan) -> dict[str, bool | str | float | None]:
    """Return what decides the run, flat and plain, as HParams and trackers take it."""
    # TensorBoard sorts by name, and shows the first few.
    settings: dict[str, Any] = {"a run of": f"{plan.recipe}, seed {plan.seed}"}
    settings |= {"algo": plan.options.algo, "env": plan.env_id, "recipe": plan.recipe, "seed": plan.seed}
    settings |= plan.hyperparams.values
    several = getattr(plan.distill, "members", {"": plan.distill} if plan.distill else {})
    for name, config in several.items():
        for question, fields in config.to_dict().items():
            settings |= {f"{name}.{question}.{key}".lstrip("."): value for key, value in fields.items()}
    return {
        key: value if isinstance(value, bool | str | int | float) else str(value) for key, value in settings.items()
    }
