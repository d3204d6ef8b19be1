"""A teacher that is shown more than the student: on-policy self-distillation (SDFT)."""

import json

import numpy as np
import pytest

from ftjax.core import shapes
from ftjax.rl import rollout as rollouts
from ftjax.rl import rollout_batch
from ftjax.rl.prompts import Prompts
from ftjax.run import build as setup
from ftjax.sampling.generation import Output
from ftjax.train import reference_policy
from ftjax.train.policy import Policy
from tests.rl.test_batches import online, run

TAUGHT = dict(objective=dict(name="distillation", beta=1.0), rewards={})


def test_it_sees_the_same_answers_behind_prompts_of_its_own(lab):
    parts = setup.build(lab.settings())
    params = setup.weights(parts) | {"adapters": None}
    prompts, shown, said = [[5, 11, 7], [9]], [[4, 4, 30, 9], [8, 40, 2, 17, 22]], [[3, 6], [12]]
    lengths, longer = (np.int32([len(ids) for ids in each]) for each in (prompts, shown))
    output = Output(
        shapes.pad_rows(said, 2, fill=0), np.int32([2, 1]), np.zeros((2, 2), np.float32)
    )
    pad = lambda each, width: shapes.pad_rows(each, width, fill=0)
    batch = rollout_batch.batch_of(pad(prompts, 3), lengths, output)
    batch |= rollout_batch.shown_of(lengths, pad(shown, 5), longer, output)
    policy = Policy(parts.model, params, 64)
    teacher = reference_policy.shown(reference_policy.adapters_off)(policy, batch)
    own = rollout_batch.batch_of(pad(shown, 5), longer, output)
    of_answers = lambda x, batch: np.asarray(x)[batch["weights"][:, 1:] > 0]
    found = of_answers(teacher.logps(batch), batch)
    np.testing.assert_allclose(found, of_answers(policy.logps(own), own), rtol=1e-5, atol=1e-5)
    assert np.abs(found - of_answers(policy.logps(batch), batch)).min() > 1e-3


def test_without_anything_more_to_see_there_is_nothing_to_learn(lab, tmp_path):
    alone = run(lab, tmp_path / "alone", **TAUGHT, **{"rollout.demo": "{prompt}"})
    assert alone[0]["loss"] == pytest.approx(0, abs=1e-6)
    rows = run(lab, tmp_path / "more", **TAUGHT, **{"rollout.demo": "{response} {prompt}"})
    assert rows[0]["loss"] > 1e-3
    assert len(rows) == 4


def test_a_prompt_that_is_too_long_with_its_demo_is_left_out(lab, tmp_path):
    rows = [dict(prompt="is it", response=" it" * n) for n in (1, 40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = dict(name="jsonl", path=str(tmp_path / "rows.jsonl"), max_tokens=32)
    chosen = online(lab, data=data, **TAUGHT, **{"rollout.demo": "{response} {prompt}"})
    prompts = Prompts(setup.build(chosen))
    taken = prompts.take(0, 3)[0]
    assert {row["response"] for row in taken} == {" it"}
    assert "expected 1 to 28; left out" in prompts.bad[0].message


def test_a_demo_that_means_nothing_is_refused(lab):
    chosen = online(lab, **TAUGHT, **{"rollout.demo": "{answer}"})
    prompts = Prompts(setup.build(chosen))
    with pytest.raises(ValueError, match=r"rollout\.demo: got '.answer.'.*prompt, response"):
        prompts.take(0, 1)
    chosen = online(lab, objective=dict(name="grpo"), **{"rollout.demo": "{prompt}"})
    with pytest.raises(ValueError, match=r"rollout\.demo: got '.prompt.' with objective 'grpo'"):
        rollouts.check(chosen)
