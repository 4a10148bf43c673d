"""Plan a synthetic set: draw every label, cue and sentence before anything is rendered."""

from __future__ import annotations

from dataclasses import dataclass

from affectgpt_r1.data.synthetic.captions import CHANNELS, Caption, Channel, exact_caption, noisy_caption, true_claims
from affectgpt_r1.data.synthetic.cues import FACE, FACE_CUES, VOICE, VOICE_CUES, draw_cues
from affectgpt_r1.data.synthetic.draws import PortableGenerator
from affectgpt_r1.data.synthetic.emotion_words import CLUSTER_OF, COMPATIBLE, SARCASTIC, WORDS, Cluster
from affectgpt_r1.data.synthetic.identity import NUM_IDENTITIES, Identity, make_identity
from affectgpt_r1.data.synthetic.sentences import Pool, draw_sentence
from affectgpt_r1.data.synthetic.settings import SPLITS, RenderConfig, SplitName

# "human" is the split with exact labels; its name is in the clip names.
POOL_OF: dict[SplitName, Pool] = {"caption": "train", "human": "train", "validation": "validation", "test": "test"}

_SARCASM_FRACTION = 0.1
_NEUTRAL_FRACTION = 0.6  # of the channels without an emotion of their own; the others repeat one
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
    """One clip before rendering."""

    name: str
    split: SplitName
    number: int  # in the split; with seed and split it keys the clip's draws
    identity: Identity  # who is seen and heard
    seconds: float
    shown: dict[Channel, str]  # emotion word of each channel, without neutral channels and sarcastic words
    cues: dict[str, float]  # of face and voice, as rendered
    weak: bool  # cues show faintly
    subtitle: str  # "" where nothing is said
    sentence_kind: str  # cue, neutral, none or sarcasm
    truth: Caption  # exact labels and reason
    caption: Caption  # labels and reason in the CSVs: noisy in the caption split, else the truth

    @property
    def cue_phrases(self) -> tuple[str, ...]:
        """Phrases that state true cues of this clip."""
        claims = true_claims(self.shown, self.cues, sarcastic=False)
        return tuple(phrase for claim in claims for phrases in claim.evidence.values() for phrase in phrases)


def plan_clips(settings: RenderConfig) -> list[ClipPlan]:
    """Plan every clip of a set, in the order of the splits.

    Equal settings give equal plans, and a split does not depend on the sizes of the others.
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


def plan_clip(settings: RenderConfig, split: SplitName, number: int, people: list[Identity]) -> ClipPlan:
    """Plan clip ``number`` of ``split`` with one of ``people``."""
    rng = PortableGenerator(settings.seed, SPLITS.index(split), number)
    identity = rng.choice(people)
    seconds = round(rng.uniform(settings.min_seconds, settings.max_seconds), 2)
    weak = rng.random() < settings.rates.weak_cues
    sarcastic = rng.random() < _SARCASM_FRACTION
    shown, pretended = _assign_sarcasm(rng) if sarcastic else (_assign_emotions(rng), None)
    cues = {
        **draw_cues(rng, FACE_CUES, FACE[CLUSTER_OF[shown["face"]]] if "face" in shown else None, weak=weak),
        **draw_cues(rng, VOICE_CUES, VOICE[CLUSTER_OF[shown["voice"]]] if "voice" in shown else None, weak=weak),
    }
    subtitle, kind = _speak(rng, shown, pretended, POOL_OF[split])
    claims = true_claims(shown, cues, sarcastic=sarcastic)
    truth = exact_caption(claims, sarcastic=sarcastic)
    caption = noisy_caption(rng, claims, settings.rates, believable=pretended) if split == "caption" else truth
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


def _assign_emotions(rng: PortableGenerator) -> dict[Channel, str]:
    """Assign one to three emotions to as many channels; the other channels stay neutral or repeat one."""
    clusters = _draw_clusters(rng)
    words = [rng.choice(WORDS[cluster]) for cluster in clusters]
    order = rng.permutation(CHANNELS)
    shown = dict(zip(order, words, strict=False))
    for channel in order[len(words) :]:
        if rng.random() >= _NEUTRAL_FRACTION:
            shown[channel] = rng.choice(words)
    return shown


def _assign_sarcasm(rng: PortableGenerator) -> tuple[dict[Channel, str], Cluster]:
    """Let face and voice show one or two negative emotions; return also the cluster that the words pretend."""
    face, voice = rng.permutation(SARCASTIC)[:2]
    face_word = rng.choice(WORDS[face])
    voice_word = rng.choice(WORDS[voice]) if rng.random() < 0.5 else face_word
    pretended: tuple[Cluster, ...] = ("joy", "calm")
    return {"face": face_word, "voice": voice_word}, rng.choice(pretended)


def _draw_clusters(rng: PortableGenerator) -> list[Cluster]:
    wanted = 1 + (rng.random() < 0.78) + (rng.random() < 0.40)
    clusters = [rng.choice(_FIRST_CLUSTERS)]
    while len(clusters) < wanted:
        fitting = [c for c in WORDS if c not in clusters and all(c in COMPATIBLE[chosen] for chosen in clusters)]
        if not fitting:
            break
        clusters.append(rng.choice(fitting))
    return clusters


def _speak(rng: PortableGenerator, shown: dict[Channel, str], pretended: Cluster | None, pool: Pool) -> tuple[str, str]:
    if pretended is not None:
        return draw_sentence(rng, pretended, pool), "sarcasm"
    if "words" in shown:
        return draw_sentence(rng, CLUSTER_OF[shown["words"]], pool), "cue"
    if rng.random() < _SILENT_FRACTION:
        return "", "none"
    return draw_sentence(rng, "neutral", pool), "neutral"
