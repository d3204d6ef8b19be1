"""Verdicts on the literature from reports by hand: each agrees, disagrees, or is left open."""

import copy

import pytest

from ftjax.studies import literature, verdicts


def estimate(value, n=3):
    return dict(value=value, low=value - 0.01, high=value + 0.01, n=n)


def rate(at_match, gain, at_end, floor=0.05):
    end = dict(gain=estimate(gain), forgetting=estimate(at_end), gain_floor=0.01,
               forgetting_floor=floor)  # fmt: skip
    return dict(forgetting_at_match=estimate(at_match), end=end)


def method(best, **rates):
    found = {key.replace("_", "."): rate(*own) for key, own in rates.items()}
    own = found[best]["forgetting_at_match"]
    matched = dict(own, rate=float(best), at_edge=False, floor=dict(value=0.05, range=0.04, n=3))
    return dict(matched=matched, rates=found)


def cell(name, at, intruders, rank, *, path=None):
    spectra = [dict(intruders=n, rank=rank, relative_norm=0.1) for n in intruders]
    changes = [dict(spectrum=own) for own in spectra]
    changes[0]["path"] = path
    return dict(method=name, rate=at, joint=False, status="done", order=["new"], changes=changes)


def fits(forward, reverse, norm):
    r2 = dict(kl_forward_new=forward, kl_reverse_new=reverse, relative_norm=norm,
              kl_forward_old=0.99)  # fmt: skip
    return {k: dict(r2=v, n=6, spearman=0.9, coefficients=(0.0, 1.0, 0.0)) for k, v in r2.items()}


PATH = {  # losses of new and old on the way
    "0": dict(new=4.0, old=1.0), "0.5": dict(new=2.0, old=1.2), "0.9": dict(new=1.01, old=1.5),
    "1": dict(new=1.0, old=1.9),
}  # fmt: skip
REPORT = dict(
    study=dict(
        config="configs/own.py", carry="merged", sees_old=["replay"],
        parts=dict(full="full", lora="lora", replay="replay", kl_old="kl"),
        rates=dict(full=[0.1, 0.2], lora=[1.0, 2.0], replay=[1.0], kl=[1.0], small=[1.0]),
    ),
    axes=dict(rank=dict(small=1, lora=8), replay=dict(lora=0, replay=0.1)),
    tasks=dict(new=dict(label="new", base=-4.0, top=-1.0)), probes=["old"],
    methods=dict(
        full=method("0.1", **{"0_1": (0.2, 0.9, 0.3), "0_2": (0.4, 0.95, 0.6)}),
        lora=method("1", **{"1": (0.3, 0.9, 0.5), "2": (0.6, 0.95, 0.9)}),
        replay=method("1", **{"1": (0.2, 0.89, 0.2)}),
        kl=method("1", **{"1": (0.1, 0.88, 0.1)}),
        small=method("1", **{"1": (0.25, 0.6, 0.2)}),
    ),
    cells=[
        cell("full", 0.1, [2, 3], 40, path=PATH), cell("full", 0.2, [4, 6], 40, path=PATH),
        cell("lora", 1.0, [20, 30], 6), cell("lora", 2.0, [40, 60], 6),
    ],
    drift=dict(
        points=[dict(method="replay", kl_forward_new=0.5, forgetting=0.1),
                dict(method="full", kl_forward_new=0.5, forgetting=0.5)],
        fits=dict(all=fits(0.6, 0.5, 0.3), without_old_data=fits(0.95, 0.9, 0.4)),
    ),
    base_against_itself=dict(
        drift=dict(new=dict(kl_forward=1e-9, kl_reverse=0.0)),
        spectrum=dict(relative_norm=0.0, rank=0.0, intruders=0),
    ),
)  # fmt: skip


def judged(report):
    return {f.statement.number: f.found for f in literature.judge([report])}


def changed(path, value):
    """REPORT with another value at a path of keys."""
    found = copy.deepcopy(REPORT)
    *parents, last = path
    node = found
    for key in parents:
        node = node[key]
    node[last] = value
    return found


CARRIED = (1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 18, 20, 22)


def test_what_a_report_carries_agrees_and_the_rest_was_not_run():
    found = judged(REPORT)
    assert list(found) == list(range(1, 28))
    verdict = {number: own.verdict for number, own in found.items() if own.verdict != "not run"}
    assert tuple(verdict) == CARRIED
    assert verdict.pop(4) == verdicts.DISAGREE  # by the numbers above full forgets less
    assert set(verdict.values()) == {verdicts.AGREE}


END = ("end", "forgetting", "value")


@pytest.mark.parametrize(
    ("number", "path", "value", "verdict"),
    [
        (1, ("base_against_itself", "drift", "new", "kl_reverse"), 1e-3, "disagree"),
        (2, ("methods", "lora", "rates", "2", "forgetting_at_match"), estimate(0.1), "disagree"),
        (2, ("methods", "lora", "rates", "2", "forgetting_at_match"), estimate(0.31),
         "not resolved"),
        (3, ("methods", "small", "rates", "1", *END), 0.7, "disagree"),
        (3, ("methods", "small", "rates", "1", *END), 0.48, "not resolved"),
        (4, ("methods", "lora", "matched", "value"), 0.19, "not resolved"),
        (6, ("methods", "replay", "rates", "1", *END), 0.6, "disagree"),
        (8, ("drift", "fits", "without_old_data"), fits(0.5, 0.4, 0.3), "not resolved"),
        (8, ("drift", "fits", "without_old_data"), fits(0.86, 0.8, 0.99), "disagree"),
        (9, ("drift", "points", 0, "forgetting"), 0.9, "disagree"),
        (10, ("cells", 0, "changes", 0, "spectrum", "intruders"), 35, "disagree"),
        (10, ("cells", 3, "changes", 0, "spectrum", "intruders"), 10, "disagree"),
        (11, ("cells", 2, "changes", 0, "spectrum", "rank"), 39, "disagree"),
        (12, ("cells", 0, "changes", 0, "path", "0.5", "old"), 1.7, "disagree"),
        (18, ("methods", "lora", "matched", "rate"), 20.0, "disagree"),
        (22, ("methods", "kl", "matched", "value"), 0.5, "disagree"),
    ],
)  # fmt: skip
def test_other_numbers_are_another_verdict(number, path, value, verdict):
    assert judged(changed(path, value))[number].verdict == verdict


@pytest.mark.parametrize(
    ("number", "path", "value", "why"),
    [
        (3, ("methods", "small", "rates", "1", *END), 0.7,
         "disagree: forgetting at 1 goes the other way once, by 0.200, floor 0.050"),
        (4, ("methods", "lora", "matched", "value"), 0.19, "not resolved: -0.010, floor 0.050"),
        (8, ("drift", "fits", "without_old_data"), fits(0.86, 0.8, 0.99),
         "disagree: the norm fits better"),
        (10, ("cells", 0, "changes", 0, "spectrum", "intruders"), 35,
         "disagree: +15.000, floor 0.500"),  # the trend of the rates agrees, and is left out
        (2, ("methods", "lora", "rates", "2", "forgetting_at_match"), estimate(0.4), "agree"),
    ],
)  # fmt: skip
def test_what_does_not_agree_says_why(number, path, value, why):
    (own,) = (f for f in literature.judge([changed(path, value)]) if f.statement.number == number)
    assert f" | {why} | `own.py` |" in literature.table([own])


def test_a_trend_of_one_value_is_not_resolved():
    assert verdicts.trend([0.3], 0.1, of="x") == verdicts.Said(
        verdicts.NOT_RESOLVED, "x moves by +0.000 in all, floor 0.100"
    )


def test_part_of_the_way_back_that_saves_nothing_is_not_resolved():
    flat = {key: dict(own, old=1.9) for key, own in PATH.items()}
    report = copy.deepcopy(REPORT)
    for own in report["cells"][:2]:
        own["changes"][0]["path"] = flat
    assert judged(report)[20].verdict == verdicts.NOT_RESOLVED
    # 0.9 of the way has 99.7 % of the gain, and 0.4 nats less are forgotten.
    assert judged(REPORT)[20].ours.startswith("0.400 nats")


def test_the_first_report_that_carries_a_statement_is_asked():
    bare = changed(("drift",), None) | {"base_against_itself": None}
    bare["study"]["config"] = "configs/bare.py"
    found = {f.statement.number: f for f in literature.judge([bare, REPORT])}
    assert found[2].study == "configs/bare.py"
    assert found[1].study == found[8].study == "configs/own.py"
    text = literature.table(list(found.values()))
    assert "| 2 | at a matched score" in text
    assert "| not run |" in text
    assert text.count("\n") == 28


def arena(oft=0.1, pissa=0.5, dora=(0.89, 0.9)):
    """A report of adapter methods, with what some forget at the match or gain at their rates."""
    report = copy.deepcopy(REPORT)
    report["study"]["parts"] = {part: part for part in ("lora", "oft", "pissa", "dora")}
    report["axes"] = {}
    report["methods"] = dict(
        lora=method("1", **{"1": (0.3, 0.9, 0.5), "2": (0.6, 0.7, 0.9)}),
        oft=method("1", **{"1": (oft, 0.5, 0.2)}),
        pissa=method("1", **{"1": (pissa, 0.905, 0.6)}),
        dora=method("1", **{"1": (0.3, dora[0], 0.5), "2": (0.6, dora[1], 0.9)}),
    )
    return {number: own.verdict for number, own in judged(report).items()}


@pytest.mark.parametrize(
    ("number", "changes", "verdict"),
    [
        (21, {}, "agree"),
        (21, dict(oft=0.34), "agree"),  # as little as others, within the floor of 0.05
        (21, dict(oft=0.4), "disagree"),
        (21, dict(pissa=0.32), "not resolved"),
        (21, dict(pissa=0.2), "disagree"),
        (26, {}, "agree"),
        (26, dict(dora=(0.5, 0.895)), "agree"),  # each at its best rate
        (26, dict(dora=(0.8, 0.7)), "disagree"),
        (26, dict(dora=(0.88, 0.7)), "disagree"),  # 2.8 % apart, and the floor is 0.01
    ],
)
def test_adapter_methods_are_judged_against_each_other(number, changes, verdict):
    assert arena(**changes)[number] == verdict


def test_variants_within_the_noise_are_not_resolved(monkeypatch):
    monkeypatch.setattr(verdicts, "TIE", 0.005)
    assert arena(dora=(0.901, 0.9))[26] == verdicts.NOT_RESOLVED
    assert judged(REPORT)[21].verdict == judged(REPORT)[26].verdict == verdicts.NOT_RUN


def test_one_seed_has_a_margin_in_place_of_a_floor():
    report = copy.deepcopy(REPORT)
    for own in report["methods"].values():
        for one in own["rates"].values():
            one["end"]["forgetting_floor"] = None
    assert verdicts.floor(report) == verdicts.MARGIN
    assert verdicts.floor(REPORT) == 0.05


def test_rates_are_judged_where_they_were_swept():
    assert judged(changed(("study", "rates", "lora"), [1.0]))[18].verdict == verdicts.NOT_RUN


def sized(*values, sizes=(3e5, 1e5, 1.4e6)):
    """Reports of one study over bases of several sizes: forgetting at the match by size."""
    found = []
    for size, value in zip(sizes, values, strict=True):
        report = copy.deepcopy(REPORT) | dict(base_parameters=int(size))
        report["study"] |= dict(config="configs/sizes.py:base=runs/a/export",
                                parts=dict(sized="full"))  # fmt: skip
        report["methods"]["full"]["matched"]["value"] = value
        found.append(report)
    return found


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.3, 0.4, 0.2), "agree"),  # of 0.3, 0.1 and 1.4 million parameters
        ((0.3, 0.33, 0.29), "not resolved"),
        ((0.2, 0.4, 0.3), "disagree"),
        ((0.3, 0.4, None), "not run"),  # one of three missed the target
    ],
)
def test_sizes_are_judged_together(values, verdict):
    reports = sized(*values)
    for report, value in zip(reports, values, strict=True):
        if value is None:
            report["methods"]["full"]["matched"] = dict(text="not reached", rate=None, floor=None)
    (found,) = (f for f in literature.judge([REPORT, *reports]) if f.statement.number == 24)
    assert found.found.verdict == verdict
    if verdict == "agree":
        assert found.found.ours == "0.10 M 0.400, 0.30 M 0.300, 1.40 M 0.200"
        assert "| agree | `sizes.py` |" in literature.table([found])


def test_sites_are_judged_by_their_best_gains():
    found = judged(changed(("study", "parts"), dict(attention="small", mlp="lora")))[19]
    assert (found.ours, found.verdict) == ("gain: attention 0.60, mlp 0.95", verdicts.AGREE)


def test_a_target_that_was_missed_is_not_resolved_and_says_so():
    missed = dict(text="not reached (best 0.58 of 0.7)", rate=None)
    found = judged(changed(("methods", "lora", "matched"), missed))[4]
    assert found[:2] == ("lora: " + missed["text"], verdicts.NOT_RESOLVED)


def sequence(of, *rows, parts=("few", "distilled")):
    """A report of two stages: scores of `of` and of the task beside it after 0, 1 and 2 stages."""
    first, second = ("refusal", "skill") if of == "refusal" else ("skill", of)
    other = second if of == "refusal" else first
    cells = [
        dict(cell=f"{part}{at}", method=part, rate=at, reason="", joint=False,
             order=[first, second],
             scores=[{of: x, other: y} for x, y in zip(own, (0.0, 1.0, 0.8), strict=True)])
        for part, at, own in rows
    ]  # fmt: skip
    study = dict(config="configs/own.py", parts={part: part for part in parts},
                 recover=[] if of == "refusal" else [of])  # fmt: skip
    tasks = {task: dict(label=task) for task in (first, second)}
    return dict(study=study, tasks=tasks, cells=cells)


@pytest.mark.parametrize(
    ("end", "verdict"), [(0.2, "disagree"), (0.59, "disagree"), (0.61, "agree"), (0.9, "agree")]
)
@pytest.mark.parametrize("part", ["few", "distilled"])
def test_what_comes_back_is_a_share_of_what_was_lost_at_the_best_rate(part, end, verdict):
    # Of 1.0 the first stage leaves 0.2: half of the way back is 0.6.
    report = sequence("again", (part, 0.1, (1.0, 0.2, 0.3)), (part, 0.2, (1.0, 0.2, end)))
    found = verdicts.recovers(part)(report)
    assert found.verdict == verdict
    assert found.ours == f"1.00 to 0.20 to {max(end, 0.3):.2f}; the task before it loses 0.20"
    assert verdicts.recovers("distilled" if part == "few" else "few")(report) is None


@pytest.mark.parametrize(
    ("full", "verdict"), [(0.1, "agree"), (0.44, "agree"), (0.46, "disagree"), (0.9, "disagree")]
)
def test_a_rule_is_gone_where_less_than_half_of_it_is_left(full, verdict):
    rows = (("full", 0.1, (0.0, 0.9, full)), ("lora", 0.1, (0.0, 0.9, 0.0)))
    found = verdicts.rules_die(sequence("refusal", *rows, parts=("full", "lora")))
    assert found[:2] == (f"full 0.90 to {full:.2f}; lora 0.90 to 0.00", verdict)
    assert (found.why == "more than half of it is left") == (verdict == "disagree")
    assert verdicts.rules_die(sequence("again", *rows)) is None


@pytest.mark.parametrize(
    ("cka", "procrustes", "norm", "verdict"),
    [
        (-0.9, 0.5, 0.6, "agree"), (-0.5, 0.9, 0.6, "agree"), (-0.5, 0.6, 0.62, "not resolved"),
        (0.9, -0.9, 0.6, "disagree"),  # the wrong way round
    ],
)  # fmt: skip
def test_hidden_states_rank_runs_better_than_the_norm(cka, procrustes, norm, verdict):
    ranks = dict(cka_old=cka, procrustes_old=procrustes, relative_norm=norm)
    own = {key: dict(spearman=value, r2=0.5, n=9) for key, value in ranks.items()}
    report = copy.deepcopy(REPORT)
    report["drift"]["fits"]["all"] |= own
    assert judged(report)[25].verdict == verdict
    assert judged(REPORT)[25].verdict == verdicts.NOT_RUN
