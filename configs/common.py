"""What config files have in common.

A config file starts from `base()`, whose keys and defaults are those of `ftjax/run/config.py`, sets
what differs, and is locked by the main: a key that nothing reads is an error.
"""

import json
import math
import os
import pathlib
from fnmatch import fnmatch

from ftjax.core import config as conf
from ftjax.core import hub_client, remote
from ftjax.data import chat, stops, tokenizer_files
from ftjax.models.hf import repository
from ftjax.optim import rates
from ftjax.run import config as settings

parse_arg = conf.parse_arg


base = settings.defaults  # every legal key, with its default or a required placeholder


def online(c, *, prompts: int, samples: int, max_new_tokens: int):
    """Let a run learn from its own samples: the keys of `experiments.online`, with defaults."""
    sampled = dict(prompts=prompts, samples=samples, max_new_tokens=max_new_tokens)
    c.rollout = conf.from_dataclass(settings.Rollout, **sampled)
    c.rewards, c.advantages = conf.create(), conf.create()
    return c


def pattern(text: str) -> str:
    r"""Return a pattern of fields with the line ends and tabs that shells pass as `\n` and `\t`."""
    return text.replace("\\n", "\n").replace("\\t", "\t") if "{" in text else text


def rate(base: str, tiny: float, *, full: bool, preference: bool = False) -> float:
    """Return the learning rate to begin with: `tiny` for bases of the embedded one's size.

    For larger ones it is that of `ftjax.optim.rates`, which has the sources.
    """
    size = parameters(base)
    if rates.is_tiny(size):
        return tiny
    return rates.usual(size, full=full, preference=preference)


def parameters(base: str) -> int:
    """Count the parameters in a directory's safetensors by their headers; 0 where there are none.

    A header is its length in eight bytes and JSON. What cannot be read is refused when the base is.
    One elsewhere has half as many as its files have bytes: nearly all of them are of 16 bits.
    """
    count = 0
    if remote.is_url(base):
        return _half(remote.sizes(base, where="base"))
    if base and repository.is_elsewhere(base):
        folder = hub_client.snapshot(base, ["config.json"], where="base")
        return _half(hub_client.sizes(folder, base))
    for path in sorted(pathlib.Path(base).glob("*.safetensors")) if base else ():
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            shapes = [each["shape"] for name, each in header.items() if name != "__metadata__"]
            count += sum(map(math.prod, shapes))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError):
            return 0
    return count


def is_instruct(base: str) -> bool:
    """Return whether a base was instructed: whether it ends answers as its template ends them.

    A template alone says nothing, for many come with bases that never saw it. The embedded base has
    one too. What cannot be read is refused when the base is.
    """
    if not base or base == "tiny":
        return False
    try:
        tokenizer = tokenizer_files.load(_small(base))
        template = chat.find(None, tokenizer) if tokenizer.chat_template is not None else None
    except ValueError:
        return False
    ends = (tokenizer.eos_id, *tokenizer.stop_ids)
    return template is not None and stops.printed(tokenizer, template) in ends


def _small(base: str) -> pathlib.Path:
    """Return a folder with the small files of a base."""
    if remote.is_url(base):
        here = remote.sizes(base, where="base")
        names = [name for name in repository.SMALL if name in here]
        return remote.gather(base, names, where="base")
    if repository.is_elsewhere(base):
        return hub_client.snapshot(base, repository.SMALL, where="base")
    return pathlib.Path(base)


def _half(sizes: dict[str, int]) -> int:
    return sum(size for name, size in sizes.items() if fnmatch(name, "model*.safetensors")) // 2


def tune(c, *, full: bool, rank: int = 16):
    """Choose between full fine-tuning and LoRA on all linear maps, with usual learning rates."""
    if full:
        c.optim.learning_rate = rate(c.model.base, 3e-4, full=True)
        c.optim.no_decay = ("**{norm,norm/*,bias}",)  # of a family, those that it has
        return c
    # More of it: groups=(("blocks/mlp/*", dict(rank=4)),) changes keywords at some paths.
    c.adapter = dict(name="lora", where="blocks/**", rank=rank, rslora=False, dropout=0.0)
    c.adapter.alpha = 2.0 * c.adapter.get_ref("rank")  # follows --config.adapter.rank
    c.optim.learning_rate = rate(c.model.base, 3e-3, full=False)
    return c


def parse_domain(arg, *, steps: int = 200, **more):
    """Parse what the configs of a domain have in common: data, base, method, length."""
    own = dict(base="tiny", full=False, rank=16, steps=steps, runlocal=False)
    return parse_arg(arg, data=data_folder(), **own, **more)


def domain(arg):
    """Return the config that fine-tuning to a domain starts from, with general text as old."""
    c = base()
    c.model.base = arg.base
    tune(c, full=arg.full, rank=arg.rank)
    c.optim.schedule = dict(name="cosine", warmup_ratio=0.05)
    c.steps, c.batch_size = arg.steps, 16
    return general(c, arg.data)


def held_skill(c, skill: str):
    """Measure a skill on inputs that training does not use, and what is left of all the old ones.

    Returns the data section of the skill.
    """
    every = dict(name="embedded", domain="skills", split="test")
    own = dict(name="embedded", domain="skills", skills=skill)
    c.evals.skill = dict(name="generate", group="new", data=dict(own, split="test"), rows=200)
    c.evals.skills = dict(name="generate", group="old", data=every, rows=64, max_new_tokens=12)
    return own


STAND_IN = dict(name="embedded", domain="skills", rows=32)


def judged(kind: str, **more):
    """Return a data section of embedded answers of which it is known which ones are right."""
    return dict(name="judged", domain="skills", kind=kind, **more)


def shrink(c, *, tokens: int = 64, stand_in: bool = False, kind: str = "prompt"):
    """Make a run end within seconds on a CPU: two small steps, few evaluation rows.

    `stand_in` replaces data that the machine may not have by a little of the embedded one, of a
    kind that the objective learns from.
    """
    if stand_in:
        own = STAND_IN if kind == "prompt" else judged(kind, rows=32)
        c.data = dict(own, max_tokens=tokens)
        for label in c.evals:
            pairs = c.evals[label].name == "preference"
            c.evals[label].data = judged("preference", rows=32) if pairs else dict(STAND_IN)
    c.steps, c.epochs, c.min_steps = 2, None, 0
    c.batch_size, c.accumulate = 8, 1
    c.log_every_steps, c.eval_every_steps, c.checkpoint.every_steps = 1, 0, 0
    c.data.max_tokens = min(c.data.max_tokens, tokens)
    c.optim.schedule = dict(name="constant")
    c.samples.max_new_tokens = 4
    if "rollout" in c:
        c.rollout.prompts, c.rollout.samples, c.rollout.max_new_tokens = 8, 2, 4
    for label in c.evals:
        c.evals[label].rows = 2
        if c.evals[label].name == "generate":
            c.evals[label].max_new_tokens = 4
    return c


def data_folder() -> str:
    """Return the default folder of real data: what FTJAX_DATA says, else `data`."""
    return os.environ.get("FTJAX_DATA", "data")


def general(c, folder: str):
    """Measure general text before and after: encyclopedia articles and simple stories."""
    for name in ("wiki", "tinystories"):
        text = dict(name="jsonl", path=f"{folder}/corpus/{name}/test.jsonl.gz", kind="text")
        c.evals[name] = dict(name="nll", group="old", data=dict(text, loss="all"), rows=100)
    return c


def preference(arg, *, kind: str = "preference", score: str = "ratio", **source):
    """Return the config that the configs of human preferences start from: HH-RLHF's pairs.

    score: what a reward is to the evaluation of held-out pairs. source: more of the data section.
    """
    c = base()
    c.model.base = arg.base
    tune(c, full=arg.full, rank=arg.rank)
    tiny = 3e-5 if arg.full else 1e-3
    c.optim.learning_rate = rate(arg.base, tiny, full=arg.full, preference=True)
    c.optim.schedule = dict(name="linear", warmup_ratio=0.05)
    c.seed = dict(data=arg.seed, init=arg.seed, adapter=arg.seed, sampling=arg.seed)
    folders = [f"{arg.data}/preference/{name}" for name in arg.parts.split("+")]
    own = dict(name="jsonl", path=[f"{folder}/train.jsonl.gz" for folder in folders])
    c.data = dict(own | source, kind=kind, max_tokens=arg.tokens)
    held = dict(name="jsonl", path=[f"{folder}/test.jsonl.gz" for folder in folders])
    held["kind"] = "preference"
    c.evals.pairs = dict(name="preference", group="new", score=score, data=held, rows=400)
    c.steps, c.batch_size = arg.steps, 8
    return general(c, arg.data)


def parse_preference(arg, **more):
    """Parse what the configs of human preferences have in common; parts=a+b joins data sets.

    The helpful answers alone by default: people prefer longer ones there and shorter ones among the
    harmless, which a small model cannot tell apart.
    """
    return parse_domain(arg, steps=100, parts="hh_helpful", tokens=256, seed=0, **more)
