"""Free text to labels: answers, longest forms, word boundaries, negation, and text of any kind and length."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.emotion.extraction import extract_labels, stop_words
from affectgpt_r1.emotion.lexicon import load_lexicon
from affectgpt_r1.emotion.wheels import Entry, Lexicon

BUNDLED = load_lexicon("bundled")
ENTRY = Entry("", None, (0,) * 5, (0,) * 5)
FORMS = ["happy", "sad", "angry", "afraid", "anger", "fear", "calm", "proud", "ease"]
FORMS += ["sadness", "joy", "at ease", "at a loss", "cold-hearted", "don\u2019t care", "let down"]
WORDS = Lexicon("words", (), dict.fromkeys(FORMS, ENTRY))


def labels(text):
    return extract_labels(text, WORDS).labels


@pytest.mark.parametrize(
    ("text", "expected", "negated"),
    [
        ("He is happy.", ("happy",), ()),
        ("HAPPY and Sad, happy", ("happy", "sad"), ()),
        ("not happy", (), ("not happy",)),
        ("She isn't afraid", (), ("isn't afraid",)),
        ("She isn\u2019t really afraid", (), ("isn't really afraid",)),
        ("never angry but sad", ("sad",), ("never angry",)),
        ("no longer sad", (), ("no longer sad",)),
        ("speaks without fear", (), ("without fear",)),
        ("there is no sign of anger", (), ("no sign of anger",)),
        ("does not seem to be very happy", (), ("not seem to be very happy",)),
        ("neither happy nor sad", (), ("neither happy", "nor sad")),
        ("not angry or afraid", (), ("not angry", "or afraid")),
        ("not only happy but also proud", ("happy", "proud"), ()),
        ("not because he is sad", ("sad",), ()),
        ("No. Happy!", ("happy",), ()),
        ("not happy, sad", ("sad",), ("not happy",)),
        ("not sad but happy or calm", ("happy", "calm"), ("not sad",)),
        ("dont feel happy", (), ("dont feel happy",)),
        ("no anger, fear or sadness", (), ("no anger", ", fear", "or sadness")),
        ("no anger, fear, or any sadness, joy", ("joy",), ("no anger", ", fear", ", or any sadness")),
        ("no anger, fear but joy", ("joy",), ("no anger", ", fear")),
        ("no anger, fear; joy", ("joy",), ("no anger", ", fear")),
        ("no anger, fear. Joy", ("joy",), ("no anger", ", fear")),
        ("without anger and fear", (), ("without anger", "and fear")),
        ("without a hint of anger, fear", (), ("without a hint of anger", ", fear")),
        ("no anger, no fear, joy or calm", (), ("no anger", "no fear", ", joy", "or calm")),
        ("not angry, afraid or sad, calm", ("calm",), ("not angry", ", afraid", "or sad")),
        ("not angry, she is sad", ("sad",), ("not angry",)),
        ("not angry and she is sad", ("sad",), ("not angry",)),
        ("no anger, only joy or calm", ("joy", "calm"), ("no anger",)),
        ("no longer sad, happy", ("happy",), ("no longer sad",)),
        ("neither happy nor sad, calm", ("calm",), ("neither happy", "nor sad")),
        ("joy, no fear or anger", ("joy",), ("no fear", "or anger")),
        ("joy, fear or sadness", ("joy", "fear", "sadness"), ()),
        ("far from happy", (), ("far from happy",)),
        ("sad rather than angry", ("sad",), ("rather than angry",)),
        ("rather sad", ("sad",), ()),
        ("calm, devoid of fear or anger", ("calm",), ("devoid of fear", "or anger")),
        ("free from fear", (), ("free from fear",)),
        ("is not experiencing any strong anger", (), ("not experiencing any strong anger",)),
        ("no visible signs of fear or anger", (), ("no visible signs of fear", "or anger")),
        ("", (), ()),
    ],
)
def test_negation(text, expected, negated):
    assert extract_labels(text, WORDS) == (expected, negated, "text")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("he feels at ease", ("at ease",)),
        ("ease", ("ease",)),
        ("at a loss, at ease", ("at a loss", "at ease")),
        ("let. down", ()),
        ("let\n down", ("let down",)),
        ("a cold hearted man", ("cold-hearted",)),
        ("a Cold-Hearted man", ("cold-hearted",)),
        ("I don't care", ("don\u2019t care",)),
        ("unhappy, sadly, angrier, fearless", ()),
        ("_happy_ **sad** (angry)", ("happy", "sad", "angry")),
        ("happy😀sad", ("happy", "sad")),
    ],
)
def test_longest_form_within_word_boundaries(text, expected):
    assert labels(text) == expected


@pytest.mark.parametrize(
    ("text", "expected", "source"),
    [
        ("<answer>not happy, zzz</answer>", ("not happy", "zzz"), "answer"),
        ("<think>angry?</think><answer>sad, sad</answer>", ("sad", "sad"), "answer"),
        ("<think>angry?</think><answer>sad</answer> proud", ("sad",), "text"),
        ("<answer>sad, calm", ("sad", "calm"), "text"),
    ],
)
def test_a_well_formed_answer_comes_first(text, expected, source):
    extraction = extract_labels(text, WORDS)
    assert (extraction.labels, extraction.source) == (expected, source)


@given(st.text())
def test_any_text_gives_forms_of_the_lexicon(text):
    extraction = extract_labels(f"{text} (", WORDS)
    if extraction.source == "text":
        assert set(extraction.labels) <= {*WORDS.entries, "neutral"}
        assert len(set(extraction.labels)) == len(extraction.labels)


@given(st.lists(st.sampled_from(sorted(BUNDLED.entries.keys() - stop_words())), max_size=6))
def test_a_list_of_forms_is_found_again(forms):
    extraction = extract_labels("; ".join(forms), BUNDLED)
    assert [BUNDLED.masks(label) for label in extraction.labels] == [
        BUNDLED.masks(form) for form in dict.fromkeys(forms)
    ]
    assert extraction.negated == ()


@given(
    st.lists(st.sampled_from(["anger", "fear", "sadness", "joy"]), min_size=2, unique=True),
    st.sampled_from(["or", "and"]),
)
def test_a_negated_list_says_nothing(nouns, conjunction):
    text = f"There is no {', '.join(nouns[:-1])} {conjunction} {nouns[-1]}"
    extraction = extract_labels(f"{text}, but he is calm.", WORDS)
    assert extraction.labels == ("calm",)
    assert len(extraction.negated) == len(nouns)
    assert labels(text.replace("no ", "")) == tuple(nouns)


@pytest.mark.parametrize(
    "piece",
    ["happy ", "not a ", "at a ", "a'", "no happy, ", "sad or ", "<answer>", "-_", "\u0130 "],
)
def test_a_long_text_takes_linear_time(piece):
    def spent(size):
        text = piece * (size // len(piece))
        started = time.process_time()
        extract_labels(text, WORDS)
        return time.process_time() - started

    small, large = (min(spent(size) for _ in range(2)) for size in (20_000, 200_000))
    assert large < 50 * small + 0.3  # 100 times as much if it were quadratic


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He is calm at first. Overall, he seems angry and sad.", ("angry", "sad")),
        ("He is calm at first. Overall, this is a video.", ("calm",)),
        ("He feels calm. He laughs like an angry man.", ("calm",)),
        ("He feels calm. From this it is inferred that he is proud.", ("proud",)),
        ("Overall, a mess. He is sad.", ("sad",)),
        ("In the video he feels calm. In the text he is sad.", ("sad",)),
        ("In the video he feels calm. In the text he speaks.", ("calm",)),
        ("In the text, he is inferred to be sad. Based on it, the clues mention an angry voice.", ("sad",)),
        ("It is hard to say whether he is happy or sad", ()),
        ("He cannot tell if she is happy. She is calm.", ("calm",)),
        ("He is calm.\n\nIt can be inferred that he is proud.\n\nA sad song plays.", ("proud",)),
    ],
)
def test_sentences_that_conclude_come_first(text, expected):
    assert labels(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('She says, "I am so happy for you." She sounds sad.', ("sad",)),
        ("She says, \u201cI am so happy for you.\u201d She sounds sad.", ("sad",)),
        ('He may be "happy" or "sad".', ("happy", "sad")),
        ("A calm and proud atmosphere; he is angry", ("angry",)),
        ("A calm man in a sad environment", ("calm",)),
        ("a calm, sad setting, he is proud", ("proud",)),
    ],
)
def test_speech_and_scene_are_no_state(text, expected):
    assert labels(text) == expected


@pytest.mark.parametrize(
    ("text", "expected", "source"),
    [
        ("The character's emotional state is happy, zzz zzz.", ("happy", "zzz zzz"), "answer"),
        ("the person\u2019s emotional state is Happy and sad", ("Happy", "sad"), "answer"),
        ("The character's emotional state is not happy.", (), "text"),
        ("The character's emotional state is happy. The room is sad.", ("happy",), "text"),
        ("The character's emotional state is hard to tell from this video, maybe sad.", ("sad",), "text"),
        ("<think>angry?</think> calm", ("calm",), "text"),
        ("<think>angry?</think>\nThe character's emotional state is calm.", ("calm",), "answer"),
        ("<think>angry?</think>", ("angry",), "text"),
    ],
)
def test_the_published_sentence_and_what_follows_thoughts(text, expected, source):
    extraction = extract_labels(text, WORDS)
    assert (extraction.labels, extraction.source) == (expected, source)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He seems engaged and has negative feelings such as anger.", ("anger",)),
        ("He seems engaged and has negative feelings.", ("engaged", "negative")),
        ("Overall, his mood is positive. He is happy.", ("positive", "happy")),
        ("Overall, his mood is positive.", ("positive",)),
        ("He is happy at first. Overall, his emotional state is neutral.", ("neutral",)),
        ("Overall, his state is neutral or calm.", ("calm",)),
        ("Overall, he has a neutral expression.", ()),
    ],
)
def test_vague_words_yield_to_definite_ones(text, expected):
    assert extract_labels(text, BUNDLED).labels == expected


def test_words_of_the_description_are_left_out():
    text = "The facial expression of this person shows emotional content; the subtitle content is clear. He is content."
    assert extract_labels(text, BUNDLED).labels == ("content",)


def test_what_an_emer_like_text_states_counts_and_not_its_reasons():
    text = (
        "The man frowns. In the text, the character's emotional state is worried. Reasons: 1. The loud voice suggests "
        "anger. 2. The question may express surprise."
    )
    assert extract_labels(text, BUNDLED).labels == ("worried",)
    vague = text.replace("worried", "negative")
    assert extract_labels(vague, BUNDLED).labels == ("anger", "surprise")


def test_speech_counts_where_nothing_else_names_an_emotion():
    said = 'The subtitle is "I am so afraid that they will come."'
    assert extract_labels(said, BUNDLED).labels == ("afraid",)
    assert extract_labels(f"{said} She sounds calm.", BUNDLED).labels == ("calm",)


def test_no_clear_sign_is_negated():
    found = extract_labels("He is attentive, with no clear signs of happiness or sadness.", BUNDLED)
    assert (found.labels, found.negated) == (("attentive",), ("no clear signs of happiness", "or sadness"))
