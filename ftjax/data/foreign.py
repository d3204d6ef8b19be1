"""Files that are not what their name says: what they are, and the command that mends them.

Each answer is a pair (what it is, what to do), or None; `{}` in a command stands for the file.
"""

import codecs
import re

# Beginnings of files that are not text.
MAGIC = {
    b"PAR1": ("Parquet data", "set data.name='parquet'"),
    b"ARROW1": ("Arrow data", "write it as Parquet and set data.name='parquet'"),
    b"PK\x03\x04": ("a zip archive (or a spreadsheet)", "unpack it: `unzip {}`"),
    b"BZh": ("bzip2 data", "unpack it: `bunzip2 {}`"),
    b"\xfd7zXZ": ("xz data", "unpack it: `unxz {}`"),
    b"\x28\xb5\x2f\xfd": ("zstandard data", "unpack it: `zstd -d {}`"),
    b"SQLite format 3": ("an SQLite database", "export its table as JSON lines"),
    b"%PDF": ("a PDF document", "extract its text first"),
    b"\x89PNG": ("an image", "take it out of data.path"),
    b"\x80\x04\x95": ("a Python pickle", "write its rows as JSON lines"),
    b"version https://git-lfs": (
        "a pointer of Git LFS and not the file",
        "fetch it: `git lfs pull`",
    ),
}
# Of languages whose letters stand side by side.
ENCODINGS = ("gb18030", "shift_jis", "euc-kr", "big5", "cp1251")
UTF16 = "convert it: `iconv -f utf-16 -t utf-8 {} > NEW`"
UTF32 = "convert it: `iconv -f utf-32 -t utf-8 {} > NEW`"
PYTHON_DICTS = (
    'convert it: `python -c "import ast, json, sys; [print(json.dumps(ast.literal_eval(l))) for l '
    'in sys.stdin]" < {} > NEW`'
)


def of_head(head: bytes) -> tuple[str, str] | None:
    """Return what a file is that begins with `head`, when it is no text in UTF-8."""
    for magic, found in MAGIC.items():
        if head.startswith(magic):
            return found
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32 text", UTF32
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16 text", UTF16
    # Without a mark: every other byte of plain characters is 0.
    for side, name in ((slice(1, 64, 2), "utf-16le"), (slice(0, 64, 2), "utf-16be")):
        if len(head) >= 8 and not head[side].strip(b"\0") and head[:64].strip(b"\0"):
            return "UTF-16 text", UTF16.replace("utf-16 ", f"{name} ")
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        return "a web page (or XML)", "fetch the file itself, such as the `raw` or `resolve` link"
    return None


def to_utf8(text: bytes) -> str:
    """Return what converts text that is no UTF-8: letters with accents stand alone in Latin-1."""
    if not re.search(rb"[\x80-\xff]{2}", text):
        return "convert it: `iconv -f latin1 -t utf-8 {} > NEW`"
    known = [name for name in ENCODINGS if _is_text(text, name)] or ENCODINGS
    return (
        f"convert it from its encoding, such as {' or '.join(known)}: `iconv -f ENCODING -t utf-8 "
        "{} > NEW`, and look whether it reads well"
    )


def _is_text(text: bytes, encoding: str) -> bool:
    try:
        # What is looked at may be cut within a letter.
        found = codecs.getincrementaldecoder(encoding)().decode(text, final=False)
    except UnicodeDecodeError:
        return False
    return all(each.isprintable() or each.isspace() for each in found)


def of_line(line: bytes, *, position: int, message: str, first: bool) -> tuple[str, str]:
    """Return what a line is that is no JSON, and what mends it.

    position, message: where the parser stopped, and why. first: it is the first line of its file.
    """
    text = line.strip()
    if b"\0" in line:
        return "NUL bytes", "the file was damaged when it was written: `tr -d '\\000' < {} > NEW`"
    if b"\r" in text:
        return "old Mac line ends (CR)", "convert it: `tr '\\r' '\\n' < {} > NEW`"
    if text.startswith((b"{'", b"[{'", b"{ '")):
        return "a Python dict", PYTHON_DICTS
    rest = text[position:].strip()
    if (text.startswith((b"{", b"[")) and rest == b",") or text.endswith(b"},"):
        return "a comma behind the object", "remove it: `sed 's/,[[:space:]]*$//' {} > NEW`"
    if rest.startswith((b"{", b"[")) and position:
        return "two JSON values on a line", "put each on its own: `jq -c . {} > NEW`"
    if first and not text.startswith((b"{", b"[")) and re.search(rb"[,;\t]", text):
        return "a table (CSV) with its header", "set data.name='csv'"
    if text in (b"{", b"["):
        return "JSON over several lines", "put each object on one line: `jq -c . {} > NEW`"
    if "control character" in message and position < len(text):
        return "a raw tab or line end in a text", "write it as \\t or \\n"
    cut = position >= len(text) or message.startswith("Unterminated")
    if text.startswith(b"{") and cut:
        return "a line that is cut off", "fetch the file again; or drop its last line: `sed '$d'`"
    return "", "repair the line; a pretty-printed file converts with `jq -c . {} > NEW`"
