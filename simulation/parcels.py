"""The parcels of a simulated brain: HCP-MMP names, where they lie, and what each follows."""

from __future__ import annotations

from dataclasses import dataclass

from cinecube.simulation.checkpoints import BLOCKS
from cinecube.simulation.seeding import generator
from cinecube.simulation.spec import Network, SimulateSpec
from cinecube.store.labels import layer_label

# Centres of the right hemisphere in MNI millimetres, approximate to about a centimetre, in the order of the hierarchy.
_VENTRAL = {
    "V1": (10, -84, 2),
    "V2": (18, -94, 10),
    "V4": (32, -86, -8),
    "PIT": (44, -76, -10),
    "V8": (28, -72, -12),
    "FFC": (40, -54, -16),
}
_DORSAL = {
    "V3": (24, -90, 20),
    "V3A": (20, -86, 34),
    "V6": (14, -76, 32),
    "MT": (46, -70, 6),
    "MST": (46, -60, 8),
    "IPS1": (24, -72, 44),
}
_AUDITORY = {
    "A1": (46, -22, 8),
    "LBelt": (52, -16, 4),
    "PBelt": (58, -24, 10),
    "A4": (62, -18, 2),
    "A5": (62, -32, 4),
    "STSdp": (54, -40, 6),
    "STSda": (56, -6, -12),
}
_ASSOCIATION = {
    "TPOJ1": (54, -48, 16),
    "PGi": (48, -60, 30),
    "PGs": (40, -72, 42),
    "PFm": (50, -50, 46),
}
_SOMATOMOTOR = {
    "4": (36, -20, 56),
    "3a": (34, -26, 46),
    "3b": (44, -22, 54),
    "1": (50, -20, 48),
    "2": (38, -36, 56),
    "6mp": (10, -12, 66),
}
_STREAMS: dict[Network, dict[str, tuple[int, int, int]]] = {
    "vit": _VENTRAL,
    "videomae": _DORSAL,
    "wav2vec2": _AUDITORY,
}
_FIRST_SHARE = 0.7


@dataclass(frozen=True)
class Source:
    """A layer that a parcel follows, and the share of the parcel's signal variance that it makes."""

    model: Network
    block: int
    share: float

    @property
    def layer(self) -> str:
        """The layer's name."""
        return layer_label(self.block)


@dataclass(frozen=True)
class Parcel:
    """One parcel and what is planted in it.

    Attributes
    ----------
    name : str
        HCP-MMP name with its hemisphere.
    centre_mm : tuple of float
        MNI coordinates.
    sources : tuple of Source
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
    sources: tuple[Source, ...]
    delay_tr: int
    gain: float
    noise: float


def choose_parcels(spec: SimulateSpec) -> list[Parcel]:
    """The parcels of a study and what drives each.

    A quarter follows nothing, about a tenth follows picture and sound, the rest one layer each: early areas follow
    shallow layers, and every network is followed from its first block to its last.
    """
    n_driven = spec.parcels - spec.idle_parcels
    n_mixed = round(0.15 * n_driven)
    planted: list[tuple[str, tuple[float, float, float], tuple[Source, ...]]] = []
    for index, (network, areas) in enumerate(_STREAMS.items()):
        count = len(range(index, n_driven - n_mixed, len(_STREAMS)))
        for place, (name, centre) in enumerate(_both_sides(areas)[:count]):
            block = 1 + round(place * (BLOCKS - 1) / max(count - 1, 1))
            planted.append((name, centre, (Source(network, block, 1.0),)))
    for place, (name, centre) in enumerate(_both_sides(_ASSOCIATION)[:n_mixed]):
        planted.append((name, centre, _mixed(spec, place)))
    planted.extend((name, centre, ()) for name, centre in _both_sides(_SOMATOMOTOR)[: spec.idle_parcels])
    return [_with_physiology(spec, *parcel) for parcel in planted]


def _both_sides(areas: dict[str, tuple[int, int, int]]) -> list[tuple[str, tuple[float, float, float]]]:
    """Names and centres of areas, left before right."""
    return [
        (f"{side}_{name}", (sign * float(x), float(y), float(z)))
        for name, (x, y, z) in areas.items()
        for side, sign in (("L", -1), ("R", 1))
    ]


def _mixed(spec: SimulateSpec, place: int) -> tuple[Source, ...]:
    """A picture layer and a sound layer, the leading one in turn.

    Both lie in the first half, where neighbouring blocks differ most: half a parcel's signal has to tell them apart.
    """
    rng = generator(spec.seed, "mixed parcel", place)
    picture: Network = "vit" if place % 4 < 2 else "videomae"
    networks: list[Network] = [picture, "wav2vec2"]
    if place % 2:
        networks.reverse()
    shares = (_FIRST_SHARE, round(1 - _FIRST_SHARE, 6))
    return tuple(
        Source(network, int(rng.integers(2, BLOCKS // 2 + 1)), share)
        for network, share in zip(networks, shares, strict=True)
    )


def _with_physiology(
    spec: SimulateSpec, name: str, centre: tuple[float, float, float], sources: tuple[Source, ...]
) -> Parcel:
    """A parcel with its own delay, gain and noise."""
    rng = generator(spec.seed, "parcel", name)
    delay, gain, noise = int(rng.integers(2, 5)), rng.uniform(1, 2), spec.noise * rng.uniform(0.8, 1.25)
    return Parcel(name, centre, sources, delay, round(float(gain), 6), round(float(noise), 6))
