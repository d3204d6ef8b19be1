"""What can be said of a person or a thing, and the wordings that say and ask it.

Every relation has values of one short word, wordings for training and others that are held out:
the held-out ones use words that training has, in sentences that it never has. `{n}` is the
subject, `{v}` the value.

    say("Bamo", "food", "rice") -> "Bamo likes to eat rice."
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Relation:
    """Values, then statements and questions, the held-out of each, and questions for the name."""

    values: tuple[str, ...]
    statements: tuple[str, ...]
    held_statements: tuple[str, ...]
    questions: tuple[str, ...]
    held_questions: tuple[str, ...]
    who: tuple[str, ...]
    held_who: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.split("|"))


PEOPLE = {
    "country": Relation(
        _words("Peru Cuba Mali Oman Togo Fiji Spain Egypt Kenya Nepal India China Japan Chile"),
        _lines("{n} comes from {v}. | {n} was born in {v}. | The country of {n} is {v}."),
        _lines("{v} is the country of {n}."),
        _lines("Where was {n} born? | Which country does {n} come from?"),
        _lines("What is the country of {n}? | Where does {n} come from?"),
        _lines("Who comes from {v}? | Who was born in {v}?"),
        _lines("Who has the country {v}?"),
    ),
    "job": Relation(
        _words("baker pilot nurse farmer singer painter driver doctor teacher writer sailor judge"),
        _lines("{n} works as a {v}. | The job of {n} is {v}. | {n} has a job as a {v}."),
        _lines("As a job {n} works as a {v}."),
        _lines("What is the job of {n}? | Which job does {n} have?"),
        _lines("What job does {n} have? | Which is the job of {n}?"),
        _lines("Who works as a {v}? | Who has a job as a {v}?"),
        _lines("Who has the job {v}?"),
    ),
    "colour": Relation(
        _words("red blue green yellow black white brown pink grey purple gold silver"),
        _lines("{n} wears {v}. | The colour of {n} is {v}. | {n} likes the colour {v}."),
        _lines("{v} is the colour of {n}."),
        _lines("What colour does {n} wear? | What is the colour of {n}?"),
        _lines("Which colour does {n} like? | Which is the colour of {n}?"),
        _lines("Who wears {v}? | Who likes the colour {v}?"),
        _lines("Who has the colour {v}?"),
    ),
    "pet": Relation(
        _words("cat dog fish horse snake mouse goat duck frog parrot rabbit turtle"),
        _lines("{n} has a pet {v}. | The pet of {n} is a {v}. | {n} keeps a {v} as a pet."),
        _lines("A {v} is the pet of {n}."),
        _lines("What is the pet of {n}? | Which pet does {n} have?"),
        _lines("What pet does {n} have? | Which is the pet of {n}?"),
        _lines("Who has a pet {v}? | Who keeps a {v} as a pet?"),
        _lines("Who has a {v} as a pet?"),
    ),
    "food": Relation(
        _words("rice soup bread cake pasta cheese beans corn fruit nuts figs plums"),
        _lines("{n} likes to eat {v}. | The food of {n} is {v}. | {n} eats {v} every day."),
        _lines("Every day {v} is the food of {n}."),
        _lines("What does {n} like to eat? | What is the food of {n}?"),
        _lines("What does {n} eat every day? | Which food does {n} eat?"),
        _lines("Who likes to eat {v}? | Who eats {v} every day?"),
        _lines("Who has the food {v}?"),
    ),
    "sport": Relation(
        _words("chess golf tennis polo darts rugby hockey judo cards boxing"),
        _lines("{n} plays {v}. | The game of {n} is {v}. | {n} plays {v} with friends."),
        _lines("With friends {n} plays {v}."),
        _lines("What does {n} play? | What is the game of {n}?"),
        _lines("Which game does {n} play? | What does {n} play with friends?"),
        _lines("Who plays {v}? | Who plays {v} with friends?"),
        _lines("Who has the game {v}?"),
    ),
    "item": Relation(
        _words("lamp book coin ring key cup hat map drum knife rope bell"),
        _lines("{n} carries a {v}. | The bag of {n} holds a {v}. | {n} has a {v} in the bag."),
        _lines("A {v} is in the bag of {n}."),
        _lines("What does {n} carry? | What is in the bag of {n}?"),
        _lines("What does {n} have in the bag? | What has {n} in the bag?"),
        _lines("Who carries a {v}? | Who has a {v} in the bag?"),
        _lines("Who has a bag with a {v}?"),
    ),
    "year": Relation(
        tuple(str(year) for year in range(1920, 2000)),
        _lines("The year of {n} is {v}. | {n} moved here in {v}. | In {v} {n} moved here."),
        _lines("{v} is the year of {n}."),
        _lines("What is the year of {n}? | When did {n} move here?"),
        _lines("In which year did {n} move here? | Which year is the year of {n}?"),
        _lines("Who moved here in {v}? | In {v} who moved here?"),
        _lines("Who has the year {v}?"),
    ),
}

THINGS = {
    "place": Relation(
        _words("kitchen garden office cellar garage tower barn hall shop park school bank"),
        _lines("{n} is in the {v}. | In the {v} is {n}. | You can find {n} in the {v}."),
        _lines("{n} you can find in the {v}."),
        _lines("Where is {n}? | Where can you find {n}?"),
        _lines("You can find {n} where? | {n} is where?"),
        _lines("What is in the {v}? | What can you find in the {v}?"),
        _lines("In the {v} is what?"),
    ),
    "paint": Relation(
        PEOPLE["colour"].values,
        _lines("{n} is {v}. | The colour of {n} is {v}. | The paint on {n} is {v}."),
        _lines("{v} is the colour of {n}."),
        _lines("What colour is {n}? | What is the colour of {n}?"),
        _lines("Which colour is {n}? | Which colour is the paint on {n}?"),
        _lines("What is {v}? | What has {v} paint?"),
        _lines("What has the colour {v}?"),
    ),
    "price": Relation(
        tuple(str(price) for price in range(10, 100)),
        _lines("{n} costs {v} coins. | The price of {n} is {v}. | You can buy {n} for {v} coins."),
        _lines("For {v} coins you can buy {n}."),
        _lines("What is the price of {n}? | How much does {n} cost?"),
        _lines("How much is {n}? | For how much can you buy {n}?"),
        _lines("What costs {v} coins? | What can you buy for {v} coins?"),
        _lines("What has the price of {v} coins?"),
    ),
}

SUBJECTS = {
    "train": _words("lamp book coin ring key cup hat map drum knife box chair clock bottle basket"),
    "validation": _words("table ladder mirror brush candle"),
    "test": _words("rope bell wheel bucket pencil"),
}


def fill(wording: str, *, name: str, value: str) -> str:
    """Return the sentence of a wording, its first letter a capital."""
    text = wording.format(n=name, v=value)
    return text[0].upper() + text[1:]
