import sys
import textwrap

import jax
import jax.numpy as jnp
import pytest

from ftjax.core import config as conf
from ftjax.core import config_flag

LAB = """
def make(*, rank: int, scale: float = 1.0, flag: bool = False, model=None):
    return dict(rank=rank, scale=scale, flag=flag, model=model)

def make_any(*, rate, **keywords):
    return dict(rate=rate, **keywords)
"""

CONFIG = """
from ftjax.core import config as conf

def get_config(arg=None):
    arg = conf.parse_arg(arg, rank=4, runlocal=False)
    c = conf.create(steps=2 if arg.runlocal else 100, seed=0)
    c.adapter = dict(name="lora", rank=arg.rank)
    c.adapter.alpha = 2.0 * c.adapter.get_ref("rank")
    c.data = dict(path=conf.placeholder(str))
    return c
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    (tmp_path / "conf_lab").mkdir()
    (tmp_path / "conf_lab" / "foo.py").write_text(LAB)
    (tmp_path / "conf_lab" / "broken.py").write_text("import a_package_that_is_absent\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "conf_lab.foo"
    for name in [n for n in sys.modules if n.startswith("conf_lab")]:
        del sys.modules[name]


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(textwrap.dedent(CONFIG))
    return str(path)


def build(spec, **extra):
    return conf.build(spec, "objectives", where="config.objective", **extra)


def test_resolve_finds_modules_of_a_room_and_dotted_paths(lab):
    assert conf.resolve("config", "core") is conf
    assert conf.resolve(lab, "core").__name__ == lab


def test_resolve_lists_the_room_and_the_nearest():
    with pytest.raises(ValueError, match=r"at\.name: got 'comf'.*config.*did you mean 'config'"):
        conf.resolve("comf", "core", where="at.name")


@pytest.mark.parametrize("name", ["conf_lab.bar", "no_such_lab.foo", "conf_lab.foo.bar"])
def test_resolve_rejects_absent_dotted_paths(lab, name):
    with pytest.raises(ValueError, match=name):
        conf.resolve(name, "core")


def test_resolve_lets_a_failing_import_through(lab):
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_absent"):
        conf.resolve("conf_lab.broken", "core")


def test_build_passes_keywords_and_the_extras_that_are_named(lab):
    made = build({"name": lab, "rank": 3, "scale": 2}, model="m", tokenizer="t")
    assert made == {"rank": 3, "scale": 2, "flag": False, "model": "m"}


def test_build_gives_a_var_keyword_function_only_spec_keys(lab):
    spec = {"name": lab, "rate": 0.1, "momentum": 0.9}
    made = conf.build(spec, "optim", attr="make_any", where="c", tokenizer="t")
    assert made == {"rate": 0.1, "momentum": 0.9}


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"rnak": 3}, r"config\.objective\.rnak: unknown key; did you mean 'rank'\? .*flag, model"),
        ({"scale": 1.0}, r"config\.objective: got scale; expected also rank"),
        ({"rank": 1.5}, r"config\.objective\.rank: got 1\.5; expected int"),
        ({"rank": True}, r"config\.objective\.rank: got True; expected int"),
        ({"rank": None}, r"config\.objective\.rank: got None; expected int"),
        ({"rank": 1, "scale": "1"}, r"scale: got '1'; expected float"),
        ({"rank": 1, "flag": 1}, r"flag: got 1; expected bool"),
    ],
)
def test_build_rejects_wrong_keywords(lab, keywords, message):
    with pytest.raises(ValueError, match=message):
        build({"name": lab, **keywords})


def test_call_takes_traced_values_for_numbers(lab):
    scale_of = lambda scale: build({"name": lab, "rank": 1, "scale": scale})["scale"]
    assert jax.vmap(scale_of)(jnp.arange(3.0)).tolist() == [0.0, 1.0, 2.0]


def test_build_rejects_a_key_that_the_program_sets(lab):
    with pytest.raises(ValueError, match=r"objective\.model: got a value; expected none"):
        build({"name": lab, "rank": 1, "model": "m"}, model="m")


@pytest.mark.parametrize("spec", [{"rank": 1}, {"name": 3}, {"name": "conf_lab.foo.absent"}, None])
def test_build_rejects_specs_without_a_module(lab, spec):
    with pytest.raises(ValueError, match="expected"):
        build(spec)


def test_build_rejects_a_module_without_the_function(lab):
    with pytest.raises(ValueError, match="has no function `fly`"):
        conf.build({"name": lab}, "core", attr="fly", where="c")


def test_required_placeholder_names_its_key():
    config = conf.create(data=dict(path=conf.placeholder(str, required=True)))
    with pytest.raises(ValueError, match=r"config\.data\.path: not set"):
        conf.to_dict(config)


def test_to_dict_resolves_references_and_keeps_sequences(config_file):
    config = conf.load(f"{config_file}:rank=8")
    assert conf.to_dict(config)["adapter"] == {"name": "lora", "rank": 8, "alpha": 16.0}
    pairs = conf.create(groups=[("**/b", dict(lr_scale=16.0))])
    assert conf.to_dict(pairs) == {"groups": [("**/b", {"lr_scale": 16.0})]}


def test_load_reads_the_argument_locks_and_overrides(config_file):
    config = conf.load(f"{config_file}:runlocal,rank=2", **{"adapter.rank": 16})
    assert (config.steps, config.adapter.alpha, config.data.path) == (2, 32.0, None)
    with pytest.raises(AttributeError, match="stepz"):
        config.stepz = 1
    with pytest.raises(ValueError, match="expected a Python file"):
        conf.load("absent.py")


def test_the_flag_takes_a_file_and_every_spelling_of_a_key():
    from absl import flags

    values = flags.FlagValues()
    holder = config_flag.define("test_conf", flag_values=values)
    argv = "x --test_conf.a.b=1=2 --test_conf x.py:rank=8 --test_conf.c -1 --notest_conf.d "
    argv += "--test_conf.e --test_conf.f="
    values(config_flag.split_keys(argv.split(), name="test_conf"))
    assert holder.config.value == "x.py:rank=8"
    assert holder.keys.value == ["a.b=1=2", "c=-1", "d=False", "e=True", "f="]


def test_keys_are_put_anywhere_and_references_follow(config_file):
    config = conf.load(config_file)
    conf.put(config, ["adapter", "rank"], 8)
    conf.put(config, ["fresh", "section", "key"], [1, {"x": 2}])
    conf.put(config, ["fresh", "section", "key", "1", "x"], 3)
    found = conf.to_dict(config)
    assert found["adapter"]["alpha"] == 16.0
    assert found["fresh"] == {"section": {"key": [1, {"x": 3}]}}
    conf.put(config, ["adapter", "alpha"], 3.5)  # a float, where the reference was to an int
    assert conf.to_dict(config)["adapter"] == {"name": "lora", "rank": 8, "alpha": 3.5}
    assert config.is_locked


@pytest.mark.parametrize("path", ["steps.x", "parts.2", "parts.0.x.y"])
def test_a_key_inside_a_value_is_refused(path):
    config = conf.create(steps=3, parts=({"x": 1}, {"x": 2}))
    with pytest.raises(ValueError, match=path.split(".")[0]):
        conf.put(config, path.split("."), 1)


def test_a_required_flag_must_be_given():
    from absl import flags

    values = flags.FlagValues()
    holder = config_flag.define("test_conf", flag_values=values)
    config_flag.define_required(holder, flag_values=values)
    with pytest.raises(flags.IllegalFlagValueError, match="test_conf must have a value"):
        values(["x"])


def test_a_value_that_no_reference_can_follow_is_named(config_file):
    config = conf.load(config_file)
    with pytest.raises(ValueError, match=r"config\.adapter\.rank: got 'four', which another key"):
        conf.put(config, ["adapter", "rank"], "four")
    open_ = conf.create(adapter=dict(rank=4))
    open_.adapter.alpha = 2.0 * open_.adapter.get_ref("rank")
    conf.put(open_, ["adapter", "rank"], "four")
    with pytest.raises(ValueError, match=r"config\.adapter\.alpha: cannot be worked out from the"):
        conf.to_dict(open_)


def test_parse_arg_types_by_the_defaults():
    arg = conf.parse_arg(
        "rank=8, runlocal,lr=1e-3,name=x=y", rank=4, runlocal=False, lr=0.1, name=None
    )
    assert vars(arg) == {"rank": 8, "runlocal": True, "lr": 1e-3, "name": "x=y"}
    assert vars(conf.parse_arg(None, rank=4, flag=True)) == {"rank": 4, "flag": True}
    assert conf.parse_arg("flag=False", flag=True).flag is False


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("rnak=8", r"unknown key; did you mean 'rank'\? expected one of"),
        ("rank", "expected int, as in key=value"),
        ("rank=x", "got 'x'; expected int"),
        ("runlocal=2", "expected true or false"),
        ("rank=1,rank=2", "twice"),
    ],
)
def test_parse_arg_rejects(arg, message):
    with pytest.raises(ValueError, match=message):
        conf.parse_arg(arg, rank=4, runlocal=False)


def test_functions_by_name():
    found = conf.function("listed", conf, where="loss")
    assert found is conf.listed
    assert conf.function("ftjax.core.config.nearest", conf, where="loss") is conf.nearest
    for wrong in ("listd", "_plain", "Callable"):
        with pytest.raises(ValueError, match=r"loss: got .*; expected one of .*listed"):
            conf.function(wrong, conf, where="loss")
    with pytest.raises(ValueError, match="did you mean 'listed'"):
        conf.function("listd", conf, where="loss")
    with pytest.raises(ValueError, match=r"module 'ftjax.core.config' has no function 'nothing'"):
        conf.function("ftjax.core.config.nothing", conf, where="loss")
