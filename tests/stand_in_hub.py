"""A small server that speaks what huggingface_hub asks of the Hub, and a cache of its own."""

import base64
import contextlib
import hashlib
import json
import re
import threading
import urllib.parse
from http import server

import pytest

ROUTE = re.compile(
    r"/(?:(?P<api>api)/)?(?P<kind>models/|datasets/)?(?P<id>[\w.-]+/[\w.-]+)"
    r"(?:/(?P<verb>revision|resolve|tree|preupload|commit)/(?P<rest>.*))?"
)


class Hub:
    """Repositories by ("model" or "dataset", id): files of each commit, and commits of names."""

    def __init__(self):
        self.commits, self.refs, self.locked, self.private = {}, {}, set(), set()
        self.requests, self.token = [], "hf_right"

    def put(self, id_, files, *, kind="model", ref="main"):
        """Add a commit of these files, name -> bytes or a path; returns it."""
        content = {n: f if isinstance(f, bytes) else f.read_bytes() for n, f in files.items()}
        text = repr(sorted((n, hashlib.sha256(c).hexdigest()) for n, c in content.items()))
        commit = hashlib.sha1(f"{kind} {id_} {text}".encode()).hexdigest()
        self.commits[kind, id_, commit] = content
        self.refs[kind, id_, ref] = commit
        return commit

    def find(self, kind, id_, revision):
        """Return (commit, files), or the status and the code of an error."""
        if not any(key[:2] == (kind, id_) for key in self.refs):
            return 401, "RepoNotFound"
        commit = self.refs.get((kind, id_, revision), revision)
        if (kind, id_, commit) not in self.commits:
            return 404, "RevisionNotFound"
        return commit, self.commits[kind, id_, commit]


class Handler(server.BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        size = int(self.headers.get("Content-Length") or 0)
        self.answer(self.rfile.read(size))

    def answer(self, body=b""):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        allowed = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if path == "/api/whoami-v2":
            return self.reply(
                {"name": "me", "type": "user"} if allowed else {}, 200 if allowed else 401
            )
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":  # of a model card
            return self.reply({"errors": [], "warnings": []})
        match = ROUTE.fullmatch(path)
        kind = "dataset" if match["kind"] == "datasets/" else "model"
        key = kind, match["id"]
        if key in self.hub.locked and not allowed:
            return self.reply({}, 403, {"X-Error-Code": "GatedRepo"})
        if match["verb"] in ("preupload", "commit"):
            return self.upload(key, match["verb"], body)
        revision, _, name = (match["rest"] or "main").partition("/")
        if match["verb"] != "resolve":
            revision, name = match["rest"] or "main", ""
        return self.read(key, match["verb"], revision, name)

    def read(self, key, verb, revision, name):
        found, files = self.hub.find(*key, revision)
        if isinstance(found, int):
            return self.reply({}, found, {"X-Error-Code": files})
        if verb == "tree":
            row = lambda n: dict(type="file", path=n, size=len(files[n]), oid=self.etag(files[n]))
            return self.reply([row(n) for n in files])
        if verb == "resolve":
            if name not in files:
                return self.reply({}, 404, {"X-Error-Code": "EntryNotFound"})
            more = {"ETag": f'"{self.etag(files[name])}"', "X-Repo-Commit": found}
            return self.reply(files[name], 200, more)
        siblings = [{"rfilename": n} for n in files]
        private = key[1] in self.hub.private
        return self.reply({"id": key[1], "sha": found, "siblings": siblings, "private": private})

    def create(self, asked):
        id_ = f"{asked.get('organization') or 'me'}/{asked['name']}"
        said = {"url": f"{self.url}/{id_}", "id": id_, "name": id_}
        if ("model", id_, "main") in self.hub.refs:
            return self.reply(said, 409)
        if id_.startswith("others/"):
            return self.reply({"error": "no rights to create"}, 403)
        self.hub.private |= {id_} if asked.get("visibility") == "private" else set()
        self.hub.put(id_, {})
        return self.reply(said)

    def upload(self, key, verb, body):
        if verb == "preupload":
            names = [each["path"] for each in json.loads(body)["files"]]
            return self.reply({
                "files": [dict(path=n, uploadMode="regular", shouldIgnore=False) for n in names]
            })  # fmt: skip
        lines = [json.loads(line) for line in body.splitlines()]
        before = self.hub.find(*key, "main")[1]
        gone = {line["value"]["path"] for line in lines if line["key"] == "deletedFile"}
        files = {n: content for n, content in before.items() if n not in gone} | {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        commit = self.hub.put(key[1], files, kind=key[0])
        url = f"{self.url}/{key[1]}/commit/{commit}"
        return self.reply({"commitUrl": url, "commitOid": commit, "success": True})

    def etag(self, content):
        return hashlib.sha1(content).hexdigest()

    @property
    def url(self):
        host, port = self.server.server_address[:2]
        return f"http://{host}:{port}"

    def reply(self, content, status=200, headers=None):
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)


@contextlib.contextmanager
def serving(hub):
    """Serve a hub on the loopback address; yields its URL."""
    own = server.ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=own.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{own.server_port}"
    finally:
        own.shutdown()
        own.server_close()
        thread.join()


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A hub that huggingface_hub asks, with an empty cache and no token."""
    from huggingface_hub import constants

    hub = Hub()
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving(hub) as url:
        changes = dict(
            ENDPOINT=url, HF_HUB_OFFLINE=False, HF_HUB_CACHE=str(tmp_path / "hub"),
            HF_TOKEN_PATH=str(tmp_path / "token"), HF_HUB_DISABLE_PROGRESS_BARS=True,
            HF_STORED_TOKENS_PATH=str(tmp_path / "tokens"),
            HUGGINGFACE_CO_URL_TEMPLATE=url + "/{repo_id}/resolve/{revision}/{filename}",
        )  # fmt: skip
        for name, value in changes.items():
            monkeypatch.setattr(constants, name, value)
        yield hub
