"""The plan of a synthetic set: every label, cue and sentence, drawn before anything is rendered."""

from __future__ import annotations

from dataclasses import dataclass

from affectgpt_r1.data.synthetic.captions import CHANNELS, Caption, Channel, exact_caption, noisy_caption, true_claims
from affectgpt_r1.data.synthetic.cues import FACE, FACE_CUES, VOICE, VOICE_CUES, draw_cues
from affectgpt_r1.data.synthetic.draws import Chance
from affectgpt_r1.data.synthetic.emotion_words import CLUSTER_OF, COMPATIBLE, SARCASTIC, WORDS, Cluster
from affectgpt_r1.data.synthetic.identity import NUM_IDENTITIES, Identity, make_identity
from affectgpt_r1.data.synthetic.sentences import Pool, draw_sentence
from affectgpt_r1.data.synthetic.settings import SPLITS, DemoSettings, SplitName

POOL_OF: dict[SplitName, Pool] = {"caption": "train", "human": "train", "validation": "validation", "test": "test"}

_SARCASM_FRACTION = 0.1
_NEUTRAL_FRACTION = 0.6  # of the channels to which no emotion was dealt; the others repeat one
_SILENT_FRACTION = 0.25  # of the clips with neutral words: nothing is said
_FIRST_CLUSTERS: tuple[Cluster, ...] = (
    *("joy",) * 4,
    *("calm",) * 4,
    *("surprise",) * 2,
    *("sadness", "anger", "fear", "disgust", "shame"),
    *("sadness", "anger", "fear", "disgust", "shame"),
)  # joy and calm meet few others, so they come first more often


@dataclass(frozen=True)
class ClipPlan:
    """One clip before rendering.

    Attributes:
        name: The row's name.
        split: Where it belongs.
        number: Its number in the split; with seed and split it keys the clip's draws.
        identity: Who is seen and heard.
        seconds: Duration.
        shown: The emotion word that each channel shows; a neutral channel is absent, sarcastic words are too.
        cues: Face and voice cues as rendered.
        weak: Whether they show faintly.
        subtitle: What is said, ``""`` for nothing.
        sentence_kind: ``cue``, ``neutral``, ``none`` or ``sarcasm``.
        truth: Exact labels and reason.
        caption: Labels and reason as written to the CSVs: noisy in the caption split, else the truth.
    """

    name: str
    split: SplitName
    number: int
    identity: Identity
    seconds: float
    shown: dict[Channel, str]
    cues: dict[str, float]
    weak: bool
    subtitle: str
    sentence_kind: str
    truth: Caption
    caption: Caption

    @property
    def cue_phrases(self) -> tuple[str, ...]:
        """The phrases that state true cues of this clip."""
        claims = true_claims(self.shown, self.cues, sarcastic=False)
        return tuple(phrase for claim in claims for phrases in claim.evidence.values() for phrase in phrases)


def plan_clips(settings: DemoSettings) -> list[ClipPlan]:
    """Plan every clip of a set, in the order of the splits.

    Pure: equal settings give equal plans, and the clips of a split do not depend on the other splits' sizes.
    """
    people = {
        pool: [make_identity(settings.seed, pool, number) for number in range(count)]
        for pool, count in NUM_IDENTITIES.items()
    }
    return [
        plan_clip(settings, split, number, people[POOL_OF[split]])
        for split in SPLITS
        for number in range(settings.size(split))
    ]


def plan_clip(settings: DemoSettings, split: SplitName, number: int, people: list[Identity]) -> ClipPlan:
    """Plan clip ``number`` of ``split`` with one of ``people``."""
    chance = Chance(settings.seed, SPLITS.index(split), number)
    identity = chance.pick(people)
    seconds = round(chance.uniform(settings.min_seconds, settings.max_seconds), 2)
    weak = chance.happens(settings.rates.weak_cues)
    sarcastic = chance.happens(_SARCASM_FRACTION)
    shown, pretended = _deal_sarcasm(chance) if sarcastic else (_deal(chance), None)
    cues = {
        **draw_cues(chance, FACE_CUES, FACE[CLUSTER_OF[shown["face"]]] if "face" in shown else None, weak=weak),
        **draw_cues(chance, VOICE_CUES, VOICE[CLUSTER_OF[shown["voice"]]] if "voice" in shown else None, weak=weak),
    }
    subtitle, kind = _speak(chance, shown, pretended, POOL_OF[split])
    claims = true_claims(shown, cues, sarcastic=sarcastic)
    truth = exact_caption(claims, sarcastic=sarcastic)
    caption = noisy_caption(chance, claims, settings.rates, believable=pretended) if split == "caption" else truth
    return ClipPlan(
        name=f"synthetic_{split}_{number:05d}",
        split=split,
        number=number,
        identity=identity,
        seconds=seconds,
        shown=shown,
        cues=cues,
        weak=weak,
        subtitle=subtitle,
        sentence_kind=kind,
        truth=truth,
        caption=caption,
    )


def _deal(chance: Chance) -> dict[Channel, str]:
    """Deal one to three emotions to as many channels; the other channels stay neutral or repeat one."""
    clusters = _draw_clusters(chance)
    words = [chance.pick(WORDS[cluster]) for cluster in clusters]
    order = chance.shuffled(CHANNELS)
    dealt = dict(zip(order, words, strict=False))
    for channel in order[len(words) :]:
        if not chance.happens(_NEUTRAL_FRACTION):
            dealt[channel] = chance.pick(words)
    return dealt


def _deal_sarcasm(chance: Chance) -> tuple[dict[Channel, str], Cluster]:
    """Face and voice show one or two negative emotions; the cluster that the words pretend comes second."""
    face, voice = chance.shuffled(SARCASTIC)[:2]
    face_word = chance.pick(WORDS[face])
    voice_word = chance.pick(WORDS[voice]) if chance.happens(0.5) else face_word
    pretended: tuple[Cluster, ...] = ("joy", "calm")
    return {"face": face_word, "voice": voice_word}, chance.pick(pretended)


def _draw_clusters(chance: Chance) -> list[Cluster]:
    wanted = 1 + chance.happens(0.78) + chance.happens(0.40)
    clusters = [chance.pick(_FIRST_CLUSTERS)]
    while len(clusters) < wanted:
        fitting = [c for c in WORDS if c not in clusters and all(c in COMPATIBLE[other] for other in clusters)]
        if not fitting:
            break
        clusters.append(chance.pick(fitting))
    return clusters


def _speak(chance: Chance, shown: dict[Channel, str], pretended: Cluster | None, pool: Pool) -> tuple[str, str]:
    """The subtitle and its kind."""
    if pretended is not None:
        return draw_sentence(chance, pretended, pool), "sarcasm"
    if "words" in shown:
        return draw_sentence(chance, CLUSTER_OF[shown["words"]], pool), "cue"
    if chance.happens(_SILENT_FRACTION):
        return "", "none"
    return draw_sentence(chance, "neutral", pool), "neutral"
