import io
import json
import math

import numpy as np
import pytest

from ftjax.core import device
from ftjax.core.mean import Mean
from ftjax.report import writers
from ftjax.train.window import Window

ROW = {
    "loss": 1.23456,
    "learning_rate": 2e-4,
    "time/tokens_per_s": 12345.6,
    "time/mfu": 0.312,
    "time/step_s": 0.5,
    "time/memory_gib": 2.06,
}


def test_jsonl_appends_rewinds_and_drops_a_torn_line(tmp_path):
    path = tmp_path / "deep" / "metrics.jsonl"
    writer = writers.Jsonl(path)
    for step in (1, 2, 3):
        writer.write(step, {"loss": 1.0 / step, "count": np.int64(step)})
    whole = path.read_text()
    writer.close()
    path.write_text(whole + '{"step": 4, "lo')
    writer.rewind(2)
    assert path.read_text() == "".join(whole.splitlines(keepends=True)[:2])
    writer.write(3, {"loss": 1.0 / 3, "count": 3})
    writer.close()
    assert path.read_text() == whole
    writer.rewind(-1)
    assert writers.read(path) == []


def test_a_damaged_line_is_said_and_the_other_rows_are_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, \xff\n[3]\n{"step": 4}\n')
    with pytest.warns(RuntimeWarning, match=r"2 damaged line\(s\), first line 2; .*bad-line"):
        writers.Jsonl(path).rewind(9)
    assert [row["step"] for row in writers.read(path)] == [1, 4]
    assert b"\xff" in (tmp_path / "metrics.jsonl.bad-line").read_bytes()


def test_jsonl_stays_json_when_a_number_is_not_finite(tmp_path):
    writer = writers.Jsonl(tmp_path / "m.jsonl")
    writer.write(1, {"a": math.nan, "b": -math.inf, "c": np.float32(0.5)})
    writer.close()
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {
        "step": 1,
        "a": None,
        "b": None,
        "c": 0.5,
    }


def test_console_writes_plain_lines_without_a_terminal():
    stream = io.StringIO()
    console = writers.Console(until=500, stream=stream)
    console.write(100, ROW | {"eval/new/nll": 0.5})
    console.write(200, {"eval/new/nll": math.nan})
    console.close()
    first, *rest = stream.getvalue().splitlines()
    for part in ("100/500", "1.235", "lr 0.0002", "12,346 tok/s", "31.2%", "3 min 20 s", "2.1 GiB"):
        assert part in first
    assert rest == ["step 100  nll", "  new     0.5", "step 200  nll", "  new     nan"]


def test_evaluations_are_a_table_with_a_column_for_every_metric():
    scores = {"eval/task/nll": 0.51, "eval/task/bits_per_byte": 0.3, "eval/old/a/f1": 1.0}
    scores |= {"eval/answers/f1": 0.25}
    assert writers.score_table(20, scores).splitlines() == [
        "step 20     nll  bits_per_byte  a/f1    f1",
        "  task     0.51            0.3",
        "  old                              1",
        "  answers                             0.25",
    ]


def test_console_leaves_out_what_is_unknown():
    assert writers.line({"loss": 2.0}, left=10) == "loss 2"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_console_draws_one_bar_on_a_terminal():
    stream = Terminal()
    console = writers.Console(until=20, stream=stream)
    console.rewind(5)
    console.write(10, ROW)
    console.write(15, {"eval/new/nll": 0.5})
    console.write(20, ROW)
    console.close()
    assert "20/20" in stream.getvalue()
    assert "loss 1.235" in stream.getvalue()
    assert "step 15  nll\n  new    0.5" in stream.getvalue()


def test_a_bar_is_there_before_the_first_row():
    stream = Terminal()
    writers.Console(until=20, stream=stream).rewind(-1)
    assert "0/20" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(44.6, "45 s"), (200, "3 min 20 s"), (3725, "1 h 02 min")]
)
def test_durations_read_well(seconds, text):
    assert writers.duration(seconds) == text


def test_tensorboard_writes_an_event_file(tmp_path):
    writer = writers.TensorBoard(tmp_path)
    writer.rewind(0)
    writer.write(1, {"loss": 1.0, "eval/x/nll": None})
    writer.close()
    (file,) = tmp_path.iterdir()
    assert b"loss" in file.read_bytes()
    assert b"eval" not in file.read_bytes()


def events(folder):
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  as the file is written

    (file,) = folder.glob("events*")
    data, found = file.read_bytes(), []
    while data:  # length, its checksum, the event, its checksum
        size = int.from_bytes(data[:8], "little")
        found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return found


def test_tensorboard_shows_the_config_and_the_samples(tmp_path):
    samples = tmp_path / "samples"
    samples.mkdir()
    said = [{"prompt": "Name a bird", "text": "Wren"}, {"prompt": [{"role": "user"}], "text": "b"}]
    (samples / "4.json").write_text(json.dumps(said))
    config = {"steps": 4, "optim": {"learning_rate": 0.5, "name": "adamw"}, "ema": None, "on": True}
    writer = writers.TensorBoard(tmp_path / "tb", samples=samples, config=config)
    writer.write(0, {"eval/held/nll": 2.0})
    writer.write(4, {"loss": 1.0})
    writer.close()
    values = [
        (event.step, value) for event in events(tmp_path / "tb") for value in event.summary.value
    ]
    texts = {
        v.tag: (step, v.tensor.string_val[0].decode()) for step, v in values if v.tensor.string_val
    }
    assert texts["samples/0/text_summary"] == (4, "Name a bird\n\n---\n\nWren")
    assert texts["samples/1/text_summary"][1].startswith('[{"role": "user"}]')
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    held = [HParamsPluginData.FromString(v.metadata.plugin_data.content) for _, v in values
            if v.metadata.plugin_data.plugin_name == "hparams"]  # fmt: skip
    (given,) = [own.session_start_info.hparams for own in held if own.session_start_info.hparams]
    assert given["optim.learning_rate"].number_value == 0.5
    assert given["optim.name"].string_value == "adamw"
    assert given["on"].bool_value
    (named,) = [own.experiment.metric_infos for own in held if own.experiment.metric_infos]
    assert {each.name.tag for each in named} == {"loss", "eval/held/nll"}


def test_a_window_adds_tokens_not_averages_and_survives_json():
    window = Window()
    window.add(
        {"loss": Mean(np.float32(6), np.float32(2)), "learning_rate": np.float32(0.5)}
        | {"norm": 1.0}
    )
    window = Window(json.loads(json.dumps(window.dump())))
    window.add(
        {"loss": Mean(np.float32(1), np.float32(8)), "learning_rate": np.float32(0.25)}
        | {"norm": 2.0}
    )
    assert window.take() == {"loss": 0.7, "norm": 1.5, "learning_rate": 0.25}
    assert window.take() == {}


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("cpu", None),
    ],
)
def test_peaks_are_found_by_device_kind(kind, peak):
    assert device.peak_flops(kind) == peak


def test_memory_is_read_on_cpu():
    assert device.peak_memory_bytes() > 2**24
