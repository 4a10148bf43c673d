"""Draw synthetic people, their looks and voices; no person is in two pools."""

from __future__ import annotations

from dataclasses import dataclass

from affectgpt_r1.data.synthetic.draws import PortableGenerator
from affectgpt_r1.data.synthetic.sentences import Pool

NUM_IDENTITIES: dict[Pool, int] = {"train": 60, "validation": 16, "test": 32}
_POOL_KEYS: dict[Pool, int] = {"train": 0, "validation": 1, "test": 2}
_PEOPLE_STREAM = 7_919  # keeps the streams of people apart from those of clips

Colour = tuple[float, float, float]

_SKINS: tuple[Colour, ...] = (
    (0.96, 0.82, 0.72),
    (0.92, 0.75, 0.62),
    (0.85, 0.66, 0.50),
    (0.76, 0.57, 0.42),
    (0.66, 0.47, 0.34),
    (0.56, 0.39, 0.28),
)
_HAIRS: tuple[Colour, ...] = (
    (0.10, 0.08, 0.07),
    (0.25, 0.15, 0.08),
    (0.45, 0.27, 0.12),
    (0.75, 0.60, 0.30),
    (0.60, 0.60, 0.62),
    (0.50, 0.20, 0.10),
)


@dataclass(frozen=True)
class Identity:
    """One person. Lengths are in head units: a head is about 1.3 wide and 1.7 high. Colours are RGB in [0, 1]."""

    name: str  # unique over pools
    skin: Colour
    hair: Colour
    backdrop: Colour
    clothes: Colour
    hair_style: int  # 0 short, 1 long, 2 fringe, 3 receding
    glasses: bool
    head_width: float  # half, as head_height, eye_spacing and mouth_width
    head_height: float
    eye_spacing: float
    eye_size: float  # scale
    feature_drop: float  # offset of eyes, brows and mouth down the face
    mouth_width: float
    pitch: float  # habitual, in Hz
    tract: float  # scale of the formants
    brightness: float  # offset of the voice's spectral tilt


def make_identity(seed: int, pool: Pool, number: int) -> Identity:
    """Draw person ``number`` of ``pool``."""
    rng = PortableGenerator(seed, _PEOPLE_STREAM, _POOL_KEYS[pool], number)
    shade = rng.uniform(0.93, 1.04)
    skin = rng.choice(_SKINS)
    return Identity(
        name=f"{pool}_{number:02d}",
        skin=(min(1.0, skin[0] * shade), min(1.0, skin[1] * shade), min(1.0, skin[2] * shade)),
        hair=rng.choice(_HAIRS),
        backdrop=_draw_colour(rng, 0.25, 0.85),
        clothes=_draw_colour(rng, 0.10, 0.80),
        hair_style=rng.choice((0, 1, 2, 3)),
        glasses=rng.random() < 0.15,
        head_width=rng.uniform(0.60, 0.70),
        head_height=rng.uniform(0.78, 0.88),
        eye_spacing=rng.uniform(0.26, 0.32),
        eye_size=rng.uniform(0.92, 1.10),
        feature_drop=rng.uniform(-0.04, 0.04),
        mouth_width=rng.uniform(0.25, 0.32),
        pitch=rng.uniform(150.0, 210.0),
        tract=rng.uniform(0.90, 1.12),
        brightness=rng.uniform(-0.15, 0.15),
    )


def _draw_colour(rng: PortableGenerator, low: float, high: float) -> Colour:
    return (rng.uniform(low, high), rng.uniform(low, high), rng.uniform(low, high))
