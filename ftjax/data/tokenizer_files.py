"""Reading tokenizers: `tokenizer.json` or SentencePiece's `tokenizer.model`, and what lies beside.

    tokenizer = load("llama3/")            # or the path of one of the two
    tokenizer = load("llama3/", new_tokens=("<tool>", "</tool>"))

`tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` name the bos, eos and
pad tokens and the chat template; `config.json` and `generation_config.json` the ids that end texts.
"""

import json
import pathlib
from collections.abc import Sequence

from ftjax.core.files import json_object
from ftjax.data import sentencepiece
from ftjax.data.tokenizer import ROLES, Tokenizer

CONFIG, MAP = "tokenizer_config.json", "special_tokens_map.json"
SIDE_FILES = (CONFIG, MAP, "chat_template.jinja")
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
        config = _side(files, file.with_name(CONFIG))
        backend = sentencepiece.read(file, add_bos=config.get("add_bos_token", True))
    else:
        backend = _read_json(file, files[name])
    special = _special(files, backend, folder=file.parent)
    found = Tokenizer(backend, files=files, stop_ids=_stop_ids(file), **special)
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
    config = _side(files, pathlib.Path(CONFIG))
    if "added_tokens_decoder" in config:  # tokenizers in Python read this one
        config["added_tokens_decoder"] |= {str(i): dict(content=t) | flags for t, i in ids.items()}
        text = json.dumps(config, indent=2, ensure_ascii=False)
        files[CONFIG] = text.encode()
    backend = _read_json(pathlib.Path("tokenizer.json"), files["tokenizer.json"])
    if (own := {token: backend.token_to_id(token) for token in tokens}) != ids:
        raise ValueError(
            f"data.new_tokens: got a tokenizer that gives them the ids {list(own.values())}; "
            f"expected {list(ids.values())}, after its largest; its vocabulary has gaps: add them "
            "to tokenizer.json by hand"
        )
    special = _special(files, backend, folder=pathlib.Path())
    return Tokenizer(backend, files=files, stop_ids=tokenizer.stop_ids, **special)


def _check_new(tokenizer: Tokenizer, tokens: Sequence[str]) -> None:
    if len(set(tokens)) != len(tokens) or not all(token.strip() for token in tokens):
        raise ValueError(f"data.new_tokens: got {tuple(tokens)}; expected distinct texts")
    if known := {t: i for t in tokens if (i := tokenizer.token_id(t)) is not None}:
        raise ValueError(
            f"data.new_tokens: got {known}, tokens that the tokenizer has, by id; expected new "
            "ones; leave them out: adapter.token_ids trains the rows of such tokens"
        )


def _read_json(file: pathlib.Path, content: bytes):
    from tokenizers import Tokenizer as Backend

    _check_json(file, content)
    try:
        backend = Backend.from_buffer(content)
    except ValueError as error:
        raise ValueError(
            f"{file}: got JSON that is no tokenizer ({error}); expected Hugging Face tokenizer "
            "JSON; fetch the file again"
        ) from error
    if not backend.get_vocab_size():
        raise ValueError(f"{file}: got no token; expected a vocabulary; fetch the file again")
    # Some published files carry a length limit; cutting is ours to do, and to count.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _check_json(file: pathlib.Path, content: bytes) -> None:
    if "model" not in json_object(file, content):
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
        config = json_object(beside, beside.read_bytes())
        texts = config.get("text_config")
        inner = texts.get("eos_token_id") if isinstance(texts, dict) else None
        ids = config.get("eos_token_id", inner)
        ids = ids if isinstance(ids, list) else [ids]
        found += [i for i in ids if isinstance(i, int) and not isinstance(i, bool)]
    return found


def _special(files: dict[str, bytes], backend, *, folder: pathlib.Path) -> dict:
    """Return `names` (token texts by role) and `template` as the side files give them."""
    sides = [(folder / name, _side(files, folder / name)) for name in (CONFIG, MAP)]
    known, names = CONFIG in files or MAP in files, {}
    for role in ROLES:
        key = f"{role}_token"
        texts = [_text_of(found.get(key), f"{file}: {key}") for file, found in sides]
        given = texts[0] or texts[1]
        names[role] = given if given or known else _usual(role, backend)
    template = files.get("chat_template.jinja")
    if template is None:
        file, config = sides[0]
        given = config.get("chat_template")
        return {"names": names, "template": _template(given, f"{file}: chat_template")}
    try:
        return {"names": names, "template": template.decode()}
    except UnicodeDecodeError as error:
        file, byte = folder / "chat_template.jinja", template[error.start]
        raise ValueError(
            f"{file}: got byte 0x{byte:02x} at {error.start}; expected UTF-8; fetch the file again"
        ) from error


def _side(files: dict[str, bytes], file: pathlib.Path) -> dict:
    return json_object(file, files[file.name]) if file.name in files else {}


def _text_of(given, where: str) -> str | None:
    """Return the text of a token: written plainly, or as an object {"content": text, ...}."""
    text = given.get("content", given) if isinstance(given, dict) else given
    if text is not None and not isinstance(text, str):
        raise ValueError(
            f"{where}: got {str(given)[:80]}; expected a text, null, or "
            '{"content": text}; correct it'
        )
    return text


def _usual(role: str, backend) -> str | None:
    return next((name for name in USUAL[role] if backend.token_to_id(name) is not None), None)


def _template(found, where: str) -> str | None:
    """Return the template of a config: one string, or a list of named ones with a default."""
    if found is None or isinstance(found, str):
        return found
    try:
        named = {each["name"]: each["template"] for each in found}
        template = named.get("default")
    except (TypeError, KeyError):
        template = named = False
    if not isinstance(template, str | None):
        raise ValueError(
            f"{where}: got {str(found)[:80]}; expected a text, or a "
            'list of {"name", "template"}; correct it, or set data.chat_template'
        )
    return template
