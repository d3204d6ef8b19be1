"""Every command of the mains in README, docs and docstrings parses: flags exist, configs load."""

import collections
import json
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import pytest

import ftjax
from ftjax.core import shipped
from scripts import docs_pages
from tests.lab import environment

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
MODULES = [p for folder in ("configs", "experiments") for p in sorted((ROOT / folder).glob("*.py"))]
JOINED = re.compile(r"\\\n\s*|\n\s+(?=--)")  # lines that go on in the next
START = re.compile(
    r"^\s*(?:srun |\w+=\S+ )*(?:python -m experiments\.|ftjax )(\w+)(?=\s|$)(.*)", re.DOTALL
)
# Parses each command with the flags of the main, and reads its config as the main would.
CHECK = """
import json, sys
from absl import flags
from ftjax.core import config as conf, config_flag
from ftjax.run import config as settings, keys
name, commands = sys.argv[1], json.load(sys.stdin)
main = __import__(f"experiments.{name}", fromlist=[name])
if hasattr(main, "define"):
    main.define()
found = {}
for text, argv in commands:
    flags.FLAGS.unparse_flags()
    try:
        rest = flags.FLAGS([name, *config_flag.split_keys(argv)])[1:]
        if rest and (len(rest) > 1 or rest[0] not in vars(main).get("COMMANDS", ())):
            raise ValueError(f"the arguments {rest}")
        sets = flags.FLAGS.config_key if config_flag.KEYS in flags.FLAGS else None
        if hasattr(main, "read"):
            if path := flags.FLAGS.config:
                more = "runs" if sets is None else sets
                main.read(*[path, more][:main.read.__code__.co_argcount])
        elif "config" in flags.FLAGS:
            settings.read(keys.apply(conf.load(flags.FLAGS.config), sets or []))
    except (flags.Error, ValueError) as error:
        found[text] = str(error)
json.dump(found, sys.stdout)
"""


def pieces(path):
    """Yield what may be commands: lines of code blocks and of docstrings, and inline code."""
    text = path.read_text()
    if path.suffix == ".py":
        yield from JOINED.sub(" ", text).splitlines()
        return
    for block in re.findall(r"```[^\n`]*\n(.*?)```", text, re.DOTALL):
        yield from JOINED.sub(" ", block).splitlines()
    yield from re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def commands():
    """Return by main the commands, each its text and its words; "..." is anything."""
    found, mains = collections.defaultdict(dict), shipped.mains()
    for path in [*PAGES, *MODULES]:
        for piece in pieces(path):
            match = START.match(piece)
            if match is None or match[1] not in mains or "..." in match[2].split("#")[0]:
                continue
            words = shlex.split(match[2], comments=True)
            found[match[1]][f"{path.name}: {' '.join(piece.split())}"] = words
    return found


COMMANDS = commands()


def test_the_commands_are_found():
    assert COMMANDS.keys() == shipped.mains().keys()
    every = "\n".join(text for own in COMMANDS.values() for text in own)
    for text in ("--workdir runs/medical", "sft:path=train.jsonl", "--prompts_file q.jsonl"):
        assert text in every, text
    assert sum(map(len, COMMANDS.values())) > 60


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_parses(name):
    own = [(text, words) for text, words in COMMANDS[name].items() if "--help" not in words]
    done = subprocess.run(
        [sys.executable, "-c", CHECK, name], input=json.dumps(own), cwd=ROOT, timeout=100,
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


def test_a_wrong_command_is_found():
    """The test of the test: a flag, a key and a config that there are not."""
    wrong = ["--workdir r", "--config sft --wrkdir r", "--config sft --config.optim.lerning_rate=1"]
    wrong += ["--config absent", "--config sft stray"]
    done = subprocess.run(
        [sys.executable, "-c", CHECK, "train"], cwd=ROOT, timeout=100, env=environment(),
        input=json.dumps([(text, text.split()) for text in wrong]), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert json.loads(done.stdout).keys() == set(wrong)


def test_the_files_of_the_project_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = (ROOT / "CITATION.cff").read_text()
    for text in (f"version: {ftjax.__version__}", project["urls"]["Source"], project["license"]):
        assert text in cited
    assert f"## {ftjax.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    ends = [c.rpartition(" ")[2] for c in project["classifiers"] if ":: 3." in c]
    assert project["requires-python"] == f">={ends[0]}"


LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(path):
    links, made = LINK.findall(path.read_text()), docs_pages.pages()
    assert [at for at in links if not (path.parent / at).exists() and at not in made] == []
