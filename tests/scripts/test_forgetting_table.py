"""The tables of docs/forgetting.md, from reports by hand."""

import json

from scripts import forgetting_table, runs

ESTIMATE = dict(value=0.25, low=0.2, high=0.3, n=3)


def method(value, *, rate=0.1, at_edge=False):
    matched = dict(ESTIMATE, value=value, rate=rate, at_edge=at_edge)
    return dict(matched=matched, rates={"0.1": dict(end=dict(forgetting=ESTIMATE))})


REPORT = dict(
    methods=dict(
        full=method(0.4, at_edge=True), lora=method(0.3),
        few=dict(matched=dict(text="not reached (best 0.2 of 0.5)", rate=None), rates={}),
    ),
    compared=dict(full="compared with", lora="-0.100", few="n/a"),
)  # fmt: skip


def test_methods_come_from_the_least_forgetting_on():
    rows = forgetting_table.measured(REPORT).splitlines()[2:]
    assert rows == [
        "| `lora` | 0.300 (0.200 to 0.300) | 0.1 | -0.100 | 0.250 (0.200 to 0.300) |",
        "| `full` | 0.400 (0.200 to 0.300) | 0.1, the edge of its sweep | compared with "
        "| 0.250 (0.200 to 0.300) |",
        "| `few` | not reached (best 0.2 of 0.5) |  | n/a |  |",
    ]


def test_reports_over_several_bases_are_one_table_by_their_size():
    study = dict(config="configs/own.py:base=a", parts=dict(sized="full"))
    reports = [REPORT | dict(study=study, base_parameters=size) for size in (1_443_456, 90_000)]
    assert forgetting_table.sized(reports).splitlines()[2:] == [
        f"| {size} M | 0.400 (0.200 to 0.300) | 0.1, the edge of its sweep "
        "| 0.250 (0.200 to 0.300) |"
        for size in ("0.09", "1.44")
    ]


def test_both_tables_go_between_their_own_marks(tmp_path, monkeypatch):
    report, page = tmp_path / "report.json", tmp_path / "page.md"
    study = dict(config="configs/own.py", parts={}, sees_old=[], carry="merged", rates={})
    whole = REPORT | dict(study=study, axes={}, tasks={}, probes=[], cells=[], drift=None)
    report.write_text(json.dumps(whole))
    page.write_text("head\n\n<!-- table of scripts/forgetting_table.py: own.py -->\nold\n"
                    f"{runs.END}\n\ntail\n")  # fmt: skip
    given = ["forgetting_table", "--report", str(report), "--out", str(page)]
    for _ in range(2):  # the second replaces what the first wrote
        monkeypatch.setattr("sys.argv", given)
        forgetting_table.main()
    text = page.read_text()
    assert text.startswith("head\n")
    assert "old" not in text.split("tail")[0].split("\n")
    assert text.count("| `lora` |") == 1
    assert text.count("| 27 | refusals die") == 1
    assert text.index("tail") < text.index("| 27 |")


def test_a_row_to_keep_stays_though_a_report_carries_it(tmp_path, monkeypatch):
    report, page = tmp_path / "report.json", tmp_path / "page.md"
    parts = dict(full="full", lora="lora")
    study = dict(
        config="configs/own.py", parts=parts, sees_old=[], carry="merged",
        rates=dict(full=[0.1], lora=[0.1]),
    )  # fmt: skip
    methods = {
        name: dict(method(value), matched=dict(method(value)["matched"], floor=None))
        for name, value in dict(full=0.4, lora=0.3).items()
    }
    for own in methods.values():
        own["rates"]["0.1"]["end"] |= dict(gain=ESTIMATE, gain_floor=0.01, forgetting_floor=0.01)
        own["rates"]["0.1"]["forgetting_at_match"] = ESTIMATE
    whole = dict(methods=methods, compared=dict(full="compared with", lora="-0.1"), study=study,
                 axes={}, tasks={}, probes=[], cells=[], drift=None)  # fmt: skip
    report.write_text(json.dumps(whole))
    known = "| 4 | LoRA forgets less | a | b | lora 1.0, full 2.0 | agree | `other.py` |"
    for keep, wanted in (("2,4", True), ("2", False)):
        page.write_text(f"<!-- table of {forgetting_table.NAME}: literature -->\n{known}\n"
                        f"{runs.END}\n")  # fmt: skip
        given = ["t", "--report", str(report), "--out", str(page), "--keep", keep]
        monkeypatch.setattr("sys.argv", given)
        forgetting_table.main()
        assert (known in page.read_text()) is wanted


def test_a_row_that_no_report_carries_stays_as_the_document_has_it(tmp_path, monkeypatch):
    report, page = tmp_path / "report.json", tmp_path / "page.md"
    study = dict(config="configs/own.py", parts={}, sees_old=[], carry="merged", rates={})
    whole = REPORT | dict(study=study, axes={}, tasks={}, probes=[], cells=[], drift=None)
    report.write_text(json.dumps(whole))
    known = "| 4 | LoRA forgets less | a | b | lora 1.0, full 2.0 | agree | `other.py` |"
    page.write_text(f"<!-- table of {forgetting_table.NAME}: literature -->\n{known}\n"
                    f"| 5 | merged | a | b |  | not run |  |\n{runs.END}\n")  # fmt: skip
    given = ["forgetting_table", "--report", str(report), "--out", str(page)]
    monkeypatch.setattr("sys.argv", given)
    forgetting_table.main()
    text = page.read_text()
    assert known in text
    assert "| 5 | merged |" not in text  # was not run: written anew
    assert "needs `lora_without_regret.py`" in text
