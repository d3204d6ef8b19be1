"""MLflow (`pip install "ftjax[mlflow]"`); a resumed run goes on under its id.

Where the server is, MLFLOW_TRACKING_URI says.
"""

from collections.abc import Iterator, Mapping

from ftjax.report import tracking

PACKAGE = "mlflow"
LONGEST = 500  # characters of a parameter's value that every server takes


def make(*, project: str, run: tracking.Run) -> tracking.Service:
    """Make the service; project: the name of its experiment."""
    import mlflow
    from mlflow import exceptions

    def start(known: str) -> str:
        mlflow.set_experiment(project)
        tags = {"group": run.group}
        own = dict(run_id=known) if known else dict(run_name=run.name, tags=tags)
        made = mlflow.start_run(**own)
        if not known:  # parameters cannot be changed
            mlflow.log_params(dict(_leaves(run.config)))
        return made.info.run_id

    log = lambda row, step: mlflow.log_metrics(row, step=step)
    return tracking.Service(start, log, mlflow.end_run, (exceptions.MlflowException,))


def _leaves(section: Mapping, path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", str(value)[:LONGEST]
