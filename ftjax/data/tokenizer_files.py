"""Reading tokenizers: `tokenizer.json` or SentencePiece's `tokenizer.model`, and what lies beside.

    tokenizer = load("llama3/")            # or the path of one of the two
    tokenizer = load("llama3/", new_tokens=("<tool>", "</tool>"))

`tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` name the bos, eos and
pad tokens and the chat template; `config.json` and `generation_config.json` the ids that end texts.
"""

import json
import pathlib
from collections.abc import Sequence

from ftjax.data import sentencepiece
from ftjax.data.tokenizer import ROLES, Tokenizer

SIDE_FILES = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
# Files of the model that name the tokens a text ends with.
STOP_FILES = ("config.json", "generation_config.json")
# Used only for a lone tokenizer.json, which does not say what its special tokens are for.
USUAL = {
    "bos": ("<|bos|>", "<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>", "[BOS]"),
    "eos": ("<|eos|>", "<eos>", "</s>", "<|end_of_text|>", "<|endoftext|>", "[EOS]"),
    "pad": ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>"),
}


def load(path, *, new_tokens: Sequence[str] = ()) -> Tokenizer:
    """Read a tokenizer from a `tokenizer.json`, a `tokenizer.model`, or a folder with one.

    new_tokens: special tokens to add, see `extend`. Raises ValueError saying what is missing.
    """
    path = pathlib.Path(path).expanduser()
    file = _tokenizer_file(path)
    name = "tokenizer.model" if file.suffix == ".model" else "tokenizer.json"
    files = {name: file.read_bytes()} | _side_files(file)
    if name == "tokenizer.model":
        backend = sentencepiece.read(file, add_bos=_config(files).get("add_bos_token", True))
    else:
        backend = _read_json(file, files[name])
    found = Tokenizer(backend, files=files, stop_ids=_stop_ids(file), **_special(files, backend))
    return extend(found, new_tokens) if new_tokens else found


def extend(tokenizer: Tokenizer, tokens: Sequence[str]) -> Tokenizer:
    """Return the tokenizer with more special tokens, whose ids follow its largest one.

    Its files have them too: transformers reads the same ids.

    Raises:
      ValueError: it knows one of them, one is there twice or empty, or it is no tokenizer.json.
    """
    files = tokenizer.files
    if "tokenizer.json" not in files:
        raise ValueError(
            "data.new_tokens: got a tokenizer.model, which has no place for them; expected a "
            "tokenizer.json; convert it with transformers (AutoTokenizer, save_pretrained)"
        )
    _check_new(tokenizer, tokens)
    ids = {token: tokenizer.vocab_size + n for n, token in enumerate(tokens)}
    # As transformers adds special tokens: spaces around them stay text.
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    found = json.loads(files["tokenizer.json"])
    entries = [dict(id=i, content=token) | flags for token, i in ids.items()]
    found["added_tokens"] = [*(found.get("added_tokens") or ()), *entries]
    files["tokenizer.json"] = json.dumps(found, ensure_ascii=False).encode()
    if "added_tokens_decoder" in (config := _config(files)):  # tokenizers in Python read this one
        config["added_tokens_decoder"] |= {str(i): dict(content=t) | flags for t, i in ids.items()}
        text = json.dumps(config, indent=2, ensure_ascii=False)
        files["tokenizer_config.json"] = text.encode()
    backend = _read_json(pathlib.Path("tokenizer.json"), files["tokenizer.json"])
    if (own := {token: backend.token_to_id(token) for token in tokens}) != ids:
        raise ValueError(
            f"data.new_tokens: got a tokenizer that gives them the ids {list(own.values())}; "
            f"expected {list(ids.values())}, after its largest; its vocabulary has gaps: add them "
            "to tokenizer.json by hand"
        )
    special = _special(files, backend)
    return Tokenizer(backend, files=files, stop_ids=tokenizer.stop_ids, **special)


def _check_new(tokenizer: Tokenizer, tokens: Sequence[str]) -> None:
    if len(set(tokens)) != len(tokens) or not all(token.strip() for token in tokens):
        raise ValueError(f"data.new_tokens: got {tuple(tokens)}; expected distinct texts")
    if known := {t: i for t in tokens if (i := tokenizer.token_id(t)) is not None}:
        raise ValueError(
            f"data.new_tokens: got {known}, tokens that the tokenizer has, by id; expected new "
            "ones; leave them out: adapter.token_ids trains the rows of such tokens"
        )


def _config(files: dict[str, bytes]) -> dict:
    return json.loads(files.get("tokenizer_config.json", b"{}"))


def _read_json(file: pathlib.Path, content: bytes):
    from tokenizers import Tokenizer as Backend

    _check_json(file, content)
    backend = Backend.from_buffer(content)
    # Some published files carry a length limit; cutting is ours to do, and to count.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _check_json(file: pathlib.Path, content: bytes) -> None:
    # The library raises a bare Exception for a file that is not a tokenizer.
    try:
        found = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{file}: got broken JSON ({error}); expected tokenizer JSON") from error
    if not isinstance(found, dict) or "model" not in found:
        raise ValueError(
            f"{file}: got JSON without 'model'; expected Hugging Face tokenizer JSON; point at "
            "tokenizer.json, not at one of the files beside it"
        )


def _tokenizer_file(path: pathlib.Path) -> pathlib.Path:
    if path.is_file():
        return path
    for name in ("tokenizer.json", "tokenizer.model"):
        if (path / name).is_file():
            return path / name
    found = "a folder without either" if path.is_dir() else "no such file or folder"
    raise ValueError(
        f"tokenizer: got {str(path)!r} ({found}); expected tokenizer.json or tokenizer.model; "
        "set tokenizer to the folder of the model's files"
    )


def _side_files(file: pathlib.Path) -> dict[str, bytes]:
    """Return the content of the files that go with a tokenizer, by name.

    A file with a name of its own, such as bpe8192.json, stands alone: what lies beside it may
    belong to another tokenizer.
    """
    if file.name not in ("tokenizer.json", "tokenizer.model"):
        return {}
    beside = (file.with_name(name) for name in SIDE_FILES)
    return {each.name: each.read_bytes() for each in beside if each.is_file()}


def _stop_ids(file: pathlib.Path) -> list[int]:
    """Return every `eos_token_id` of the model's files beside a tokenizer."""
    found = []
    for name in STOP_FILES if file.name in ("tokenizer.json", "tokenizer.model") else ():
        beside = file.with_name(name)
        if not beside.is_file():
            continue
        try:
            config = json.loads(beside.read_bytes())
            texts = config.get("text_config") or {}
            ids = config.get("eos_token_id", texts.get("eos_token_id"))
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{beside}: got broken JSON ({error}); expected an object; fetch the file again"
            ) from error
        ids = ids if isinstance(ids, list) else [ids]
        found += [i for i in ids if isinstance(i, int) and not isinstance(i, bool)]
    return found


def _special(files: dict[str, bytes], backend) -> dict:
    """Return `names` (token texts by role) and `template` as the side files give them."""
    config = _config(files)
    mapped = json.loads(files.get("special_tokens_map.json", b"{}"))
    known = "tokenizer_config.json" in files or "special_tokens_map.json" in files
    names = {}
    for role in ROLES:
        given = config.get(f"{role}_token") or mapped.get(f"{role}_token")
        # Either plain text or an object {"content": text, ...}.
        given = given["content"] if isinstance(given, dict) else given
        names[role] = given if given or known else _usual(role, backend)
    template = files.get("chat_template.jinja")
    template = template.decode() if template else _template(config.get("chat_template"))
    return {"names": names, "template": template}


def _usual(role: str, backend) -> str | None:
    return next((name for name in USUAL[role] if backend.token_to_id(name) is not None), None)


def _template(found) -> str | None:
    """Return the template of a config: one string, or a list of named ones with a default."""
    if isinstance(found, list):
        return {each["name"]: each["template"] for each in found}.get("default")
    return found
