"""What `/metrics` says, in the text format that Prometheus reads.

Counts are sums over the queues of all models; a rate is what a reader makes of two readings.
"""

from collections.abc import Iterator

TYPE = "text/plain; version=0.0.4"


def text(service) -> str:
    """Return all metrics of a service."""
    engines = service.engines
    total = lambda name: sum(vars(engine.counts)[name] for engine in engines)
    lines = [
        *_one("slots", "gauge", "rows that can be at work", sum(e.count for e in engines)),
        *_one("slots_busy", "gauge", "rows at work", sum(e.busy for e in engines)),
        *_one("queue", "gauge", "answers that wait for a slot", sum(e.waiting for e in engines)),
        *_one("prompt_tokens_total", "counter", "tokens read", total("prompt_tokens")),
        *_one("generated_tokens_total", "counter", "tokens made", total("generated_tokens")),
        *_one("answers_total", "counter", "answers that came to their end", total("ended")),
        *_one("cancelled_total", "counter", "answers ended from outside: by a stop string, or by a "
              "client that went", total("cancelled")),
        *_one("failed_total", "counter", "answers lost to an error of the device",
              total("failed")),
        *_one("disconnects_total", "counter", "clients that hung up", service.disconnects),
        *_one("turns_total", "counter", "turns of the slots", total("turns")),
        *_one("first_token_seconds_sum", "counter", "waits for first tokens",
              total("first_token_s")),
        *_one("first_token_seconds_count", "counter", "first tokens", total("first_tokens")),
        *_requests(service.answered),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _one(name: str, kind: str, what: str, value: float) -> Iterator[str]:
    yield from _head(name, kind, what)
    yield f"ftjax_{name} {value}"


def _head(name: str, kind: str, what: str) -> Iterator[str]:
    yield f"# HELP ftjax_{name} {what}"
    yield f"# TYPE ftjax_{name} {kind}"


def _requests(answered) -> Iterator[str]:
    yield from _head("requests_total", "counter", "requests to /v1, by path and status")
    for (path, status), count in sorted(answered.items()):
        yield f'ftjax_requests_total{{path="{path}",status="{status}"}} {count}'
