"""Draw what is said in the synthetic clips: an opener, a phrase and a context.

Each pair of phrase and context belongs to one pool, so that a validation or test sentence does not occur in training
while each of its words does.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from affectgpt_r1.data.synthetic.draws import PortableGenerator
from affectgpt_r1.data.synthetic.emotion_words import Cluster

Pool: TypeAlias = Literal["train", "validation", "test"]

OPENERS = ("", "well ", "look ", "you know ")
CONTEXTS = (
    "at work",
    "at home",
    "this morning",
    "last night",
    "on the bus",
    "after the meeting",
    "before dinner",
    "with my sister",
    "in the garden",
    "again today",
    "at the station",
    "since monday",
)
PHRASES: dict[Cluster | Literal["neutral"], tuple[str, ...]] = {
    "joy": (
        "we won the game",
        "the baby smiled at me",
        "i love this song",
        "we danced and laughed",
        "they gave me flowers",
        "my wish came true",
        "i got the prize",
        "this is wonderful news",
    ),
    "calm": (
        "the sea was still",
        "everything is quiet",
        "we sat in the shade",
        "i slept well",
        "there is no hurry",
        "i breathe slowly",
        "soft rain fell",
        "i can rest",
    ),
    "sadness": (
        "i lost my dog",
        "she left me",
        "i cried alone",
        "we said goodbye for ever",
        "my heart feels empty",
        "he passed away",
        "i miss them so much",
        "the dream is over",
    ),
    "anger": (
        "he lied to me",
        "they broke my things",
        "she insulted us",
        "he cheated again",
        "they stole my money",
        "you never listen",
        "i demand an apology",
        "stop pushing me",
    ),
    "fear": (
        "someone is following me",
        "something moved in the dark",
        "it may explode",
        "i might fail the test",
        "the brakes do not work",
        "the wolf is coming",
        "do not go near it",
        "we are in danger",
    ),
    "surprise": (
        "i never expected this",
        "it appeared from nowhere",
        "who would have guessed it",
        "what on earth is that",
        "you are here already",
        "the box was suddenly full",
        "it changed in a second",
        "i can not believe my eyes",
    ),
    "disgust": (
        "the soup smells rotten",
        "there was a worm in it",
        "that is filthy",
        "i nearly vomited",
        "the milk was sour",
        "he spat on the plate",
        "the drain stinks",
        "mould grew on the bread",
    ),
    "shame": (
        "it was my fault",
        "i forgot my lines",
        "everyone stared at me",
        "i spilled the wine",
        "i should not have said it",
        "i tripped on the stage",
        "i hid my face",
        "i let them down",
    ),
    "neutral": (
        "the train leaves soon",
        "i read the page",
        "the shop opens",
        "we moved the chair",
        "he wrote the list",
        "i bought some paper",
        "they painted the wall",
        "she counted the boxes",
    ),
}


def pool_of(phrase: int, context: int) -> Pool:
    """Return the pool of a pair of indices: five eighths train, one eighth validation, two eighths test."""
    residue = (3 * phrase + context) % 8
    if residue < 5:
        return "train"
    return "validation" if residue == 5 else "test"


def draw_sentence(rng: PortableGenerator, meaning: Cluster | Literal["neutral"], pool: Pool) -> str:
    """Draw a sentence with this meaning from this pool."""
    phrases = PHRASES[meaning]
    pairs = [(p, c) for p in range(len(phrases)) for c in range(len(CONTEXTS)) if pool_of(p, c) == pool]
    phrase, context = rng.choice(pairs)
    return f"{rng.choice(OPENERS)}{phrases[phrase]} {CONTEXTS[context]}"
