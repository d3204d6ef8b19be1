"""Rounds of sampling and scoring, as the batches of an online run; see `experiments/online.py`.

A round: prompts from the stream -> answers of the present policy -> rewards -> batches for so many
steps of the very step that `experiments.train` makes. A round is sampled when its first batch is
asked for; the sampler is given the trainer's own arrays.
Reads top to bottom: checks, a round, batches.
"""

import functools
import math
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ftjax.core import mesh as meshes
from ftjax.core import rounding, shapes
from ftjax.objectives.losses.advantages import Experience
from ftjax.rl import answers as drawing
from ftjax.rl import batches as makers
from ftjax.rl import metrics as telling
from ftjax.rl import rollout_batch as answers
from ftjax.run import costs, lengths, prompting
from ftjax.run import objective as objectives
from ftjax.run import plan as running
from ftjax.run import reward_model as judging
from ftjax.run.config import Rollout, Settings
from ftjax.sampling import text
from ftjax.train import flops
from ftjax.train import state as states
from ftjax.train.policy import Policy

KL_HORIZON = 10_000  # answers in which the controller of kl_weight reacts; that of TRL's PPO


def check(settings: Settings) -> None:
    """Check what a config says of sampling.

    Raises:
      ValueError: naming the key.
    """
    r = settings.rollout
    if r is None:
        raise ValueError("rollout: got none; expected a section; see `online` in configs/common.py")
    lengths.check_online(settings)
    if settings.anchors:
        raise ValueError(
            f"anchors: got {', '.join(settings.anchors)} in a run that samples its batches; "
            "expected none: they stand beside data; weigh KL to the base in `advantages`, or mix "
            "old prompts in"
        )
    if settings.data["max_tokens"] <= r.max_new_tokens:
        raise ValueError(
            f"rollout.max_new_tokens: got {r.max_new_tokens}; expected less than data.max_tokens = "
            f"{settings.data['max_tokens']}, which is of prompt and answer together"
        )
    judging.make(settings.rewards, faults=r.faults)
    objective = objectives.module_of(settings)
    drawing.share_of(r, objective)
    objectives.check_rollout(settings)
    found = makers.make(settings, objective)
    if found.count % settings.batch_size:
        raise ValueError(
            f"batch_size: got {settings.batch_size}; expected a divisor of {found.unit} = "
            f"{found.count}; change one of them"
        )


# -- a round ---------------------------------------------------------------------------------------


class Round(NamedTuple):
    """Answers of one round: arrays [B, ...] of the batch, and the metrics."""

    batch: dict[str, np.ndarray]
    metrics: dict[str, float]


class Sampler:
    """Makes rounds; its programs are compiled once, since every round has one shape."""

    def __init__(self, p: running.Plan, first, frozen):
        self.settings, self.parts, self.prompts = p.settings, p.parts, p.loader
        r: Rollout = self.settings.rollout
        self.stop_ids = prompting.stop_ids(self.parts.tokenizer, self.settings.data)
        self.pad_id = self.parts.tokenizer.pad_id or 0
        self.rewards = judging.make(self.settings.rewards, faults=r.faults, mesh=self.parts.mesh)
        self.batches = makers.make(self.settings, self.parts.objective)
        self.own = drawing.own_samples(r, self.parts.objective)
        compile = functools.partial(
            jax.jit, out_shardings=meshes.replicated(self.parts.mesh),
            compiler_options=rounding.compiler_options(self.parts.model.dtype),
        )  # fmt: skip
        self.base = drawing.base_of(self.parts, first, frozen)
        self.score, self.own_score = (
            compile(functools.partial(self._logps, model))
            for model in (self.base.model, self.parts.model)
        )
        self.value, self.rescores = compile(self._values), rescores(p)
        self.draw = drawing.make(self.parts, self.base)

    def _logps(self, model, params, batch):
        policy = Policy(model, params, self.settings.model.chunk)
        return policy.statistics(batch, temperature=self.settings.rollout.temperature).logp

    def _values(self, params, batch):
        policy = Policy(self.parts.model, params, self.settings.model.chunk)
        return policy.scores(batch, head="value")[:, :-1]

    def run(self, params, number: int, cursor: int, kl_scale: float) -> tuple[Round, int]:
        """Sample and score a round; returns it and the place behind its prompts."""
        start, r = time.perf_counter(), self.settings.rollout
        rows, ids, cursor = self.prompts.take(cursor, r.prompts)
        prompts = shapes.pad_rows(ids, self.prompts.max_length, fill=self.pad_id)
        lengths = np.int32([len(each) for each in ids])
        output = self.draw(params, prompts, lengths, number)
        sampled, tokens = time.perf_counter() - start, output.lengths.sum()
        output, texts, finished_B = self._read(output)
        repeat = lambda each: np.repeat(each, r.samples, axis=0)
        batch = answers.batch_of(repeat(prompts), repeat(lengths), output)
        batch |= self._shown(rows, lengths, output) if r.demo else {}
        gap = self._rescore(params, batch) if self.rescores else {}
        base_logps = self._over(self.score, self.base.params, batch)
        values = self._over(self.value, params, batch) if "value" in self.parts.heads else None
        each_row = [row for row in rows for _ in range(r.samples)]
        each_row = [dict(a, finished=bool(b)) for a, b in zip(each_row, finished_B, strict=True)]
        scores = self.rewards(texts, each_row)
        scored = answers.judge_ends(
            scores.values_BF, finished_B, leave_out=r.mask_truncated, penalty=r.missing_eos_penalty
        )
        if r.mask_truncated:
            batch["weights"] = batch["weights"] * finished_B[:, None].astype(np.float32)
        mask = (batch["weights"][:, 1:] > 0).astype(np.float32)
        weights = self.rewards.weights + (1.0,) * (scored.shape[1] - len(self.rewards.weights))
        experience = Experience(
            jnp.asarray(scored), weights, r.samples, mask, batch["old_logps"], base_logps,
            values_BT=values, kl_scale=kl_scale,
        )  # fmt: skip
        batch, metrics = self.batches.make(experience, batch)
        labels = (*self.rewards.functions, answers.MISSING_EOS)[: len(weights)]
        told = dict(labels=labels, own=self.own, finished_B=finished_B)
        metrics |= telling.of_round(experience, output, **told) | gap
        metrics["reward/skipped"] = scores.skipped
        metrics["time/rollout_s"] = time.perf_counter() - start
        metrics["time/rollout_tokens_per_s"] = tokens / sampled
        return Round(batch, metrics), cursor

    def _shown(self, rows, lengths, output) -> dict[str, np.ndarray]:
        """Put the answers behind what the teacher sees of each prompt."""
        ids, samples = self.prompts.shown(rows), self.settings.rollout.samples
        repeat = lambda each: np.repeat(each, samples, axis=0)
        shown = shapes.pad_rows(ids, self.prompts.max_length, fill=self.pad_id)
        counts = np.int32([len(each) for each in ids])
        return answers.shown_of(repeat(lengths), repeat(shown), repeat(counts), output)

    def _read(self, output) -> tuple:
        """Cut answers behind a stop string; returns them, their texts, and which came to an end."""
        decode, until = self.parts.tokenizer.decode, self.settings.rollout.until
        rows = zip(output.tokens, output.lengths, strict=True)
        ends = dict(decode=decode, stop_ids=self.stop_ids, until=until)
        found = [text.ended(row[:n].tolist(), **ends) for row, n in rows]
        lengths = np.array([each.count for each in found], output.lengths.dtype)
        is_new = np.arange(output.tokens.shape[1]) < lengths[:, None]
        tokens = np.where(is_new, output.tokens, self.pad_id).astype(output.tokens.dtype)
        output = output._replace(tokens=tokens, lengths=lengths, logps=output.logps * is_new)
        return output, [each.text for each in found], np.array([each.finished for each in found])

    def _rescore(self, params, batch) -> dict[str, float]:
        """Replace the log-probabilities that were sampled by; returns their gap, nats a token."""
        drawn_BT, sampled_BT = batch["old_logps"], batch["weights"][:, 1:]
        batch["old_logps"] = self._over(self.own_score, params, batch) * sampled_BT
        gap_BT = np.abs(batch["old_logps"] - drawn_BT)
        # A stop string may have left no token at all.
        return {"sampler/gap": float(gap_BT.sum() / max(sampled_BT.sum(), 1))}

    def _over(self, function, params, batch) -> np.ndarray:
        """Apply a compiled function to the rows of a round, about a training batch at a time."""
        size, names = self.settings.batch_size, ("tokens", "positions", "segments")
        size, parts = math.gcd(size, len(batch["tokens"])), []  # a batch may be of pairs
        for start in range(0, len(batch["tokens"]), size):
            rows = {name: batch[name][start : start + size] for name in names}
            with jax.set_mesh(self.parts.mesh):
                parts.append(np.asarray(function(params, place(rows, self.parts.mesh))))
        return np.concatenate(parts)


def rescores(p: running.Plan) -> bool:
    """Return whether old log-probabilities are the step's program's, and not the sampler's."""
    asked, low = p.settings.rollout.rescore, jnp.dtype(p.parts.model.dtype).itemsize < 4
    return p.parts.spec.ratio and low if asked is None else asked


def place(batch, mesh):
    """Put host arrays on the mesh, rows over its replicas."""
    return meshes.put(batch, meshes.batch_shardings(batch, mesh))


# -- batches ---------------------------------------------------------------------------------------


class Rollouts:
    """Batches of sampled answers that know where they are, and can go back there."""

    def __init__(self, sampler: Sampler, frozen, settings: Settings):
        self.sampler, self._frozen, self._settings = sampler, frozen, settings
        self._a_pass = sampler.batches.count // settings.batch_size
        self._a_round = self._a_pass * settings.rollout.epochs
        self._number = self._at = self._cursor = 0
        self._kl_scale, self._round, self._saved, self._state = 1.0, None, None, None

    def watch(self, state) -> None:
        """Sample from this state's weights from now on."""
        self._state = state

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the present round."""
        return self._round.metrics

    def __iter__(self):
        return self

    def __next__(self):
        if self._at == self._a_round:
            self._number, self._at, self._round = self._number + 1, 0, None
        if self._round is None:
            params = states.combine(self._state.params, self._frozen)
            found = self.sampler.run(params, self._number, self._cursor, self._kl_scale)
            (self._round, self._cursor), self._saved = found, None
            self._control()
        rows = self._rows(self._at)
        self._at += 1
        batch = {name: each[rows] for name, each in self._round.batch.items()}
        return place(batch, self.sampler.parts.mesh)

    def _rows(self, at: int) -> np.ndarray:
        size, (epoch, part) = self._settings.batch_size, divmod(at, self._a_pass)
        seed = [self._settings.seed.data, self._number, epoch]
        order = np.random.default_rng(seed).permutation(self._a_pass * size)
        return np.sort(order[part * size : (part + 1) * size])

    def _control(self) -> None:
        """Steer the divergence to its target (arXiv:1909.08593, section 2.2)."""
        r = self._settings.rollout
        if r.kl_target is not None:
            error = np.clip(self.metrics["kl/base"] / r.kl_target - 1, -0.2, 0.2)
            horizon = KL_HORIZON if r.kl_horizon is None else r.kl_horizon
            self._kl_scale *= float(1 + error * r.prompts * r.samples / horizon)

    def state(self) -> dict:
        """Return the position, with the answers of the present round."""
        if self._saved is None and self._round is not None:
            arrays = {name: answers.pack(each) for name, each in self._round.batch.items()}
            self._saved = {"arrays": arrays, "metrics": self._round.metrics}
        return {
            "round": self._number, "at": self._at, "cursor": self._cursor,
            "kl_scale": self._kl_scale, "answers": self._saved,
            "prompts": self.sampler.prompts.digest,
        }  # fmt: skip

    def restore(self, position: dict) -> None:
        """Go to a position.

        Raises:
          ValueError: it is one in other prompts.
        """
        if position["prompts"] != (here := self.sampler.prompts.digest):
            raise ValueError(
                f"data: got a saved position in other prompts (digest {position['prompts']}, now "
                f"{here}); expected the same rows; undo the change, or start the data afresh with "
                "--restart_data"
            )
        self._number, self._at = position["round"], position["at"]
        self._cursor, self._kl_scale = position["cursor"], position["kl_scale"]
        self._saved, self._round = position["answers"], None
        if self._saved is not None:
            arrays = {name: answers.unpack(each) for name, each in self._saved["arrays"].items()}
            self._round = Round(arrays, self._saved["metrics"])


class Step:
    """A compiled step that shows every new state to the sampler, and reports its rounds."""

    def __init__(self, step, batches: Rollouts):
        self._step, self._batches = step, batches
        self.compilations = step.compilations

    def __call__(self, state, hyper, frozen, batch):
        """Train on a batch."""
        state, metrics = self._step(state, hyper, frozen, batch)
        self._batches.watch(state)
        own = {name: np.float32(value) for name, value in self._batches.metrics.items()}
        return state, own | metrics


def make(p: running.Plan, first, frozen) -> Rollouts:
    """Make the batches of an online run, sampled from what it starts with.

    Raises:
      ValueError: the prompts of a round do not divide over the replicas.
    """
    _check_prompts(p.settings.rollout.prompts, p.parts.mesh)
    return Rollouts(Sampler(p, first, frozen), frozen, p.settings)


def cost(p: running.Plan) -> flops.Cost:
    """Compute the cost of a token: the step's, sampling and scoring shared by its passes."""
    passes = flops.forward(p.parts.model, sequence=p.settings.data["max_tokens"]).times(_passes(p))
    return costs.of(p) + passes


def _passes(p: running.Plan) -> float:
    """Count the forward passes of a round for each token that is trained on."""
    r = p.settings.rollout
    rows = makers.make(p.settings, p.parts.objective).count
    rows *= p.parts.spec.batch.answers  # a batch counts examples
    each = 2 + ("value" in p.parts.heads) + rescores(p)  # sampling and scoring
    return each * r.prompts * r.samples / (rows * r.epochs)


def _check_prompts(prompts: int, mesh) -> None:
    if prompts % (replicas := meshes.replicas(mesh)):
        raise ValueError(
            f"rollout.prompts: got {prompts}; expected a multiple of {replicas}, the replicas that "
            f"they lie on ({' x '.join(meshes.RULES['B'])}); change one of them"
        )
