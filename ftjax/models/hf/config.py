"""Reading a checkpoint's config.json: every key is used, known to be harmless, or an error.

Two dialects of the same thing are in use. The older one has `rope_theta`, `rope_scaling` and
`torch_dtype` at the top; the newer one has `rope_parameters` and `dtype`. A default stands here
only where the transformers library itself defines one for an absent key.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from ftjax.core import typed
from ftjax.core.typed import NonNegative, Positive
from ftjax.models.hf import key_types
from ftjax.ops import rope

# Keys without influence on the function that the weights compute.
HARMLESS = frozenset({
    "_attn_implementation", "_attn_implementation_autoset", "_name_or_path", "architectures",
    "auto_map", "bos_token_id", "cache_implementation", "dtype", "eos_token_id", "model_type",
    "name_or_path", "output_attentions", "output_hidden_states", "pad_token_id", "pretraining_tp",
    "return_dict", "tokenizer_class", "torch_dtype", "transformers_version", "unk_token_id",
    "unsloth_fixed", "unsloth_version", "use_cache",
})  # fmt: skip
# Numbers of each kind of rotary scaling, by the names that both dialects use.
ROPE_NUMBERS = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor", "high_freq_factor", "low_freq_factor", "original_max_position_embeddings",
    ),
    "longrope": ("factor", "long_factor", "original_max_position_embeddings", "short_factor"),
    "proportional": (),
    "yarn": ("beta_fast", "beta_slow", "factor", "original_max_position_embeddings", "truncate"),
}  # fmt: skip
ROPE_OPTIONAL = {
    "longrope": {"attention_factor"},
    "yarn": {"attention_factor", "mscale", "mscale_all_dim"},
}
ROPE_TYPES = {
    "long_factor": list[float] | tuple[float, ...], "short_factor": list[float] | tuple[float, ...],
    "truncate": bool, "factor": Positive, "original_max_position_embeddings": Positive,
}  # fmt: skip
# Absent or null: what the reference's yarn takes.
YARN = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
# Without a meaning for text, whose three coordinates are equal, or read by nothing.
ROPE_HARMLESS = ("max_position_embeddings", "mrope_interleaved", "mrope_section")
NOT_IN_JSON = ("Infinity", "-Infinity", "NaN")
REQUIRED = object()


class Keys:
    """A config.json being read; it remembers which keys were asked for."""

    def __init__(self, config_json: Mapping[str, Any]):
        self.json: dict[str, Any] = _decoded(config_json)
        self.where = f"config.json of a {config_json.get('model_type')!r} model"
        self.seen: set[str] = set(HARMLESS)

    def get(self, name: str, default: Any = REQUIRED) -> Any:
        """Read a key; null counts as absent.

        Raises:
          ValueError: it is absent and there is no default, or of another type.
        """
        self.seen.add(name)
        # Exports write null for what a config leaves to its defaults.
        value = self.json.get(name)
        if value is not None:
            return self._checked(name, value)
        if default is REQUIRED:
            near = difflib.get_close_matches(name, self.json, n=3)
            raise ValueError(f"{self.where}: the key {name!r} is missing; near it: {near}")
        return default

    def nullable(self, name: str, default: Any) -> Any:
        """Read a key of which null is a value, another one than the default of an absent key."""
        self.seen.add(name)
        value = self.json.get(name, default)
        return value if value is None else self._checked(name, value)

    def _checked(self, name: str, value: Any) -> Any:
        if expected := key_types.problem(name, value):
            raise ValueError(
                f"{self.where}: got {name}={str(value)[:80]!r}; expected {expected}; write it as "
                "the model's authors have it"
            )
        return value

    def only(self, name: str, legal: Iterable[Any], default: Any = REQUIRED) -> Any:
        """Read a key of which only some values are supported.

        Raises:
          ValueError: another value.
        """
        value, legal = self.get(name, default), tuple(legal)
        if value not in legal:
            raise ValueError(
                f"{self.where}: got {name}={value!r}; expected one of {list(legal)}; this "
                "architecture's other variants are not supported"
            )
        return value

    def rope_of(
        self, parameters: Mapping[str, Any], *, theta: float, also: Iterable[str] = ()
    ) -> rope.Rope:
        """Read the parameters of one rotary embedding, in the words of either dialect.

        `also` are numbers that this family alone reads.
        """
        parameters = {k: v for k, v in parameters.items() if k not in ROPE_HARMLESS}
        # Files may have both names; the reference reads the newer one first.
        legacy = parameters.pop("type", "default")
        kind = parameters.pop("rope_type", legacy)
        if kind not in ROPE_NUMBERS:
            raise ValueError(
                f"{self.where}: got rope_type={kind!r}; expected one of {list(ROPE_NUMBERS)}"
            )
        if kind == "longrope":
            parameters = self._longrope(parameters)
        if kind == "yarn":
            given = {k: v for k, v in parameters.items() if v is not None}
            original = self.get("max_position_embeddings")  # where none is named
            parameters = YARN | {"original_max_position_embeddings": original} | given
        optional = ROPE_OPTIONAL.get(kind, set()) | set(also)
        self._checked("rope_theta", theta)
        for name, value in parameters.items():
            if expected := typed.problem(value, ROPE_TYPES.get(name, NonNegative)):
                shown = f"{name}={str(value)[:80]!r}"
                raise ValueError(f"{self.where}: got the rope key {shown}; expected {expected}")
        # Equal, not a subset: a number that is not read here may change the frequencies there.
        if parameters.keys() - optional != set(ROPE_NUMBERS[kind]):
            raise ValueError(
                f"{self.where}: got the rope keys {sorted(parameters)}; expected for "
                f"{kind!r}: {sorted(ROPE_NUMBERS[kind])}"
            )
        return rope.Rope(float(theta), kind, tuple(sorted(parameters.items())))

    def _longrope(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in what the older dialect has elsewhere; lists become tuples."""
        # Where both places have one, the reference takes that at the top.
        original = parameters.get("original_max_position_embeddings")
        original = self.get("original_max_position_embeddings", original or REQUIRED)
        ratio = self.get("max_position_embeddings") / original
        implied = dict(factor=ratio, original_max_position_embeddings=original)
        numbers = implied | {k: v for k, v in parameters.items() if v is not None}
        # A config is a static argument of programs, and must be hashable.
        return {k: tuple(v) if isinstance(v, list) else v for k, v in numbers.items()}

    def rope(
        self, *, default_theta: float, may_be_partial: bool = False,
        default_partial: float = 1.0, also: Iterable[str] = (),
    ) -> rope.Rope:  # fmt: skip
        """Read the rotary embedding in either dialect; some families rotate a part of each head.

        `also` are numbers that this family alone reads.
        """
        scaling = self.get("rope_scaling", {})
        parameters = dict(self.get("rope_parameters", scaling))
        theta = parameters.pop("rope_theta", None) or self.get("rope_theta", default_theta)
        if self.get("rope_theta", theta) != theta:
            raise ValueError(
                f"{self.where}: got rope_theta={self.json['rope_theta']} beside "
                f"rope_parameters with {theta}; expected one"
            )
        partial = self._partial(
            parameters.pop("partial_rotary_factor", None), default=default_partial
        )
        if partial != 1.0 and not may_be_partial:
            raise ValueError(
                f"{self.where}: got partial_rotary_factor={partial}; expected 1.0: this "
                "architecture rotates whole heads"
            )
        found = self.rope_of(parameters, theta=theta, also=also)
        return dataclasses.replace(found, partial=float(partial))

    def _partial(self, inside: float | None, *, default: float) -> float:
        """Read which part of a head is rotated; transformers 5 writes it in two places."""
        fallback = default
        if inside is not None:
            fallback = self._checked("partial_rotary_factor", inside)
        outside = self.get("partial_rotary_factor", fallback)
        # The reference would take the inner one; a file at odds with itself is not guessed at.
        if inside not in (None, outside):
            raise ValueError(
                f"{self.where}: got partial_rotary_factor={outside} beside rope_parameters with "
                f"{inside}; expected one"
            )
        return float(outside)

    def finish(self, *, harmless: Iterable[str] = ()) -> None:
        """Check that nothing is left unread; keys that are null are off.

        Raises:
          ValueError: unknown keys.
        """
        known = self.seen | set(harmless)
        unknown = [k for k, value in self.json.items() if k not in known and value is not None]
        if unknown:
            shown = ", ".join(f"{name}={self.json[name]!r}" for name in sorted(unknown))
            raise ValueError(
                f"{self.where}: got keys that this family does not read: {shown}; they may change "
                "what the model computes"
            )


def _decoded(value: Any) -> Any:
    """Read the numbers that JSON lacks as transformers 5 writes them: {"__float__": "Infinity"}."""
    match value:
        case {"__float__": str(name)} if len(value) == 1 and name in NOT_IN_JSON:
            return float(name)
        case Mapping():
            return {k: _decoded(each) for k, each in value.items()}
        case list():
            return [_decoded(each) for each in value]
    return value


def rope_json(r: rope.Rope) -> dict[str, Any]:
    """Write a rotary embedding in the older dialect, which every release reads."""
    # A partial rotation is at the top of the file, and is its family's to write.
    scaling = {"rope_type": r.kind} | dict(r.numbers) if r.kind != "default" else None
    return {"rope_theta": r.theta, "rope_scaling": scaling}
