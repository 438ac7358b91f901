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
        teacher = None if distiller is None else distiller.teacher
        if not isinstance(teacher, BestTeacher) or not teacher.evaluated:
            found = "no distillation" if distiller is None else f"teacher {distiller.config.teacher.name!r}"
            raise TypeError(
                f"OfferEvaluation needs teacher {{type: best, by: evaluation}}, and the agent has {found}: leave it out"
            )
        teacher.offer(self.model, self.parent.last_mean_reward)
        return True
