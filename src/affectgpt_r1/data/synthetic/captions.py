"""Write the labels and reasons of a clip, exact or with the errors of machine captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from affectgpt_r1.data.synthetic.cues import FACE, FACE_CUES, TOPICS, VOICE, VOICE_CUES, stated_phrases
from affectgpt_r1.data.synthetic.draws import PortableGenerator
from affectgpt_r1.data.synthetic.emotion_words import CLUSTER_OF, COMPATIBLE, CONFUSED_WITH, FILLERS, WORDS, Cluster
from affectgpt_r1.data.synthetic.settings import NoiseRates

Channel: TypeAlias = Literal["face", "voice", "words"]
CHANNELS: tuple[Channel, ...] = ("face", "voice", "words")


@dataclass(frozen=True)
class Claim:
    """An emotion word, and how it is said to show."""

    word: str
    evidence: Mapping[Channel, tuple[str, ...]]  # phrases by channel


@dataclass(frozen=True)
class Caption:
    """Labels and reason of one clip."""

    words: tuple[str, ...]  # emotion words, and vague ones in a noisy caption
    reason: str  # one to three short sentences
    errors: tuple[str, ...] = ()  # names of the errors made, in order; none in an exact caption


def true_claims(shown: Mapping[Channel, str], cues: Mapping[str, float], *, sarcastic: bool) -> tuple[Claim, ...]:
    """Return what is true of a clip.

    Args:
        shown: The emotion word of each channel that is not neutral; not that of sarcastic words.
        cues: All cues of the clip.
        sarcastic: Whether face and voice overrule the words.

    Returns:
        One claim per emotion, in the order of ``CHANNELS``.
    """
    claims: dict[str, dict[Channel, tuple[str, ...]]] = {}
    for channel in CHANNELS:
        if channel in shown and not (sarcastic and channel == "words"):
            word = shown[channel]
            claims.setdefault(word, {})[channel] = _phrases(channel, CLUSTER_OF[word], cues)
    return tuple(Claim(word, evidence) for word, evidence in claims.items())


def exact_caption(claims: Sequence[Claim], *, sarcastic: bool) -> Caption:
    """Return the exact labels and reason."""
    return Caption(tuple(claim.word for claim in claims), _reason(claims, sarcastic=sarcastic))


def noisy_caption(
    rng: PortableGenerator, claims: Sequence[Claim], rates: NoiseRates, *, believable: Cluster | None
) -> Caption:
    """Draw the labels and reason that a machine captioner gives.

    Args:
        rng: Draws the errors.
        claims: What is true.
        rates: Probability of each error.
        believable: The cluster that sarcastic words pretend; None where the words are sincere.
    """
    errors: list[str] = []
    kept = list(claims)
    sarcasm_noticed = believable is not None
    if believable is not None and rng.random() < rates.miss_sarcasm:
        errors.append("miss_sarcasm")
        sarcasm_noticed = False
        kept = [Claim(rng.choice(WORDS[believable]), {"words": (TOPICS[believable],)})]
    if rng.random() < rates.ignore_voice:
        errors.append("ignore_voice")
        kept = [claim for claim in (_without_voice(claim) for claim in kept) if claim is not None]
    changed: list[Claim] = []
    for claim in kept:
        if rng.random() < rates.drop:
            errors.append("drop")
        elif rng.random() < rates.flip:
            errors.append("flip")
            changed.append(_flipped(rng, claim))
        else:
            changed.append(claim)
    if rng.random() < rates.insert:
        errors.append("insert")
        changed.append(_inserted(rng, changed))
    changed = list({claim.word: claim for claim in changed}.values())
    words = [claim.word for claim in changed]
    if rng.random() < rates.filler:
        errors.append("filler")
        words.append(rng.choice(FILLERS))
    if not words:
        words.append(rng.choice(FILLERS))
    reason = _reason(changed, sarcastic=sarcasm_noticed) or f"The person seems {words[0]}."
    return Caption(tuple(words), reason, tuple(errors))


def _phrases(channel: Channel, cluster: Cluster, cues: Mapping[str, float]) -> tuple[str, ...]:
    if channel == "words":
        return (TOPICS[cluster],)
    names = FACE_CUES if channel == "face" else VOICE_CUES
    return stated_phrases({name: cues[name] for name in names})


def _without_voice(claim: Claim) -> Claim | None:
    """Return the claim without what the voice tells; None if nothing else tells it."""
    evidence: dict[Channel, tuple[str, ...]] = {
        channel: phrases for channel, phrases in claim.evidence.items() if channel != "voice"
    }
    return replace(claim, evidence=evidence) if evidence else None


def _flipped(rng: PortableGenerator, claim: Claim) -> Claim:
    """Return the claim with its cluster mistaken for a neighbour, and evidence that fits."""
    cluster = rng.choice(CONFUSED_WITH[CLUSTER_OF[claim.word]])
    return Claim(rng.choice(WORDS[cluster]), {channel: _typical(channel, cluster) for channel in claim.evidence})


def _inserted(rng: PortableGenerator, claims: Sequence[Claim]) -> Claim:
    """Return a claim that nothing shows; it fits the first other claim, and uses a free channel."""
    present = {CLUSTER_OF[claim.word] for claim in claims}
    near = COMPATIBLE[CLUSTER_OF[claims[0].word]] if claims else tuple(WORDS)
    cluster = rng.choice([cluster for cluster in near if cluster not in present] or list(WORDS))
    used = {channel for claim in claims for channel in claim.evidence}
    free: list[Channel] = [channel for channel in CHANNELS if channel not in used]
    evidence: dict[Channel, tuple[str, ...]] = {}
    if free:
        channel = rng.choice(free)
        evidence[channel] = _typical(channel, cluster)
    return Claim(rng.choice(WORDS[cluster]), evidence)


def _typical(channel: Channel, cluster: Cluster) -> tuple[str, ...]:
    return _phrases(channel, cluster, FACE[cluster] | VOICE[cluster])


def _reason(claims: Sequence[Claim], *, sarcastic: bool) -> str:
    """Write one short sentence for each channel that shows something."""
    sentences = []
    for channel in CHANNELS:
        for claim in claims:
            if channel in claim.evidence:
                sentences.append(_sentence(channel, claim.word, claim.evidence[channel]))
    if sarcastic:
        sentences.append("The words are not meant.")
    return " ".join(sentences)


def _sentence(channel: Channel, word: str, phrases: tuple[str, ...]) -> str:
    stated = " and ".join(phrases)
    if channel == "face":
        return f"The face looks {word}, with {stated}." if stated else f"The face looks {word}."
    if channel == "voice":
        return f"The voice sounds {word}, {stated}." if stated else f"The voice sounds {word}."
    return f"The words sound {word} and speak of {stated}."
