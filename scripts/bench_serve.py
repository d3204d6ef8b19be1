r"""Speed of the endpoint: tokens a second of 1, 16, 64 clients, and the wait for the first token.

    python -m scripts.bench_serve                     # the embedded base, 10 seconds each
    python -m scripts.bench_serve --clients 64 --seconds 120 --hang_up 64
    python -m scripts.bench_serve --adapters 16       # what adapters of their own cost rows
    python -m scripts.bench_serve --adapters 16 --dim 1024      # the same of a wider base

Every client streams one answer after another over a connection of its own. Tokens are those of
answers that ended in `--seconds` in which all clients were at work, after a first second that does
not count. `of_generate` is this rate beside that of `experiments.generate`'s own sampler over the
same prompts, answers as long, in batches of as many rows as there are clients, reading prompts
included on both sides; it is measured in this process before and after, while no client asks, and
has all cores then, of which clients take theirs otherwise (`clients_cpu_ms_a_token`). `first_*` are
from the request to its first event with text. An answer is `lost` that is cut off or an error. On a
machine that does other things too, CPU time a token says more than tokens a second. With
`--hang_up N` so many clients then begin an answer and go away: `freed_s` is how long until no slot
is at work, and the code is 1 where one still is, or where an answer was lost. JSON lines come out.
"""

import argparse
import asyncio
import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

import ftjax
from ftjax.adapters import lora
from ftjax.adapters.lib import protocol
from ftjax.adapters.multi import per_row
from ftjax.core import compile_cache, device, shapes
from ftjax.data import tokenizer_files
from ftjax.models.hf import checkpoint
from ftjax.run import prompting
from ftjax.sampling import slots, text

TINY = pathlib.Path(ftjax.__file__).parent / "assets" / "tiny"
PROMPTS = 256  # different ones, asked again and again
GENERATE_S = 5.0  # of the rate beside it, twice, which needs no long load
BEGIN_S = 1.0  # until all clients are at work, and in different places of their answers
ROUNDS, TURNS = 4, 2  # of measurements that are compared, and of each
HEAD_DIM = 64  # of bases of random weights
WAIT_S = 10.0  # for slots of clients that are gone
END = b"\r\n0\r\n\r\n"  # of a body in chunks; in JSON there is no such line
READ = 1 << 16


class Answer(NamedTuple):
    """One answer as its client saw it; tokens None: lost."""

    first_s: float
    tokens: int | None
    end: float = 0.0  # when, in seconds


def prompts(vocabulary: int, length: int) -> list[list[int]]:
    """Draw prompts of half to all of the length."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(length // 2, length + 1, PROMPTS)
    return [rng.integers(10, vocabulary, n).tolist() for n in lengths]


def cpu_s(process: int | str = "self") -> float:
    """Return the seconds of all cores that a process has used (Linux alone counts them there)."""
    found = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(found[11]) + int(found[12])) / os.sysconf("SC_CLK_TCK")


def generator(model, params, tokenizer, asked, *, rows: int, args) -> Callable:
    """Return what measures `experiments.generate`'s sampler: tokens/s and CPU-s a token.

    rows: of a batch.
    """
    sample = text.make_sampler(
        model, tokenizer, batch_size=rows, max_new_tokens=args.new, encode=lambda ids: ids,
        stop_ids=prompting.form_of(tokenizer, {}).stop_ids,
    )  # fmt: skip
    sample(params, asked[:rows])

    def measure() -> tuple[float, float]:
        count, begin, used = 0, time.perf_counter(), cpu_s()
        for start in itertools.cycle(range(0, len(asked) - rows + 1, rows)):
            answers = sample(params, asked[start : start + rows])
            count += sum(len(answer.tokens) for answer in answers)
            if (seconds := time.perf_counter() - begin) > min(args.seconds, GENERATE_S):
                return count / seconds, (cpu_s() - used) / count

    return measure


async def ask(reader, writer, host: str, prompt, args) -> Answer:
    """Stream one answer.

    Clients share the server's cores, so only the counts, in the event at its end, are parsed.

    Raises:
      RuntimeError: the server did not take the request.
    """
    begin, first, content = time.perf_counter(), None, b""
    _send(writer, host, prompt, args, most=args.new)
    while not content.endswith(END):
        more = await reader.read(READ)
        if not more:
            return Answer(0.0, None)
        content += more
        if first is None and b'"choices": [{' in content:
            first = time.perf_counter() - begin
        if not content.startswith(b"HTTP/1.1 200"[: len(content)]):
            raise RuntimeError(f"got {content[:READ].decode(errors='replace')!r}; expected 200")
    counts = content[content.rfind(b"data: {") :].partition(b"\n")[0].removeprefix(b"data: ")
    usage = json.loads(counts).get("usage") if counts else None
    return Answer(first or 0.0, usage and usage["completion_tokens"], time.perf_counter())


def _send(writer, host: str, prompt, args, *, most: int) -> None:
    body = dict(model="base", prompt=prompt, max_tokens=most, temperature=0, stream=True)
    content = json.dumps(body | dict(stream_options=dict(include_usage=True))).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)


async def client(number: int, address: tuple[str, int], asked, until: float, args) -> list[Answer]:
    """Ask again and again, until the time is over."""
    reader, writer = await asyncio.open_connection(*address)
    found, mine = [], itertools.cycle(asked[number:] + asked[:number])
    while not found or time.perf_counter() < until:
        found.append(await ask(reader, writer, address[0], next(mine), args))
    writer.close()
    return found


async def load(server: int, address: tuple[str, int], asked, *, clients: int, args) -> dict:
    """Measure so many clients at a time; server: its process."""
    begin = time.perf_counter() + BEGIN_S
    until = begin + args.seconds
    every = (client(i, address, asked, until, args) for i in range(clients))
    (mine, its), *found = await asyncio.gather(used(server, begin, until), *every)
    every = list(itertools.chain(*found))
    answers = [each for each in every if each.tokens is not None and begin <= each.end < until]
    tokens = sum(each.tokens for each in answers)
    if not tokens:
        raise RuntimeError(f"got no answer in {args.seconds} s; expected some; raise --seconds")
    p50, p95 = np.percentile([each.first_s for each in answers], [50, 95])
    return {
        "clients": clients, "answers": len(every),
        "lost": sum(each.tokens is None for each in every),
        "tokens_per_s": tokens / args.seconds, "tokens_per_answer": round(tokens / len(answers), 1),
        "cpu_ms_a_token": 1e3 * its / tokens,
        "clients_cpu_ms_a_token": round(1e3 * mine / tokens, 3),
        "first_p50_ms": round(1e3 * p50, 1), "first_p95_ms": round(1e3 * p95, 1),
    }  # fmt: skip


async def used(server: int, begin: float, until: float) -> tuple[float, float]:
    """Return the CPU seconds of this process and of the server's between two times."""
    counts = []
    for when in (begin, until):
        await asyncio.sleep(max(0.0, when - time.perf_counter()))
        counts.append((cpu_s(), cpu_s(server)))
    return tuple(after - before for before, after in zip(*counts, strict=True))


async def hang_up(address: tuple[str, int], asked, *, clients: int, args) -> dict:
    """Let clients go away in the middle of an answer, and wait until their slots are free."""
    before = (await metrics(address))["ftjax_disconnects_total"]
    await asyncio.gather(*(_leave(address, asked[i % len(asked)], args) for i in range(clients)))
    begin, busy = time.perf_counter(), None
    while busy != 0 and time.perf_counter() - begin < WAIT_S:
        found = await metrics(address)
        busy = found["ftjax_slots_busy"] + found["ftjax_queue"]
    gone = found["ftjax_disconnects_total"] - before
    freed = round(time.perf_counter() - begin, 3) if busy == 0 else None
    return {"hung_up": clients, "seen": int(gone), "freed_s": freed, "lost": int(busy != 0)}


async def _leave(address: tuple[str, int], prompt, args) -> None:
    reader, writer = await asyncio.open_connection(*address)
    # As long as a slot is: it would go on for many turns.
    _send(writer, address[0], prompt, args, most=args.prompt + args.new - len(prompt))
    while not (await reader.readline()).startswith(b"data: {"):
        pass
    writer.transport.abort()


async def metrics(address: tuple[str, int]) -> dict[str, float]:
    """Read the numbers of /metrics by name."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(
        f"GET /metrics HTTP/1.1\r\nhost: {address[0]}\r\nconnection: close\r\n\r\n".encode()
    )
    body = (await reader.read()).decode().partition("\r\n\r\n")[2]
    writer.close()
    lines = [line.rpartition(" ") for line in body.splitlines() if line.startswith("ftjax_")]
    return {name: float(value) for name, _, value in lines}


def compared(found: dict, generated: list[tuple[float, float]]) -> dict:
    """Put what was measured beside what `experiments.generate` does, a mean of measurements."""
    rate, cpu = np.mean(generated, axis=0).tolist()
    return found | {
        "tokens_per_s": round(found["tokens_per_s"]), "generate_tokens_per_s": round(rate),
        "of_generate": round(found["tokens_per_s"] / rate, 2),
        "cpu_ms_a_token": round(found["cpu_ms_a_token"], 3),
        "generate_cpu_ms_a_token": round(1e3 * cpu, 3),
    }  # fmt: skip


def serve(args) -> tuple[subprocess.Popen, tuple[str, int]]:
    """Start the endpoint in a process of its own."""
    command = [
        sys.executable, "-m", "experiments.serve", "--model", args.base, "--port=0",
        f"--slots={max(args.clients)}", f"--context={args.prompt + args.new}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    host, _, port = process.stdout.readline().strip().rpartition("//")[2].rpartition(":")
    return process, (host, int(port))


def adapters_cost(model, params, *, args) -> dict:
    """Time tokens of a batch whose rows have an adapter each, beside one for all of them."""
    method = lora.make(rank=8, alpha=16.0, init="gaussian")
    make = lambda seed: protocol.init(
        method, jax.random.key(seed), model.linears, params["model"], where="blocks/**"
    )
    trees = [make(seed) for seed in range(args.adapters)]
    choose = lambda own, rows: {**own, "adapters": per_row.select(own["adapters"], rows)}
    same = lambda own, rows: own
    stacked = {**params, "adapters": per_row.stack(trees, linears=model.linears)}
    one = {**params, "adapters": trees[0]}
    runs = {
        name: turns(model, own, of_rows, args=args)
        for name, own, of_rows in (("one", one, same), ("each", stacked, choose))
    }
    times = dict.fromkeys(runs, float("inf"))
    for _ in range(ROUNDS):  # one after the other, so that what else runs meets both
        times = {name: min(times[name], run()) for name, run in runs.items()}
    shown = {f"{name}_ms_a_token": round(1e3 * x, 3) for name, x in times.items()}
    ratio = round(times["each"] / times["one"], 3)
    return {"adapters": args.adapters, "dim": model.config.dim, **shown, "ratio": ratio}


def turns(model, params, of_rows, *, args) -> Callable[[], float]:
    """Return what measures the seconds of a token of every row, the least of several turns."""
    rows, length = args.adapters, args.prompt + args.new
    programs = slots.make(model, count=rows, length=length, of_rows=of_rows)
    full = lambda x, kind: np.full(rows, x, kind)
    start = slots.Start(
        full(args.prompt, np.int32), full(args.new, np.int32), full(0, np.int32),
        np.arange(rows, dtype=np.int32), full(0, np.float32), full(1, np.float32), full(0, bool),
        np.arange(rows, dtype=np.int32),
    )  # fmt: skip
    asked = shapes.pad_rows([[11] * args.prompt] * rows, programs.width, fill=0)
    keep, steps, never = full(1, bool), np.int32(slots.TURN), np.int32(rows + 1)

    read = programs.read(params, asked, start)

    def run() -> float:
        state, best = programs.begin(programs.empty(), read, start.member_G), float("inf")
        for _ in range(min(TURNS, args.new // slots.TURN)):
            begin = time.perf_counter()
            state, turn = jax.block_until_ready(programs.advance(params, state, keep, steps, never))
            best = min(best, (time.perf_counter() - begin) / max(1, int(turn.count_R.max())))
        return best

    run()
    return run


def random_base(family, config, dim: int):
    """Make a model of this width with random weights: what its tokens cost, not what they say."""
    heads = dim // HEAD_DIM
    sizes = dict(dim=dim, heads=heads, kv_heads=max(1, heads // 2), head_dim=HEAD_DIM, ffw=3 * dim)
    model = family.make(dataclasses.replace(config, **sizes))
    return model, {"model": model.init(jax.random.key(0)), "adapters": None}


def flags() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default=str(TINY), help="directory of a model")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt at most")
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--hang_up", type=int, default=0, help="clients that then go away")
    parser.add_argument("--adapters", type=int, default=0, help="measure rows with their own")
    parser.add_argument("--dim", type=int, default=0, help="for --adapters: random weights")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = flags()
    # As the commands start that this is about.
    compile_cache.use("auto")
    device.reuse_memory()
    base = pathlib.Path(args.base)
    family, config = checkpoint.config_of(base)
    model, tokenizer = family.make(config), tokenizer_files.load(base)
    params = {"model": checkpoint.load(base, model, names=family.NAMES), "adapters": None}
    if args.adapters:
        if args.dim:
            model, params = random_base(family, config, args.dim)
        print(json.dumps(adapters_cost(model, params, args=args)), flush=True)
        return
    asked = prompts(min(config.vocab_size, tokenizer.vocab_size), args.prompt)
    generate = {
        rows: generator(model, params, tokenizer, asked, rows=rows, args=args)
        for rows in args.clients
    }
    process, address = serve(args)
    lost = 0
    try:
        for clients in args.clients:
            own = load(process.pid, address, asked, clients=clients, args=args)
            before, found = generate[clients](), asyncio.run(own)
            found = compared(found, [before, generate[clients]()])
            lost += found["lost"]
            print(json.dumps(found), flush=True)
        if args.hang_up:
            found = asyncio.run(hang_up(address, asked, clients=args.hang_up, args=args))
            lost += found["lost"]
            print(json.dumps(found), flush=True)
    finally:
        process.terminate()
        process.wait()
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
