"""Train the tokenizer of the tiny base: a byte-level BPE of 2048 tokens on the embedded data.

    python scripts/make_tokenizer.py --out ftjax/assets/tiny

Deterministic on one Python version: two domains read the running Python's library, so another
version learns a few other merges. The files in the package come from CPython 3.11. Tokens 0 to 4
are special; digits always stand alone; every single byte is a token, so nothing is unknown.
"""

import argparse
import json
import pathlib

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from configs import pretrain_tiny
from ftjax.data.sources import embedded

SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>")
VOCABULARY = 2048
CHARACTERS = 6_000_000

# Each message in its own marks; what the assistant writes, closing mark included, is the target.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def corpus(characters: int):
    """Yield training texts until every part of the pretraining mixture gave its share.

    Facts are left out: the names of the base population would become single tokens, and nobody
    else's, and then known and new people would differ in more than being known.
    """
    for share, _, options in pretrain_tiny.SHARES:
        if options["domain"] == "facts":
            continue
        left = share * characters
        for row in embedded.make(**options):
            text = row["text"] if "text" in row else row["prompt"] + row["response"]
            yield text
            left -= len(text)
            if left < 0:
                break


def train(texts, vocabulary: int = VOCABULARY) -> tokenizers.Tokenizer:
    """Train a byte-level BPE of exactly `vocabulary` tokens, the special ones first."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer


def describe() -> dict:
    """Return the contents of tokenizer_config.json."""
    pad, bos, eos, *chat = SPECIAL
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": pad,
        "bos_token": bos,
        "eos_token": eos,
        "additional_special_tokens": chat,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
        "chat_template": CHAT_TEMPLATE,
    }


def main():
    """Write tokenizer.json and tokenizer_config.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("ftjax/assets/tiny"))
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train(corpus(CHARACTERS))
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    text = json.dumps(describe(), indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    print(f"{tokenizer.get_vocab_size()} tokens in {folder}")


if __name__ == "__main__":
    main()
