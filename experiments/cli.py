"""The frame of every command: what a user can mend ends in one line, our faults in a traceback.

    def main(argv):
        ...                     # flags and config, which import nothing slow
        cli.start()        # joins the processes of the run; then jax may be used

    if __name__ == "__main__":
        cli.run(main)

Exit codes: 0 done, or stopped by SIGTERM with a checkpoint; 1 anything unforeseen; 2 what was asked
for cannot be done, and the last line says why.
"""

import os
import re
import sys
import warnings
from typing import NamedTuple, NoReturn

from absl import app, flags, logging

from ftjax.core import config_flag, errors, remote, shipped

COORDINATOR = flags.DEFINE_string("coordinator", "", "host:port, to join processes by hand")
PROCESSES = flags.DEFINE_integer(
    "processes", None, "their number, with --coordinator; 1: alone, whatever a launcher says"
)
INDEX = flags.DEFINE_integer("index", None, "number of this process, with --coordinator")

WRITTEN = ("out", "output", "json")  # flags of what commands write on this machine alone
WINDOWS = (
    "ftjax runs on Linux and macOS; on Windows it runs under WSL: `wsl --install` in PowerShell, "
    "then install it in the Linux that this opens"
)
HELP = {"--help", "-help", "-h"}


class RunsFlags(NamedTuple):
    """The flags of a command that makes several runs of one config file."""

    config: flags.FlagHolder
    workdir: flags.FlagHolder


def define_runs(function: str) -> RunsFlags:
    """Define --config and --workdir of such a command; `function` of the file lists the runs."""
    text = f"file.py or file.py:arg with get_config() and {function}(), or the name of one"
    return RunsFlags(flags.DEFINE_string("config", None, text, required=True), define_workdir())


def define_workdir() -> flags.FlagHolder:
    """Define --workdir of a command that makes several runs."""
    text = "directory of the runs, or a URL; it resumes what it holds"
    return flags.DEFINE_string("workdir", None, text, required=True)


def define_training() -> tuple[flags.FlagHolder, flags.FlagHolder, flags.FlagHolder]:
    """Define --allow_config_change, --restart_data and --profile of a command that trains."""
    return (
        flags.DEFINE_bool("allow_config_change", False, "resume although the config has changed"),
        flags.DEFINE_bool(
            "restart_data",
            False,
            "resume with the data from their beginning: other data or batch size",
        ),
        flags.DEFINE_string("profile", "", "FIRST:LAST, steps that are traced into DIR/profile"),
    )


def run(main, given=None) -> None:
    """Parse the flags, run `main(argv)`, or `main(argv, given)`, and leave the process."""
    if sys.platform == "win32":  # before anything is imported that Windows has not
        _leave(WINDOWS)
    # With its own frames cut out, as by default, what jax raises seems to come from our last line.
    os.environ.setdefault("JAX_TRACEBACK_FILTERING", "off")

    def quietly(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # libraries tell of all they do at the level of info
        warnings.formatwarning = _warning
        try:
            main(argv) if given is None else main(argv, given)
        except app.UsageError as error:  # absl would print the whole help
            _leave(str(error))

    try:
        app.run(quietly, flags_parser=_parse)
    except errors.MESSAGES as error:
        if not errors.is_message(error):
            raise
        _leave(str(error))


def _warning(message: Warning | str, category, *_, **__) -> str:
    """Write a warning as a line; whose code it is says nothing to who runs a command."""
    del category
    return f"warning: {message}\n"


def start(*, compile_cache: str = "auto") -> None:
    """Start the process as every command does: join the others of the run, reuse memory.

    compile_cache: where compiled programs are kept, see `core.compile_cache`; a run's config may
      choose another place.

    Raises:
      ValueError: the flags or the launcher tell of others that cannot be joined.
    """
    from ftjax.core import compile_cache as programs  # jax imports slowly: behind the flags
    from ftjax.core import device, processes

    processes.start(coordinator=COORDINATOR.value, processes=PROCESSES.value, index=INDEX.value)
    programs.use(compile_cache)
    device.reuse_memory()


def define_mesh() -> flags.FlagHolder[list[str]]:
    """Define --mesh of a command that reads a run; see `mesh_of`."""
    return flags.DEFINE_list(
        "mesh", [], "AXIS=SIZE,... of the devices here, such as fsdp=2; the run's, fitted to them"
    )


def mesh_of(given: list[str]) -> dict[str, int] | None:
    """Read AXIS=SIZE of each; None without any.

    Raises:
      ValueError: one is not of this form, or names no axis.
    """
    from ftjax.core import mesh as meshes

    found = {}
    for text in given:
        axis, _, size = text.partition("=")
        if axis not in meshes.AXES or not re.fullmatch(r"-1|\d+", size):
            raise ValueError(
                f"--mesh: got {text!r}; expected AXIS=SIZE of {', '.join(meshes.AXES)}, such as "
                "fsdp=2; one size may be -1, the rest of the devices"
            )
        found[axis] = int(size)
    return found or None


def _parse(argv: list[str]) -> list[str]:
    if HELP & {*argv[1:]}:
        _show_help(argv)
    try:
        split = config_flag.split_keys if config_flag.KEYS in flags.FLAGS else list
        rest = flags.FLAGS(split(argv))
    except flags.Error as error:
        _leave(" ".join(str(error).split()))
    for name in WRITTEN:
        if name in flags.FLAGS:
            remote.check_local(flags.FLAGS[name].value, where=f"--{name}")
    workdir = flags.FLAGS["workdir"].value if "workdir" in flags.FLAGS else None
    if remote.is_url(workdir):
        remote.check_package(workdir, where="--workdir")  # before anything slow is imported
    return rest


def _show_help(argv: list[str]) -> NoReturn:
    """Print what the command does and takes; beside --config, also what the config does and takes.

    absl's own help stops at --help, before it has seen a --config that stands behind it.
    """
    text = f"{sys.modules['__main__'].__doc__.strip()}\n\nflags:\n{_flags_help()}"
    if (config := _config_of(argv)) and "config" in flags.FLAGS:
        from ftjax.run import config_help  # slow to import

        text += f"\n\n{config_help.text(config)}"
    sys.stdout.write(shipped.as_typed(text) + "\n")
    sys.exit(0)


def _flags_help() -> str:
    """Return what absl says of the flags of ours, those of shared modules among them."""
    name = sys.argv[0]
    for module, found in flags.FLAGS.flags_by_module_dict().items():
        for flag in found if module.startswith(("experiments.", "ftjax.")) else ():
            if flag.name != config_flag.KEYS:
                flags.FLAGS.register_key_flag_for_module(name, flag)
    return flags.FLAGS.main_module_help().strip().partition("\n")[2]  # less the file's name


def _config_of(argv: list[str]) -> str | None:
    """Return the value of --config in arguments that may be wrong otherwise."""
    for item, following in zip(argv, [*argv[1:], ""], strict=True):
        if match := re.fullmatch(r"--?config(=(.*))?", item):
            return match[2] if match[1] else following
    return None


def _leave(message: str) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(2)
