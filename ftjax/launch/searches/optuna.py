"""Settings that Optuna proposes in rounds, from what those before came to (`ftjax[optuna]`).

The sampler is TPE (Bergstra et al., NeurIPS 2011). Its study is made anew from the workdirs at each
round, so that no database has to outlive a launcher. A job that diverged counts as worse than any
that ended; one that failed says nothing of its setting.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence

from ftjax.core.typed import Count, Natural
from ftjax.evals.lib import retention
from ftjax.launch.lib import space as spaces

LEARNS = True
TRIES = 100  # of a setting that no job has yet; a space of choices may be used up


def make(*, metric: str, at_once: Count = 4, startup: Natural = 10, seed: Natural = 0) -> Callable:
    """Propose settings whose `metric` is better, as its name says which way that is.

    metric: of a finished job, as in its summary. at_once: jobs of a round. startup: settings drawn
      at random before any is learned from.
    """
    direction = {retention.HIGHER: "maximize", retention.LOWER: "minimize"}[
        retention.direction(metric.rsplit("/", 1)[-1])
    ]

    def propose(space: Mapping, count: int, trials: Sequence) -> list[spaces.Overrides]:
        if importlib.util.find_spec("optuna") is None:
            raise ValueError(
                "sweep(): search.name: got 'optuna', which is not installed here; expected its "
                "package; pip install 'ftjax[optuna]', or use 'sobol'"
            )
        found = [trial.overrides for trial in trials]
        running = sum(trial.state == "open" for trial in trials)
        room = min(at_once - running, count - len(found))
        if room <= 0:
            return found
        own = {key: spaces.dimension(dim, where=key) for key, dim in space.items()}
        study = _study(own, trials, direction=direction, startup=startup, seed=seed)
        return found + _new(study, own, found, room=room)

    return propose


def _new(study, own: Mapping, found: Sequence, *, room: int) -> list[spaces.Overrides]:
    """Ask for settings that no job has; fewer than `room` where there are no more."""
    made: list[spaces.Overrides] = []
    for _ in range(TRIES):
        params = study.ask(_distributions(own)).params
        chosen = {key: _value(dim, params[key]) for key, dim in own.items()}
        if chosen not in [*found, *made]:
            made.append(chosen)
        if len(made) == room:
            break
    return made


def _study(own: Mapping, trials: Sequence, *, direction: str, startup: int, seed: int):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line for each trial else
    # Another seed a round: each begins with the generator of a new process. What runs counts as
    # bad, so that the settings of a round differ.
    sampler = optuna.samplers.TPESampler(
        seed=seed + len(trials), n_startup_trials=startup, constant_liar=True
    )
    study = optuna.create_study(direction=direction, sampler=sampler)
    states = {"open": "RUNNING", "done": "COMPLETE", "diverged": "PRUNED", "failed": "FAIL"}
    for trial in trials:
        params = {key: _param(dim, trial.overrides[key]) for key, dim in own.items()}
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[states[trial.state]], params=params,
                distributions=_distributions(own), value=trial.value,
            )
        )  # fmt: skip
    return study


def _distributions(own: Mapping) -> dict:
    from optuna import distributions

    def one(dim):
        if isinstance(dim, spaces.Choice):
            # Places, since a choice may be a section or a list, which Optuna cannot keep.
            return distributions.CategoricalDistribution(range(len(dim.values)))
        return distributions.FloatDistribution(dim.low, dim.high, log=dim.is_log)

    return {key: one(dim) for key, dim in own.items()}


def _value(dim, param):
    return dim.values[param] if isinstance(dim, spaces.Choice) else dim.rounded(param)


def _param(dim, value):
    return dim.values.index(value) if isinstance(dim, spaces.Choice) else value
