"""The parcels of a simulated brain: HCP-MMP names, places, and the signal that each follows."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from cinecube.simulation.features.small_networks import BLOCKS
from cinecube.simulation.setup.seeding import generator
from cinecube.simulation.setup.simulate_params import Network, SimulateSpec
from cinecube.store.base.bounded import parse_yaml
from cinecube.store.base.labels import HEAD, layer_label

_SINGLE: tuple[Network, ...] = ("vit", "videomae", "vivit", "wav2vec2", "ast")
# What association areas follow: the space that ImageBind's two towers share, TVLT's joint sequence, and parts of both.
_JOINT = (
    ("imagebind.concat", HEAD),
    ("tvlt.joint", layer_label(2)),
    ("imagebind.concat", HEAD),
    ("tvlt.joint", layer_label(5)),
    ("imagebind.video", layer_label(4)),
    ("tvlt.audio", layer_label(3)),
    ("imagebind.audio", layer_label(2)),
    ("tvlt.video", layer_label(4)),
    ("tvlt.joint", layer_label(6)),
)
_MIXED_SHARE, _JOINT_SHARE = 0.15, 0.26
_FIRST_SHARE = 0.7


@dataclass(frozen=True)
class PlantedSource:
    """A layer that a parcel follows, and the share of the parcel's signal variance that it makes.

    Attributes
    ----------
    model, layer : str
        Labels as cubes have them: `vit` and `block03`, `imagebind.concat` and `head`.
    share : float
        In (0, 1].
    """

    model: str
    layer: str
    share: float


@dataclass(frozen=True)
class Parcel:
    """One parcel and what is planted in it.

    Attributes
    ----------
    name : str
        HCP-MMP name with its hemisphere.
    centre_mm : tuple of float
        MNI coordinates.
    sources : tuple of PlantedSource
        What it follows, the largest share first; nothing if empty.
    delay_tr : int
        Haemodynamic delay in volumes.
    gain : float
        Standard deviation of the signal in per cent of the baseline.
    noise : float
        Noise variance over signal variance in one showing.
    """

    name: str
    centre_mm: tuple[float, float, float]
    sources: tuple[PlantedSource, ...]
    delay_tr: int
    gain: float
    noise: float


def choose_parcels(spec: SimulateSpec) -> list[Parcel]:
    """The parcels of a study and what drives each.

    A quarter follows nothing, about a tenth a picture layer and a sound layer, a fifth what networks make of both, the
    rest one layer of pictures or of sound: early areas follow shallow layers, and every such network is followed from
    its first block to its last.
    """
    n_driven = spec.parcels - spec.idle_parcels
    n_mixed, n_joint = round(_MIXED_SHARE * n_driven), round(_JOINT_SHARE * n_driven)
    planted: list[tuple[str, tuple[float, float, float], tuple[PlantedSource, ...]]] = []
    for index, network in enumerate(_SINGLE):
        sides = _both_sides(network)
        count = len(range(index, n_driven - n_mixed - n_joint, len(_SINGLE)))
        for place in range(count):
            depth = place / max(count - 1, 1)
            block = 1 + round(depth * (BLOCKS - 1))
            planted.append(
                (*sides[round(depth * (len(sides) - 1))], (PlantedSource(network, layer_label(block), 1.0),))
            )
    for place, (name, centre) in enumerate(_both_sides("several")[:n_mixed]):
        planted.append((name, centre, _mixed(spec, place)))
    for (name, centre), source in zip(_both_sides("joint"), _JOINT[:n_joint], strict=False):
        planted.append((name, centre, (PlantedSource(*source, 1.0),)))
    planted.extend((name, centre, ()) for name, centre in _both_sides("nothing")[: spec.idle_parcels])
    return [_with_physiology(spec, *parcel) for parcel in planted]


def _both_sides(follows: str) -> list[tuple[str, tuple[float, float, float]]]:
    """Names and centres in MNI millimetres of the areas that follow a network, left before right."""
    areas = parse_yaml(files("cinecube.simulation.brain").joinpath("areas.yaml").read_text(encoding="utf-8"))
    return [
        (f"{side}_{name}", (sign * float(x), float(y), float(z)))
        for name, (x, y, z) in areas[follows].items()
        for side, sign in (("L", -1), ("R", 1))
    ]


def _mixed(spec: SimulateSpec, place: int) -> tuple[PlantedSource, ...]:
    """A picture layer and a sound layer, the leading one in turn.

    Both are in the first half, where neighbouring blocks differ most: half a parcel's signal has to distinguish them.
    """
    rng = generator(spec.seed, "mixed parcel", place)
    networks = [("vit", "videomae", "vivit")[place % 3], ("wav2vec2", "ast")[place // 2 % 2]]
    if place % 2:
        networks.reverse()
    shares = (_FIRST_SHARE, round(1 - _FIRST_SHARE, 6))
    return tuple(
        PlantedSource(network, layer_label(int(rng.integers(2, BLOCKS // 2 + 1))), share)
        for network, share in zip(networks, shares, strict=True)
    )


def _with_physiology(
    spec: SimulateSpec, name: str, centre: tuple[float, float, float], sources: tuple[PlantedSource, ...]
) -> Parcel:
    """A parcel with its own delay, gain and noise."""
    rng = generator(spec.seed, "parcel", name)
    delay, gain, noise = int(rng.integers(2, 5)), rng.uniform(1, 2), spec.noise * rng.uniform(0.8, 1.25)
    return Parcel(name, centre, sources, delay, round(float(gain), 6), round(float(noise), 6))
