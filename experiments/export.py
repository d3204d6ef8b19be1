r"""Export a run: a PEFT adapter, or a Hugging Face model, for the rest of the world to load.

    python -m experiments.export --workdir runs/mine --out mine              # what was trained
    python -m experiments.export --workdir runs/mine --out mine --merge --dtype bf16
    python -m experiments.export --workdir runs/full --out full --max_shard_gb 2
    python -m experiments.export --workdir runs/mine --out mine --push org/name --private

A run with an adapter gives a PEFT directory; with --merge the adapter is merged into the base, in
float32 and rounded once. A run that trains the model gives a model: sharded safetensors,
config.json and the tokenizer's files. Where both train, PEFT's modules_to_save hold the rest:
norms, the head, any module without an adapter. What PEFT cannot have is merged; with --adapter_only
it is an error. --push uploads the directory to the Hugging Face Hub, in one commit.
"""

import pathlib

from absl import app, flags

from experiments import cli

WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run", required=True)
OUT = flags.DEFINE_string("out", None, "directory to write, new or empty", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best or a step")
MERGE = flags.DEFINE_bool("merge", False, "merge the adapter into the base")
ADAPTER_ONLY = flags.DEFINE_bool("adapter_only", False, "write the adapter and nothing else")
DTYPE = flags.DEFINE_enum("dtype", None, ["bf16", "f32"], "of the files; the base's own if none")
MAX_SHARD_GB = flags.DEFINE_float(
    "max_shard_gb", 5.0, "most 10^9 bytes of a file of a model", lower_bound=1e-6
)
PUSH = flags.DEFINE_string("push", "", "org/name: a repository of the Hub to upload the files to")
PRIVATE = flags.DEFINE_bool("private", False, "with --push: nobody else may see the repository")
MESH = cli.define_mesh()
DTYPES = {None: None, "bf16": "bfloat16", "f32": "float32"}


def main(argv: list[str]) -> None:
    """Run what the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"got the arguments {argv[1:]}; expected flags alone")
    if MERGE.value and ADAPTER_ONLY.value:
        raise app.UsageError("expected --merge or --adapter_only, and not both")
    if PRIVATE.value and not PUSH.value:
        raise app.UsageError("--private: got it alone; expected --push org/name beside it")
    cli.start()
    from ftjax.core import hub_upload, processes
    from ftjax.run import export as exporting  # slow to import
    from ftjax.run import finish, reader, workdirs

    if PUSH.value:  # before the work: who may not write learns it now
        processes.on_first(lambda: hub_upload.check(PUSH.value, where="--push"))
    sizes = cli.mesh_of(MESH.value)
    with workdirs.read(WORKDIR.value) as workdir:
        parts = reader.parts_of(workdir, sizes=sizes)
        if parts.method is None and (MERGE.value or ADAPTER_ONLY.value):
            raise app.UsageError(
                f"--workdir: got {WORKDIR.value!r}, a run without an adapter; expected one that "
                "has one; leave out --merge and --adapter_only"
            )
        form = "model" if MERGE.value else "adapter" if ADAPTER_ONLY.value else ""
        run = reader.load(workdir, checkpoint=CHECKPOINT.value, sizes=sizes)
        out, dtype = pathlib.Path(OUT.value), DTYPES[DTYPE.value]
        form = exporting.write(
            run.parts, run.params, out, form=form, dtype=dtype, max_shard_gb=MAX_SHARD_GB.value,
            record=finish.record(workdir, run.parts.settings, step=run.step),
        )  # fmt: skip
    if processes.is_first():
        print(f"step {run.step}, {form}: {out}")
        if PUSH.value:
            found = hub_upload.push(out, PUSH.value, private=PRIVATE.value, where="--push")
            print(f"{found.url} at commit {found.commit}")


if __name__ == "__main__":
    cli.run(main)
