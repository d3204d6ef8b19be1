"""The whole of it from Python: what a notebook needs, over what the commands run.

    import ftjax

    run = ftjax.train("sft:path=train.jsonl,held=test.jsonl", "runs/mine", {"epochs": 3})
    ftjax.generate(run, "What is the capital of Peru?")
    ftjax.evaluate(run)["after"]
    run = ftjax.load("runs/mine")            # later; ftjax.load("tiny") is a base

One process: runs over several hosts are started as commands. Nothing heavy is imported before one
of the functions is called.
"""

import dataclasses
import importlib
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from ftjax.core import shipped


@dataclasses.dataclass(frozen=True)
class Model:
    """Weights on the devices, and the parts of the run that they are of.

    Attributes:
      parts: `ftjax.run.build.Parts`: settings, mesh, model, tokenizer.
      params: {"model": ..., "adapters": ...}.
      start: what the run began with, adapters off; of a base, the base.
      step: of the checkpoint.
      workdir: of the run; None where there is none.
    """

    parts: Any
    params: dict
    start: dict
    step: int
    workdir: pathlib.Path | None

    def __repr__(self) -> str:
        source = f"base {self.parts.source}" if self.workdir is None else f"run {self.workdir}"
        return f"<ftjax.Model: {source}, step {self.step}, {self.parts.parameters:,} parameters>"


def train(
    config: str | Mapping, workdir: str | pathlib.Path, keys: Mapping[str, Any] | None = None, *,
    restart_data: bool = False, allow_config_change: bool = False,
) -> Model:  # fmt: skip
    """Train as a config says, or go on with the run that `workdir` holds, and load the result.

    A config with `rollout` learns from samples of its own, as `experiments.online` does; any other
    trains on data, as `experiments.train`. The files of the run are theirs.

    Args:
      config: what `--config` takes: "sft:path=train.jsonl", the name of a config that comes along,
        or "my.py:arg"; or a config itself, as `get_config()` returns it.
      workdir: the directory of the run, or a URL such as "gs://bucket/runs/mine".
      keys: dotted keys and values, set as `--config.KEY=VALUE` sets them.
      restart_data, allow_config_change: as the flags of these names.

    Raises:
      ValueError: anything wrong with the config, the data, or what the workdir holds.
    """
    settings = _settings(config, keys or {})
    main = _main("train" if settings.rollout is None else "online")
    from ftjax.run import workdirs

    own = dict(restart_data=restart_data, allow_config_change=allow_config_change)
    with workdirs.opened(workdir) as folder:
        main.train(settings, folder, **own)
        return load(folder)


def load(
    place: str | pathlib.Path, *, adapter: str | pathlib.Path | None = None,
    checkpoint: str | int = "latest", mesh: Mapping[str, int] | None = None,
) -> Model:  # fmt: skip
    """Load a run, or a base, with its weights.

    Args:
      place: the directory or URL of a run, or what `model.base` takes: a Hugging Face directory,
        "org/name" of the Hub, or "tiny", the embedded base.
      adapter: a PEFT directory, over a base.
      checkpoint: of a run: "latest", "best" or a step.
      mesh: sizes of the devices' axes, such as dict(fsdp=2); a run's own, fitted to the devices,
        when not given.

    Raises:
      ValueError: nothing of the kind is there, or it does not fit.
    """
    from ftjax.run import named_adapters, reader, workdirs

    if _is_run(place):
        if adapter is not None:
            raise ValueError(
                f"adapter: got {str(adapter)!r} over the run {str(place)!r}; expected a base; a "
                "run has its own adapter"
            )
        with workdirs.read(place) as folder:
            run = reader.load(folder, checkpoint=str(checkpoint), sizes=mesh)
        return Model(run.parts, run.params, run.base, run.step, folder)
    parts = named_adapters.parts_over(str(place), sizes=mesh)
    start = reader.base_of(parts)
    given = {} if adapter is None else {"adapter": pathlib.Path(adapter)}
    params, _ = named_adapters.over(parts, start, given, [0])
    return Model(parts, params, start, 0, None)


def generate(
    model: Model, prompts: str | Sequence, *, max_new_tokens: int = 128, temperature: float = 0.0,
    top_k: int | None = None, top_p: float | None = None, min_p: float | None = None,
    until: Sequence[str] = (), chat_template: str | None = None, batch_size: int = 8, seed: int = 0,
    before: bool = False,
) -> str | list[str]:  # fmt: skip
    """Continue a prompt, or each of several, in the form in which the run was trained.

    Args:
      prompts: a text, or a list of which each is a text or a list of messages
        (`{"role": ..., "content": ...}`).
      temperature, top_k, top_p, min_p: how tokens are drawn; at temperature 0 the likeliest.
      until: strings before which a text ends.
      chat_template: "chatml", a .jinja file; the run's own when not given.
      before: answer with what the run started from.

    Returns the new text of the prompt, or of each.

    Raises:
      ValueError: a prompt leaves no room, or needs a chat template and there is none.
    """
    import jax

    from ftjax.core import mesh as meshes
    from ftjax.run import prompting
    from ftjax.sampling import text

    asked, parts = [prompts] if isinstance(prompts, str) else list(prompts), model.parts
    if not asked:
        return []
    batch = meshes.round_up_to_replicas(min(batch_size, len(asked)), parts.mesh)
    form = prompting.form_of(parts.tokenizer, parts.settings.data, chat_template=chat_template)
    respond = text.make(
        parts.model, parts.tokenizer, max_new_tokens=max_new_tokens, temperature=temperature,
        top_k=top_k, top_p=top_p, min_p=min_p, until=tuple(until), mesh=parts.mesh,
        stop_ids=form.stop_ids, batch_size=batch,
        encode=prompting.encode_of(parts.tokenizer, form),
    )  # fmt: skip
    texts = respond(model.start if before else model.params, asked, jax.random.key(seed))
    return texts[0] if isinstance(prompts, str) else texts


def evaluate(model: Model, evals: Mapping[str, Mapping] | None = None) -> dict:
    """Run the evaluations of a run on its base and on its weights.

    Args:
      model: of a run.
      evals: in place of those of the run's config, in the same form:
        {"held": dict(name="nll", group="new", data=dict(name="jsonl", path=...))}.

    Returns `step`, `before` and `after` (by "label/metric"), `change` (the difference, paired by
    example, with a 95 % interval), `verdicts` and `retention`: what `experiments.evaluate` writes.

    Raises:
      ValueError: there is no run, or it has no evaluations.
    """
    from ftjax.run import comparison, evaluation

    if model.workdir is None:
        raise ValueError(
            f"model: got {model!r}; expected a run: a base has nothing to compare with"
        )
    parts = model.parts
    if evals is not None:
        settings = dataclasses.replace(parts.settings, evals=dict(evals))
        parts = dataclasses.replace(parts, settings=settings)
    found = evaluation.build(parts)
    if not found.evaluators:
        raise ValueError(
            f"evals: got none in the config of {str(model.workdir)!r}; expected one at least; pass "
            "evals=dict(label=dict(name='nll', data=...))"
        )
    compared = comparison.compare(found.evaluators, model.start, model.params)
    return comparison.record(compared, found.groups, step=model.step, stated=found.stated)


def _settings(config: str | Mapping, keys: Mapping[str, Any]):
    """Read a config as `--config` and `--config.KEY=VALUE` do."""
    from ftjax.core import config as conf
    from ftjax.run import config as settings
    from ftjax.run import keys as keys_lib

    if isinstance(config, str | pathlib.Path):
        _reachable()  # configs import `configs.common`
        config = conf.load(str(config))
    elif keys:
        config = conf.create(**conf.to_dict(config))  # the caller's own stays as it is
    as_text = lambda value: value if isinstance(value, str) else repr(value)
    texts = [f"{key}={as_text(value)}" for key, value in keys.items()]
    return settings.read(keys_lib.apply(config, texts))


def _is_run(place: str | pathlib.Path) -> bool:
    """Return whether a directory is of a run: bases have a config.json too, with a model_type."""
    from ftjax.core import remote

    if remote.is_url(place):
        path = remote.gather(str(place), ["config.json"], where="place") / "config.json"
    else:
        path = pathlib.Path(place) / "config.json"
    return path.is_file() and "model_type" not in json.loads(path.read_text(encoding="utf-8"))


def _main(name: str) -> ModuleType:
    """Import a main, whose essay is what trains.

    Raises:
      ValueError: a package of the caller's stands in its place.
    """
    _reachable()
    module = importlib.import_module(f"experiments.{name}")
    if not pathlib.Path(module.__file__).is_relative_to(shipped.folder()):
        raise ValueError(
            f"experiments.{name}: got {module.__file__}, a module of another project; expected "
            "that of ftjax; start Python in another folder, or run the command `ftjax`"
        )
    return module


def _reachable() -> None:
    """Let `experiments` and `configs` be imported, which lie inside of an installed package.

    Behind all other folders, so that they stand in the way of nobody's packages.
    """
    if (folder := str(shipped.folder())) not in sys.path:
        sys.path.append(folder)
