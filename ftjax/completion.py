"""Completion of `ftjax` in a shell: a script for each, all of which ask the program itself.

    eval "$(ftjax completion bash)"           in ~/.bashrc; zsh alike in ~/.zshrc
    ftjax completion fish | source            in ~/.config/fish/config.fish

The scripts call `ftjax completion words -- WORD ...` with the words up to the cursor, so a command,
a flag or a config that is added needs no new script.
"""

from collections.abc import Sequence

from ftjax.core import config as conf
from ftjax.core import shipped

SCRIPTS = {
    # Without a word of ours, names of files; `=` and `:` part words of bash.
    "bash": r"""_ftjax() {
  local IFS=$'\n'
  COMPREPLY=($(ftjax completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
  if [[ ${COMPREPLY[0]-} == *= ]]; then compopt -o nospace; fi
}
complete -o default -F _ftjax ftjax
""",
    "zsh": r"""#compdef ftjax
_ftjax() {
  local -a found
  found=(${(f)"$(ftjax completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
  compadd -a found
  _files
}
compdef _ftjax ftjax
""",
    "fish": r"""function __ftjax_words
  set -l words (commandline -opc) (commandline -ct)
  ftjax completion words -- $words[2..-1] 2>/dev/null
end
complete -c ftjax -a '(__ftjax_words)'
""",
}
OURS = ("experiments.", "ftjax.")


def words(typed: Sequence[str]) -> list[str]:
    """Return what the last word, begun or empty, may become; the others stand before it."""
    *before, last = typed or [""]
    if not before:
        legal = [*shipped.mains(), "completion"]
    elif before[0] == "completion":
        legal = SCRIPTS
    elif _is_config(before, last):
        legal, last = shipped.configs(), "" if last == "=" else last
    elif last.startswith("--config="):
        legal = [f"--config={name}" for name in shipped.configs()]
    elif last.startswith("-"):
        legal = flags_of(before[0])
    else:
        legal = []
    return [word for word in legal if word.startswith(last)]


def _is_config(before: Sequence[str], last: str) -> bool:
    """Return whether the value of --config is being typed, `=` being a word of its own in bash."""
    if last == "=":
        return before[-1] == "--config"
    return before[-1] == "--config" or [*before[-2:]] == ["--config", "="]


def flags_of(command: str) -> list[str]:
    """Return the flags of a command, `--config` and so on."""
    if command not in shipped.mains():
        return []
    from absl import flags

    # What importing it or its `define` defines; the libraries' own are left out.
    if define := conf.attribute(f"experiments.{command}", "run", "define"):
        define()
    by_module = flags.FLAGS.flags_by_module_dict().items()
    own = [each for name, found in by_module if name.startswith(OURS) for each in found]
    return sorted({f"--{each.name}" for each in own if each.name != "config_key"} | {"--help"})
