"""The emotion words of the synthetic clips, and which of them may meet in one clip."""

from __future__ import annotations

from typing import Literal, TypeAlias

Cluster: TypeAlias = Literal["joy", "calm", "sadness", "anger", "fear", "surprise", "disgust", "shame"]

# Words of a cluster cannot be told apart by any cue: which one a clip carries is drawn.
WORDS: dict[Cluster, tuple[str, ...]] = {
    "joy": ("happy", "joyful", "delighted", "pleased"),
    "calm": ("calm", "peaceful", "serene"),
    "sadness": ("sad", "sorrowful", "gloomy", "miserable"),
    "anger": ("angry", "furious", "irritated", "annoyed"),
    "fear": ("scared", "nervous", "anxious", "worried"),
    "surprise": ("surprised", "amazed", "startled"),
    "disgust": ("disgusted", "repulsed", "revolted"),
    "shame": ("ashamed", "embarrassed", "guilty"),
}

CLUSTER_OF: dict[str, Cluster] = {word: cluster for cluster, words in WORDS.items() for word in words}

# Vague words that machine captions add; none of them is ever true of a clip.
FILLERS: tuple[str, ...] = ("concern", "emotional", "engaged", "serious", "expressive")

# Which clusters may occur with another in one clip; the others contradict it.
COMPATIBLE: dict[Cluster, tuple[Cluster, ...]] = {
    "joy": ("calm", "surprise"),
    "calm": ("joy",),
    "sadness": ("anger", "fear", "surprise", "disgust", "shame"),
    "anger": ("sadness", "fear", "surprise", "disgust", "shame"),
    "fear": ("sadness", "anger", "surprise", "disgust", "shame"),
    "surprise": ("joy", "sadness", "anger", "fear", "disgust", "shame"),
    "disgust": ("sadness", "anger", "fear", "surprise", "shame"),
    "shame": ("sadness", "anger", "fear", "surprise", "disgust"),
}
SARCASTIC: tuple[Cluster, ...] = (
    "sadness",
    "anger",
    "fear",
    "disgust",
)  # of face and voice, against glad or calm words
# The neighbours for which a machine-like caption mistakes a cluster.
CONFUSED_WITH: dict[Cluster, tuple[Cluster, Cluster]] = {
    "joy": ("surprise", "calm"),
    "calm": ("joy", "sadness"),
    "sadness": ("shame", "fear"),
    "anger": ("disgust", "fear"),
    "fear": ("surprise", "sadness"),
    "surprise": ("joy", "fear"),
    "disgust": ("anger", "sadness"),
    "shame": ("sadness", "fear"),
}
