"""The end of a run: after its last epoch, or after an evaluation that is good enough or long the best."""

from efficientnet_pod.recipe.plan import Plan
from efficientnet_pod.train.saves import Position

_SLACK = 1e-6  # epochs, since 0.1 + 0.2 is more than 0.3


def ended_by(plan: Plan, position: Position) -> str | None:
    """Returns what ends the run at this position, whose evaluation has been made; None if it goes on.

    That is the name of a field of ``config.stop``, or ``epochs`` after the last step. All hosts have the same
    position, and so has a run that is started again: they come to the same end.
    """
    stop, is_last = plan.recipe.stop, position.step == plan.total_steps
    if position.best_step and plan.is_eval_due(position.step):
        if stop.at_top1 and position.best_top1 >= stop.at_top1:
            return "at_top1"
        waited = plan.epoch(position.step) - plan.epoch(position.best_step)
        if stop.patience_epochs and waited >= stop.patience_epochs - _SLACK and not is_last:
            return "patience_epochs"
    return "epochs" if is_last else None
