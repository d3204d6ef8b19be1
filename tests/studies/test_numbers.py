"""The numbers of a study from scores by hand: gains, matches, rates, and what is missing."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from ftjax.core import files
from ftjax.evals import nll
from ftjax.report import study_figures, study_page
from ftjax.studies import chance, numbers, outcomes
from ftjax.studies.outcomes import CellScores
from ftjax.studies.stages import Cell
from ftjax.studies.study import Match, Study

TASKS = ("a", "b")


def make(methods=("m",), rates=(0.1, 0.2), seeds=(0,), controls=("none",), fraction=0.5):
    return Study(
        config="x.py", tasks={t: "" for t in TASKS}, orders=(TASKS,), carry="merged",
        methods=dict.fromkeys(methods, ""), rates=dict.fromkeys(methods, rates), seeds=seeds,
        match=Match("nll", fraction), controls=controls,
        evals={x: dict(name="nll") for x in ("a", "b", "old")}, owners={"a": "a", "b": "b"},
        probes=("old",),
    )  # fmt: skip


def scores(a, b, old, n=4):
    """Four examples of each evaluation, of two tokens, with these losses a token."""
    one = lambda value: {"nll": np.full(n, 2.0 * value), "tokens": np.full(n, 2.0)}
    return {"a": one(a), "b": one(b), "old": one(old)}


def compute(study, base, found):
    return numbers.compute(study, base, found, resamples=40)


BASE = scores(4, 4, 1)


def cell(first, second, *, method="m", rate=0.1, seed=0, reason=""):
    """A cell that is at BASE, `first` and `second` after its stages."""
    label = f"{method}_{rate:g}_s{seed}_o0"
    after = [scores(*first), scores(*second)][: 0 if reason else 2]
    within = [[BASE, scores(*first)], [scores(*first), scores(*second)]][: len(after)]
    return CellScores(Cell(label, method, rate, seed, TASKS), after, within, reason)


def test_scores_are_means_such_that_more_is_better():
    arrays = {"nll": np.array([1.0, 5.0, 0.0]), "tokens": np.array([1.0, 3.0, 2.0])}
    found = outcomes.per_example(arrays, "nll")
    assert found.mean() == pytest.approx(-nll.summary(arrays)["nll"])
    assert outcomes.per_example({"correct": np.array([1.0, 0.0])}, "accuracy").mean() == 0.5


def test_forgetting_at_the_match_by_hand():
    study = make(rates=(0.1,))
    # Gains: a from 4 to 2 is 1; b from 3.5 to 1 is from 1/6 to 1. The old falls by 0.4, then 0.6
    # more, and a by 0.8 in the second stage.
    found = [cell((2, 3.5, 1.4), (2.8, 1, 2.0))]
    tasks = numbers.scales(study, BASE, found)
    assert (tasks["a"].top, tasks["b"].top) == (-2, -1)
    one, two = numbers.trajectories(study, tasks, BASE, found[0])
    assert one.learning == pytest.approx([0, 1])
    assert one.forgetting == pytest.approx([0, 0.4])
    assert two.learning == pytest.approx([1 / 6, 1])
    assert two.forgetting == pytest.approx([(0.4 + 0) / 2, (1.0 + 0.8) / 2])
    wanted = (0.4 * 0.5 + (0.2 + 0.7 * (0.5 - 1 / 6) / (5 / 6))) / 2
    assert numbers.at_match(study, tasks, BASE, found[0]) == pytest.approx(wanted)
    assert numbers.at_end(study, tasks, BASE, found[0]) == pytest.approx((1, (1.0 + 0.8) / 2))
    report = compute(study, BASE, found)
    matched = report["methods"]["m"]["matched"]
    assert matched["value"] == pytest.approx(wanted)
    assert (matched["rate"], matched["at_edge"], matched["floor"]) == (0.1, False, None)
    rate = report["methods"]["m"]["rates"]["0.1"]
    assert rate["probes"]["old"]["value"] == pytest.approx(1.0)
    assert rate["measures"]["bwt"]["value"] == pytest.approx(-0.8)
    assert rate["measures"]["avg_accuracy"]["value"] == pytest.approx(-(2.8 + 1) / 2)
    assert rate["stages"]["scores"]["old"] == pytest.approx([-1, -1.4, -2])


def test_the_joint_control_is_the_top():
    study = make(rates=(0.1,), controls=("none", "joint"))
    joint = CellScores(Cell("joint_0.1_s0", "m", 0.1, 0, TASKS, is_joint=True),
                  [scores(0.5, 0.5, 1)], [[BASE, scores(0.5, 0.5, 1)]], "")  # fmt: skip
    report = compute(study, BASE, [cell((2, 4, 1), (2, 1, 1)), joint])
    assert {task["top"] for task in report["tasks"].values()} == {-0.5}
    measures = report["methods"]["m"]["rates"]["0.1"]["measures"]
    assert measures["intransigence"]["value"] == pytest.approx(-0.5 - (-1.5))
    assert report["front"] == ["m_0.1_s0_o0"]


def test_a_rate_that_missed_or_diverged_has_no_number():
    study = make(methods=("m", "few", "nan"))
    good, low = ((2, 4, 1.2), (2, 1, 1.2)), ((3.5, 4, 1), (3.5, 3, 1))
    found = [
        cell(*good), cell(*low, rate=0.2),
        cell(*low, method="few"), cell(*low, method="few", rate=0.2, reason="a: it blew up"),
        cell(*good, method="nan", reason="a: nan"),
        cell(*good, method="nan", rate=0.2, reason="a: nan"),
    ]  # fmt: skip
    report = compute(study, BASE, found)
    matched = {name: own["matched"] for name, own in report["methods"].items()}
    assert matched["m"]["rate"] == 0.1
    assert matched["few"] == {"text": "not reached (best 0.25 of 0.5)", "rate": None}
    assert matched["nan"] == {"text": "diverged", "rate": None}
    assert report["compared"] == {"m": "compared with", "few": "n/a", "nan": "n/a"}
    assert report["methods"]["m"]["rates"]["0.2"]["forgetting_at_match"] is None
    text = numbers.text(report)
    assert "not reached (best 0.25 of 0.5)" in text
    assert "few_0.2_s0_o0 diverged: a: it blew up" in text


def test_a_method_is_compared_with_its_padding_at_the_match_and_at_the_end():
    study = make(methods=("m", "replay", "padding_replay"), rates=(0.1,), seeds=(0, 1))
    study = dataclasses.replace(study, padded={"padding_replay": "replay"})
    fell = dict(m=(1.0, 1.0), replay=(0.2, 0.2), padding_replay=(3.0, 3.1))
    found = [
        cell((2, 4, 1), (2, 1, 1 + fall), method=method, seed=seed)
        for method, falls in fell.items() for seed, fall in enumerate(falls)
    ]  # fmt: skip
    report = compute(study, BASE, found)
    own = report["padded"]["replay"]
    # Means over the probe and the first task; half of the second stage is the match of that one.
    assert own["control"] == "padding_replay"
    assert float(own["end"]) == pytest.approx((0.2 - 3.05) / 2, abs=1e-3)
    assert float(own["match"]) == pytest.approx((0.2 - 3.05) / 8, abs=1e-3)
    line = "replay beside padding_replay, new rows in the place of old ones: -0.356 at the match"
    assert line in numbers.text(report)
    loud = [x for x in found if x.cell.label != "padding_replay_0.1_s1_o0"]
    loud.append(cell((2, 4, 1), (2, 1, 4.9), method="padding_replay", seed=1))
    # Of the two floors the larger counts: that of replay is 0.
    assert compute(study, BASE, loud)["padded"]["replay"]["end"].startswith("not resolved (|-1.6")
    part = dataclasses.replace(study, methods={"m": "", "padding_replay": ""})
    assert compute(part, BASE, [x for x in found if x.cell.method != "replay"])["padded"] == {}


def test_differences_below_the_noise_of_seeds_are_not_resolved():
    study = make(methods=("one", "two", "far"), rates=(0.1,), seeds=(0, 1, 2))
    fell = dict(one=(0.1, 0.2, 0.3), two=(0.2, 0.25, 0.3), far=(5.0, 5.1, 5.2))
    found = [
        cell((2, 4, 1), (2, 1, 1 + 4 * fall), method=method, seed=seed)
        for method, falls in fell.items() for seed, fall in enumerate(falls)
    ]  # fmt: skip
    report = compute(study, BASE, found)
    floor = report["methods"]["one"]["matched"]["floor"]
    assert floor["n"] == 3
    assert report["compared"]["two"].startswith("not resolved (|+0.0")
    assert float(report["compared"]["far"]) > 1
    own = report["methods"]["one"]["matched"]
    assert own["low"] < own["value"] < own["high"]


def test_a_task_that_nothing_learned_is_named():
    with pytest.raises(ValueError, match="got 'a', of which no cell learned anything"):
        compute(make(rates=(0.1,)), BASE, [cell((4.5, 4, 1), (4.5, 1, 1))])


def test_the_page_shows_all_of_it(tmp_path):
    study = make(methods=("m", "<b>"), rates=(0.1,))
    found = [cell((2, 3.5, 1.4), (2.8, 1, 2.0)),
             cell((2, 4, 1), (2, 1, 1), method="<b>", reason="a: got NaN")]  # fmt: skip
    report = json.loads(json.dumps(files.plain(compute(study, BASE, found))))
    page = study_page.write(tmp_path / "r.html", title="own", report=report, config=study.plain)
    text = page.read_text()
    assert text.count("<svg") == 2
    assert "&lt;b&gt;" in text
    assert "<b>_0.1" not in text
    assert "a: got NaN" in text
    assert "not resolved" in text


def moved(kl, *, intruders=3):
    """Changes after the two stages of a cell."""
    drift = {x: dict(kl_forward=kl, kl_reverse=2 * kl, tv=kl / 4) for x in ("a", "b", "old")}
    spectrum = dict(rank=2.0, effective_rank=3.0, relative_norm=kl, intruders=intruders,
                    matrices=5, threshold=0.5, energy={"1": 0.6, "2": 1.0})  # fmt: skip
    return [dict(drift=drift, spectrum=spectrum)] * 2


def test_forgetting_is_fitted_on_drift_with_and_without_old_data():
    own = make(methods=("m", "sees"), rates=(0.1, 0.2), seeds=(0, 1))
    own = dataclasses.replace(own, changes=("drift", "spectrum"), sees_old=("sees",))
    # Without old data the probe falls by the square of the divergence, with them never.
    found = [
        cell((2, 4, 1 + kl**2), (2, 1, 1), rate=rate, seed=seed)._replace(changes=moved(kl))
        for (rate, seed), kl in zip(itertools.product((0.1, 0.2), (0, 1)), (0.1, 0.3, 0.5, 0.7),
                                    strict=True)
    ]  # fmt: skip
    found += [
        cell((2, 4, 1), (2, 1, 1), method="sees", rate=rate, seed=seed)._replace(changes=moved(0.7))
        for rate, seed in itertools.product((0.1, 0.2), (0, 1))
    ]
    report = compute(own, BASE, found)
    fits = report["drift"]["fits"]
    blind = fits["without_old_data"]["kl_forward_new"]
    assert blind["coefficients"] == pytest.approx((0, 0, 1), abs=1e-9)
    assert (blind["n"], blind["r2"]) == (4, pytest.approx(1))
    assert fits["all"]["kl_forward_new"]["r2"] < 0.9
    assert report["drift"]["points"][3]["kl_forward_old"] == 0.7
    assert report["drift"]["points"][3]["forgetting"] == pytest.approx(0.49)


def test_what_is_to_be_recovered_has_the_scale_from_what_was_lost_to_the_base():
    own = dataclasses.replace(make(rates=(0.1,), seeds=(0, 1)), recover=("b",))
    # b, of which the base has a loss of 4, is at 6 and 8 when its stage begins: 7 is 0, and 4 is 1.
    found = [cell((2, 6, 1), (2.5, 5.5, 1), seed=0), cell((2, 8, 1), (2.5, 4, 1), seed=1)]
    task = numbers.scales(own, BASE, found)["b"]
    assert (task.base, task.top, task.top_of) == (-7, -4, "the base")
    assert task.gain(-5.5) == pytest.approx(0.5)
    ends = [numbers.at_end(own, numbers.scales(own, BASE, found), BASE, one) for one in found]
    assert [gain for gain, _ in ends] == pytest.approx([(1 + 0.5) / 2, (1 + 1) / 2])
    assert [fell for _, fell in ends] == pytest.approx([0.25, 0.25])
    with pytest.raises(ValueError, match="'b', of which nothing was lost: nll is -4 of the base"):
        numbers.scales(own, BASE, [cell((2, 4, 1), (2.5, 4, 1))])


def test_states_are_among_the_predictors():
    own = dataclasses.replace(make(rates=(0.1, 0.2), seeds=(0, 1)), changes=("states",))
    alike = lambda kl: {"states": {
        x: dict(cka=1 - kl * (x == "old"), procrustes=kl / 2 * (x == "old")) for x in ("a", "old")
    }}  # fmt: skip
    found = [
        cell((2, 4, 1 + kl), (2, 1, 1), rate=rate, seed=seed)._replace(changes=[alike(kl)] * 2)
        for (rate, seed), kl in zip(itertools.product((0.1, 0.2), (0, 1)), (0.1, 0.3, 0.5, 0.7),
                                    strict=True)
    ]  # fmt: skip
    fits = compute(own, BASE, found)["drift"]["fits"]["all"]
    assert set(fits) == {"cka_old", "procrustes_old"}
    assert [fits[k]["spearman"] for k in ("cka_old", "procrustes_old")] == pytest.approx([-1, 1])


def test_the_page_shows_what_was_measured_of_weights(tmp_path):
    own = dataclasses.replace(
        make(methods=("m", "n"), rates=(0.1,), seeds=(0, 1)), changes=("drift", "spectrum"),
        axes={"rank": dict(m=1.0, n=8.0)},
    )  # fmt: skip
    found = [
        cell((2, 3.5, 1.4 + seed / 9), (2.8, 1, 2.0), method=method, seed=seed)._replace(
            changes=moved(0.2 + seed / 9, intruders=7))
        for method, seed in itertools.product("mn", (0, 1))
    ]  # fmt: skip
    report = json.loads(json.dumps(files.plain(compute(own, BASE, found))))
    page = study_page.write(tmp_path / "r.html", title="own", report=report, config=own.plain)
    text = page.read_text()
    assert text.count("<svg") == 7  # with drift on new and old, energy, intruders, and the axis
    assert "What predicts forgetting" in text
    assert "<td>7.0</td><td>7.0</td>" in text


def test_the_end_has_gain_forgetting_and_the_noise_of_seeds():
    own = make(rates=(0.1,), seeds=(0, 1))
    found = [cell((2, 4, 1), (2, 1, 1 + seed), seed=seed) for seed in (0, 1)]
    end = compute(own, BASE, found)["methods"]["m"]["rates"]["0.1"]["end"]
    assert end["forgetting"]["value"] == pytest.approx(0.25)  # the old by 0 or 1, and a by 0
    assert end["gain"]["value"] == pytest.approx(1)
    assert end["gain_floor"] == pytest.approx(0)
    # t(.975, 1) s sqrt(2 / 2) of 0 and 0.5: two means over two seeds are compared
    assert end["forgetting_floor"] == pytest.approx(12.7062 * 0.5 / 2**0.5, rel=1e-4)


def test_the_matrix_is_the_same_bytes(tmp_path):
    found = [cell((2, 3.5, 1.4), (2.8, 1, 2.0))]
    for name in ("one.npz", "two.npz"):
        outcomes.write(tmp_path / name, BASE, found)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with np.load(tmp_path / "one.npz") as matrix:
        assert sorted({key.rsplit("/", 2)[0] for key in matrix}) == [
            "m_0.1_s0_o0/1", "m_0.1_s0_o0/2", "none/0"]  # fmt: skip
        assert math.isclose(matrix["m_0.1_s0_o0/2/old/nll"].sum(), 16)


def choices(correct, *, of=4, n=40):
    """Scores of a multiple choice, of which so many are right."""
    return {"correct": np.arange(n) < correct, "chance": np.full(n, 1 / of)}


def test_a_probe_at_chance_is_left_out_and_said(tmp_path):
    study = dataclasses.replace(
        make(rates=(0.1,)), match=Match("accuracy", 0.5), probes=("guessed", "known"),
        evals={x: dict(name="choice") for x in ("a", "b", "guessed", "known")},
    )  # fmt: skip
    at = lambda a, b, guessed, known: {
        "a": choices(a),
        "b": choices(b),
        "guessed": choices(guessed),
        "known": choices(known),
    }
    base, after = at(2, 2, 12, 36), [at(30, 2, 2, 30), at(30, 30, 2, 24)]
    assert chance.left_out(study, base).keys() == {"guessed"}  # 0.3 of 40, where a guess has 0.25
    assert chance.left_out(study, at(2, 2, 20, 36)) == {}
    one = CellScores(Cell("m", "m", 0.1, 0, TASKS), after, [[base, after[0]], after], "")
    report = compute(study, base, [one])
    assert list(report["probes"]) == ["known"]
    assert "guessed: left out, the base is at chance: 0.3 [" in numbers.text(report)
    assert "chance is 0.25" in numbers.text(report)
    assert numbers.at_end(study, numbers.scales(study, base, [one]), base, one)[1] > 0.1
    known = report["methods"]["m"]["rates"]["0.1"]["end"]["forgetting"]["value"]
    assert known == pytest.approx(
        np.mean([36 / 40 - 24 / 40, 0])
    )  # of the probe and the first task
    page = study_page.write(tmp_path / "report.html", title="x", report=report, config={})
    assert "left out, at chance" in page.read_text()


def test_nothing_that_could_be_forgotten_is_refused():
    arrays = {"exact_match": np.zeros(9), "nll": np.ones(9)}
    assert chance.level(arrays, "exact_match") == 0
    assert chance.level(arrays, "nll") is None
    study = dataclasses.replace(
        make(), match=Match("exact_match", 0.5), tasks={"a": ""}, probes=("old",)
    )
    with pytest.raises(ValueError, match=r"got old, on which the base is at chance \(old: 0 \["):
        compute(study, {"a": arrays, "old": arrays}, [])


def test_many_methods_at_one_rate_are_rows_and_not_lines(tmp_path):
    names = tuple(f"method{n}" for n in range(9))
    own = make(methods=names, rates=(0.1,))
    found = [cell((2, 4, 1), (2, 1, 1 + n / 9), method=name) for n, name in enumerate(names)]
    report = json.loads(json.dumps(files.plain(compute(own, BASE, found))))
    drawings = study_figures.draw(report)
    assert list(drawings) == ["Learned against forgotten at the end, a point a rate",
                              "Forgetting at the match, of every method"]  # fmt: skip
    assert all(f">{name}</text>" in drawing for drawing in drawings.values() for name in names)


@pytest.mark.parametrize(
    ("lengths", "columns"),
    [
        ([3, 4, 9], 3),
        ([3, 4, 9, 20], 3),
        ([14] * 8, 2),
        ([60], 1),
        ([60, 60], 1),
        ([], 1),
        ([8, 9, 8, 8, 8, 20], 3),  # in four columns the last two are alone
    ],
)
def test_names_below_a_figure_fit_its_width(lengths, columns):
    # 4.6 inches are 331 points; a name of 14 letters takes 38 + 14 * 5.4 = 114 of them.
    assert study_figures._columns(lengths) == columns
