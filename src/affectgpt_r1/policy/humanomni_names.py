"""Names of the weights in HumanOmni's and R1-Omni's released files, and of ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from affectgpt_r1.errors import CheckpointError

MARK = "model.bert_gate."  # only these files have it
TOWERS = ("encoders.video.", "encoders.audio.")
TIED_HEAD = "language_model.lm_head.weight"

# The first that fits counts.
PREFIXES: Mapping[str, str] = {
    "model.vision_tower.vision_tower.vision_model.": "encoders.video.model.",
    "model.audio_tower.audio_tower.": "encoders.audio.model.",
    "model.bert_model.": "fusion.bert.",
    "model.bert_gate.": "fusion.gate.",
    "model.audio_projector.": "fusion.audio.",
    "model.mm_projector.": "fusion.",
    "model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}
PROJECTOR = (
    (re.compile(r"fusion\.s([12])_(video|body)\.b([12])\."), lambda m: f"fusion.{m[2]}.stage{m[1]}.{int(m[3]) - 1}."),
    (re.compile(r"\.downsample\."), lambda _: ".shortcut."),
    (re.compile(r"\.bn\."), lambda _: ".norm."),
    (re.compile(r"\.se\.fc1\."), lambda _: ".excite.reduce."),
    (re.compile(r"\.se\.fc2\."), lambda _: ".excite.expand."),
    (re.compile(r"fusion\.sampler_(video|body)\.0\."), lambda m: f"fusion.{m[1]}.sampler."),
    (re.compile(r"fusion\.readout_(video|body)\."), lambda m: f"fusion.{m[1]}.readout."),
    (re.compile(r"fusion\.mlp_2xgelu_face\."), lambda _: "fusion.face.readout."),
)


def our_name(published: str) -> str | None:
    """Return our name of a published one; None for what is not HumanOmni's.

    >>> our_name("model.mm_projector.s1_body.b2.conv1.bn.weight")
    'fusion.body.stage1.1.conv1.norm.weight'
    >>> our_name("model.layers.3.mlp.up_proj.weight")
    'language_model.model.layers.3.mlp.up_proj.weight'
    """
    for theirs, ours in PREFIXES.items():
        if published.startswith(theirs):
            name = ours + published.removeprefix(theirs)
            if theirs == "model.mm_projector.":
                for pattern, place in PROJECTOR:
                    name = pattern.sub(place, name)
            return name
    return None


def our_names(published: Mapping[str, Tensor], wanted: Iterable[str], origin: str) -> dict[str, Tensor]:
    """Return a published file's tensors under our names, one for each of ``wanted``; the file may lack the towers.

    Raises:
        CheckpointError: A tensor has no place here, or one is missing.
    """
    places = set(wanted)
    tensors: dict[str, Tensor] = {}
    for name, tensor in published.items():
        place = our_name(name)
        if place == TIED_HEAD and place not in places:
            continue
        if place not in places and place is not None:  # SigLIP's own name for its parts, by the library's version
            place = place.replace("encoders.video.model.", "encoders.video.model.vision_model.")
        if place is None or place not in places:
            raise CheckpointError(f"{origin}: {name[:200]} has no place in this model; choose its model= config")
        tensors[place] = tensor
    has_towers = any(name.startswith(TOWERS) for name in tensors)
    lacking = sorted(name for name in places - tensors.keys() if has_towers or not name.startswith(TOWERS))
    if lacking:
        raise CheckpointError(f"{origin}: lacks {len(lacking)} weights of this model, such as {lacking[0]}")
    return tensors
