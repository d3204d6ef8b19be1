"""The mixture on which the tiny base is pretrained: embedded data only, nothing held out.

Shares are of tokens, measured with the tokenizer of `ftjax/assets/tiny`; a mixture that draws
rows needs `weight`, which is the share divided by the mean tokens of a row. Held out for
fine-tuning and tests: the populations "new", "new2", "new3", the languages 4 to 7,
`skills.HELD_OUT`, the held-out wordings, and the names and inputs of the other splits.
"""

SEQUENCE_TOKENS = 256

# (share of tokens, mean tokens of a row, options of `ftjax.data.embedded.make`)
SHARES = (
    (0.13, 85, dict(domain="english")),
    (0.13, 135, dict(domain="code")),
    (0.08, 31, dict(domain="facts", form="statements")),
    (0.04, 15, dict(domain="facts", form="questions")),
    (0.22, 86, dict(domain="reading", form="text", questions=(2, 5))),
    (0.04, 73, dict(domain="reading", form="text", about="things", questions=(1, 4))),
    (0.12, 79, dict(domain="skills", form="text", shots=(2, 6))),
    (0.06, 21, dict(domain="skills", form="text", shots=0)),
    (0.08, 56, dict(domain="patterns")),
    (0.10, 70, dict(domain="languages")),
)

# Rows of generated domains: more than 40M tokens use, so that no row comes twice.
GENERATED_ROWS = 2_000_000

MIXTURE = [
    dict(
        name="embedded",
        weight=share / tokens,
        seed=place,  # another seed each, or two entries of one domain would share their rows
        **({} if options["domain"] in ("english", "code") else dict(rows=GENERATED_ROWS)),
        **options,
    )
    for place, (share, tokens, options) in enumerate(SHARES)
]
