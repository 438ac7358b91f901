"""Evaluations in, teacher out: what SB3's ``EvalCallback`` finds decides who is the best."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from rlsd.teachers import BestTeacher


class OfferEvaluation(BaseCallback):
    """Hand the result of each evaluation to the agent's teacher, which is the best policy so far by evaluation.

    As ``EvalCallback(eval_env, callback_after_eval=rlsd.OfferEvaluation())``, for an agent whose teacher is
    ``rlsd.Best(by="evaluation")``. See :meth:`rlsd.teachers.BestTeacher.offer`.

    :raises TypeError: after the first evaluation, when it is used otherwise.
    """

    def _on_step(self) -> bool:
        if not isinstance(self.parent, EvalCallback):
            raise TypeError("OfferEvaluation goes into SB3's EvalCallback, as its callback_after_eval")
        distiller = getattr(self.model, "distiller", None)
        members = [] if distiller is None else [*distiller.members.values()]
        found = " and ".join(f"teacher {member.config.teacher.name!r}" for member in members) or "no distillation"
        judged = [member.teacher for member in members if isinstance(member.teacher, BestTeacher)]
        judged = [teacher for teacher in judged if teacher.evaluated]
        if not judged:
            raise TypeError(
                f"OfferEvaluation needs teacher {{type: best, by: evaluation}}, and the agent has {found}: leave it out"
            )
        for teacher in judged:
            teacher.offer(self.model, self.parent.last_mean_reward)
        return True
