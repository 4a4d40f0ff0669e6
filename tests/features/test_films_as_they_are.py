"""Films as people have them: every kind of file is read as players show it, or refused before hours of work.

Each film is made from a picture or a tone that is known, by PyAV or Debian's ffmpeg; what is read is held to that.
"""

from __future__ import annotations

import itertools
import shlex
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cinecube.features.films.pictures import sampled_frames
from cinecube.features.films.probing import probe
from cinecube.features.films.segment import SegmentInfo
from cinecube.features.films.sound import sound_windows
from cinecube.store.base.errors import StudyError

RATE_HZ = 16000
WIDTH, HEIGHT, BITS = 96, 64, 12
H264 = "-c:v libx264 -preset veryfast -crf 10 -pix_fmt yuv420p"


def ffmpeg(*words: object, cwd: Path | None = None) -> bytes:
    command = ["ffmpeg", "-hide_banner", "-loglevel", "error", "-y", *map(str, words)]
    return subprocess.run(command, check=True, cwd=cwd, capture_output=True).stdout


def numbered(number: int) -> np.ndarray:
    """A frame whose number stands in twelve black or white bars."""
    bars = np.array([255 * (number >> bit & 1) for bit in range(BITS)], np.uint8)
    return np.broadcast_to(np.repeat(bars, WIDTH // BITS)[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def number_of(rgb: np.ndarray) -> int:
    bars = rgb[rgb.shape[0] // 2, WIDTH // BITS // 2 :: WIDTH // BITS].mean(axis=1) > 127
    return int((bars << np.arange(BITS)).sum())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds at 25 Hz of numbered frames, lossless, with a burst of 1000 Hz at each whole second."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "raw").write_bytes(b"".join(numbered(number).tobytes() for number in range(150)))
    video = f"-f rawvideo -pix_fmt rgb24 -s {WIDTH}x{HEIGHT} -r 25 -i raw"
    burst = r"aevalsrc=0.5*sin(2*PI*1000*t)*lt(mod(t\,1)\,0.05):s=48000:d=6:c=stereo"
    ffmpeg(*video.split(), "-f", "lavfi", "-i", burst, *["-c:v", "ffv1", "-c:a", "flac", "source.mkv"], cwd=folder)
    ffmpeg("-i", folder / "source.mkv", *H264.split(), "-bf", 0, "-c:a", "copy", folder / "coded.mkv")
    return folder / "source.mkv"


def picture(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A picture that looks otherwise after every turn and mirroring: one red, one green, one blue corner."""
    rgb = np.full((height, width, 3), 90, np.uint8)
    rgb[: height // 2, : width // 2] = (200, 30, 30)
    rgb[: height // 2, width // 2 :] = (30, 180, 30)
    rgb[height // 2 :, : width // 2] = (30, 30, 220)
    return rgb


def make(path: Path, rgb: np.ndarray, how: str, frames: int = 10) -> Path:
    """A film of one picture."""
    height, width, _ = rgb.shape
    raw = path.with_name("raw")
    raw.write_bytes(rgb.tobytes() * frames)
    ffmpeg(*shlex.split(f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r 25 -i {raw} {how} {path}"))
    return path


def frame_of(info: SegmentInfo, number: int = 3) -> np.ndarray:
    ((_, rgb),) = sampled_frames(info, [number])
    assert rgb.shape == (info.height, info.width, 3)
    return rgb


def sound_of(info: SegmentInfo, start_s: float = 0.0, stop_s: float = 6.0) -> np.ndarray:
    (window,) = sound_windows(info, [(round(start_s * RATE_HZ), round(stop_s * RATE_HZ))], RATE_HZ)
    return window


def tone_of(samples: np.ndarray) -> float:
    """Its loudest frequency in Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * RATE_HZ / len(samples))


def assert_alike(found: np.ndarray, expected: np.ndarray, mean: float = 6.0) -> None:
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected.astype(int)).mean() < mean


# --- pictures: upright, square, the right stream -------------------------------------------------------------------

WAYS = list(itertools.product((False, True), range(4)))


def _matrix(mirrored: bool, turns: int) -> list[int]:
    """Of a picture that is mirrored left to right, then turned clockwise; y points down."""
    turn = np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), turns)  # rows: where (1, 0) and (0, 1) go
    (a, b), (c, d) = (np.diag([-1 if mirrored else 1, 1]) @ turn) * 65536
    return [int(a), int(b), 0, int(c), int(d), 0, 0, 0, 1 << 30]


def _with_matrix(path: Path, stored: Path, matrix: list[int]) -> Path:
    with av.open(str(stored)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        copy.set_display_matrix(matrix)
        for packet in source.demux(stream):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    return path


@pytest.mark.one_in(3)
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize(("mirrored", "turns"), WAYS)
def test_pictures_are_upright(tmp_path: Path, mirrored: bool, turns: int, suffix: str) -> None:
    stored = make(tmp_path / "stored.mp4", picture(), H264)
    film = _with_matrix(tmp_path / f"a.{suffix}", stored, _matrix(mirrored, turns))
    info = probe(film)
    upright = picture()[:, ::-1] if mirrored else picture()
    assert_alike(frame_of(info), np.rot90(upright, -turns))
    said = {key: value for key, value in (("mirrored", mirrored), ("rotation", 90 * turns)) if value}
    assert info.tracks.choices == ({"picture": said} if said else {})
    assert bool(info.said) == bool(said)
    shown = ffmpeg("-i", film, "-frames:v", 1, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    assert_alike(frame_of(info), np.frombuffer(shown, np.uint8).reshape(info.height, info.width, 3))


@pytest.mark.one_in(4)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("way", ["rotate=90", "rotate=180", "rotate=270", "flip=horizontal", "flip=vertical"])
def test_pictures_whose_own_stream_says_so_are_upright(tmp_path: Path, way: str, suffix: str) -> None:
    stored = make(tmp_path / "stored.mp4", picture(), H264)
    film = tmp_path / f"a.{suffix}"
    ffmpeg("-i", stored, "-c", "copy", "-bsf:v", f"h264_metadata=display_orientation=insert:{way}", film)
    shown = ffmpeg("-i", film, "-frames:v", 1, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    info = probe(film)
    assert info.tracks.choices["picture"]
    assert_alike(frame_of(info), np.frombuffer(shown, np.uint8).reshape(info.height, info.width, 3))


def test_a_picture_that_is_to_be_shown_askew_is_refused(tmp_path: Path) -> None:
    stored = make(tmp_path / "stored.mp4", picture(), H264)
    cos = int(65536 * 2**-0.5)
    film = _with_matrix(tmp_path / "a.mp4", stored, [cos, cos, 0, -cos, cos, 0, 0, 0, 1 << 30])
    with pytest.raises(StudyError, match="turned by 45°, expected quarter turns; turn it: ffmpeg -i a.mp4") as error:
        probe(film)
    _do(error.value, tmp_path)
    assert probe(tmp_path / "OUT.mkv").n_frames == 10


def _do(error: StudyError, folder: Path) -> None:
    """What a message advises, as its reader would."""
    command = str(error)[str(error).index("ffmpeg ") :]
    subprocess.run([*shlex.split(command), "-loglevel", "error"], check=True, cwd=folder)


ASPECTS = [("16:15", "mkv"), ("64:45", "mp4"), ("4:3", "mov")]


# MPEG says nothing of turns.
@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("aspect", "suffix", "turned"),
    [(*film, turned) for film in ASPECTS for turned in (False, True)] + [("8:9", "mpg", False)],
)
def test_pixels_are_square(tmp_path: Path, aspect: str, suffix: str, turned: bool) -> None:
    codec = "-c:v mpeg2video -q:v 2 -aspect 4:3" if suffix == "mpg" else H264
    film = make(tmp_path / f"stored.{suffix}", picture(144, 96), f"-vf setsar={aspect.replace(':', '/')} {codec}")
    ratio = Fraction(aspect.replace(":", "/"))
    upright = picture(round(144 * ratio), 96)
    if turned:
        film = tmp_path / "a.mp4"
        ffmpeg("-i", tmp_path / f"stored.{suffix}", "-c", "copy", "-metadata:s:v:0", "rotate=90", film)
        upright = np.rot90(upright)
    info = probe(film)
    if suffix != "mpg":  # which rounds to what its header can say
        assert info.tracks.choices["picture"]["pixel_aspect"] == aspect
    assert (info.width, info.height) == upright.shape[1::-1]
    assert_alike(frame_of(info), upright)
    assert "made square" in " ".join(info.said)


def test_pixels_that_are_square_but_for_rounding_stay(tmp_path: Path) -> None:
    info = probe(make(tmp_path / "a.mp4", picture(), f"-vf setsar=1280/1281 {H264}"))
    assert (info.width, info.tracks.choices) == (WIDTH, {})


VIDEOS: dict[str, tuple[str, str, int]] = {
    # how streams are mapped and flagged; which of 0 (gray 40), 1 (gray 200) is the film
    "second is default": ("mkv", "-map 0 -map 1 -c copy -disposition:v:0 0 -disposition:v:1 default", 1),
    "none is default": ("mkv", "-map 0 -map 1 -c copy -disposition:v 0", 0),
    "both are default": ("mkv", "-map 0 -map 1 -c copy -disposition:v default", 0),
    "second is default, mp4": ("mp4", "-map 0 -map 1 -c copy -disposition:v:0 0 -disposition:v:1 default", 1),
    "a cover before": ("mp4", "-map 2 -map 1 -c copy -disposition:v:0 attached_pic", 1),
    "a still before": ("mkv", "-map 2 -map 1 -c copy -disposition:v 0", 1),
    "a still before, default": ("mkv", "-map 2 -map 1 -c copy -disposition:v:0 default -disposition:v:1 0", 1),
    "a still before, mov": ("mov", "-map 2 -map 1 -c copy", 1),
    "a few slides before": ("mkv", "-map 3 -map 1 -c copy -disposition:v 0", 1),
    "a still after": ("mkv", "-map 1 -map 2 -c copy", 1),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", VIDEOS)
def test_the_picture_is_the_film_and_no_cover(tmp_path: Path, name: str) -> None:
    suffix, how, right = VIDEOS[name]
    made = [make(tmp_path / f"{gray}.mp4", np.full((64, 96, 3), gray, np.uint8), H264, 50) for gray in (40, 200)]
    made.append(make(tmp_path / "still.mov", np.full((64, 96, 3), 120, np.uint8), "-c:v png", 1))
    made.append(make(tmp_path / "slides.mov", np.full((64, 96, 3), 120, np.uint8), "-c:v png", 3))
    inputs = [word for path in made for word in ("-i", path)]
    film = tmp_path / f"a.{suffix}"
    ffmpeg(*inputs, *how.split(), film)
    info = probe(film)
    assert info.n_frames == 50
    assert abs(float(frame_of(info).mean()) - (40, 200)[right]) < 4
    assert len(info.said) == ("cover" not in name)


def _join(film: Path, parts: list[Path]) -> None:
    listed = film.with_name("list.txt")
    listed.write_text("".join(f"file '{part}'\n" for part in parts))
    ffmpeg("-f", "concat", "-safe", 0, "-i", listed, "-c", "copy", film)


def test_a_film_whose_size_changes_is_refused(tmp_path: Path) -> None:
    parts = [make(tmp_path / f"{width}.ts", picture(width, 64), H264, 20) for width in (96, 128)]
    _join(tmp_path / "a film's.ts", parts)
    with pytest.raises(StudyError, match="frame 20 of 128x64 pixels, expected 96x64 pixels") as error:
        probe(tmp_path / "a film's.ts")
    _do(error.value, tmp_path)
    assert probe(tmp_path / "OUT.mkv").width == WIDTH


# --- sound: the right track, all of its channels -------------------------------------------------------------------

TRACKS: dict[str, tuple[str, int]] = {
    # dispositions and titles of tracks of 440, 880 and 1760 Hz; which of them is the film's sound
    "second is default": ("-disposition:a:0 0 -disposition:a:1 default -disposition:a:2 0", 1),
    "third is default": ("-disposition:a:0 0 -disposition:a:1 0 -disposition:a:2 default", 2),
    "two are default": ("-disposition:a:0 0 -disposition:a:1 default -disposition:a:2 default", 1),
    "all are default": ("-disposition:a default", 0),
    "none is default": ("-disposition:a 0", 0),
    "commentary is default": ("-disposition:a:0 default+comment -disposition:a:1 default -disposition:a:2 0", 1),
    "commentary is the only default": ("-disposition:a:0 default+comment -disposition:a:1 0 -disposition:a:2 0", 1),
    "for the blind": ("-disposition:a:0 default+visual_impaired -disposition:a:1 0 -disposition:a:2 0", 1),
    "dub": ("-disposition:a:0 default+dub -disposition:a:1 0 -disposition:a:2 default", 2),
    "commentary by its title": ("-disposition:a default -metadata:s:a:0 title='Commentary by the director'", 1),
    "all are commentaries": ("-disposition:a comment", 0),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", TRACKS)
def test_the_sound_is_the_films_own(tmp_path: Path, source: Path, name: str) -> None:
    flags, right = TRACKS[name]
    tones = [word for hz in (440, 880, 1760) for word in ("-f", "lavfi", "-i", f"sine=frequency={hz}:d=6:r=48000")]
    film = tmp_path / "a.mkv"
    how = f"-map 0:v -map 1 -map 2 -map 3 -c:v copy -c:a flac {flags}"
    ffmpeg("-i", source.with_name("coded.mkv"), *tones, *shlex.split(how), film)
    info = probe(film)
    assert abs(tone_of(sound_of(info, 1, 5)) - 440 * 2**right) < 2
    assert info.tracks.choices == ({"sound": {"stream": right + 1}} if right else {})
    assert f"sound is stream {right + 1}" in info.said[0]


def test_the_default_of_mp4_is_the_track_that_is_enabled(tmp_path: Path, source: Path) -> None:
    tones = [word for hz in (440, 880) for word in ("-f", "lavfi", "-i", f"sine=frequency={hz}:d=6:r=48000")]
    how = f"-map 0:v -map 1 -map 2 {H264} -c:a aac -disposition:a:0 0 -disposition:a:1 default"
    ffmpeg("-i", source, *tones, *how.split(), tmp_path / "a.MP4")
    assert abs(tone_of(sound_of(probe(tmp_path / "a.MP4"), 1, 5)) - 880) < 2


CHANNELS = [
    *((n, codec, "mkv") for n in (1, 2, 6, 8) for codec in ("pcm_s16le", "flac", "aac", "libopus")),
    *((n, codec, "mkv") for n in (8, 10, 16, 24) for codec in ("pcm_s24le", "pcm_f32le")),
    (16, "pcm_s32be", "mov"),
    (8, "pcm_s16le", "mov"),
    (8, "aac", "mp4"),
    (8, "wavpack", "mkv"),
    (2, "pcm_u8", "avi"),
    (2, "pcm_u8", "mkv"),
    (6, "ac3", "avi"),
    (6, "eac3", "mkv"),
    (2, "mp2", "mpg"),
    (2, "wmav2", "wmv"),
    (2, "libvorbis", "ogv"),
    (2, "libmp3lame", "mkv"),
    (1, "pcm_mulaw", "mov"),
    (1, "adpcm_ms", "avi"),
]


def _with_channels(path: Path, source: Path, n: int, codec: str, layout: bool = True) -> np.ndarray:
    """A film whose channels hold tones of rising loudness in phase; returns how loud each is."""
    levels = np.linspace(0.2, 0.6, n)
    wave = np.sin(2 * np.pi * 100 * np.arange(6 * 48000) / 48000)[:, None] * levels
    raw = path.with_name("sound")
    raw.write_bytes(wave.astype("<f4").tobytes())
    picture = {".wmv": "-c:v wmv2", ".ogv": "-c:v libtheora", ".mpg": "-c:v mpeg2video", ".avi": "-c:v mpeg4"}.get(
        path.suffix, "-c:v copy"
    )
    guess = [] if layout else ["-guess_layout_max", 0]
    more = ["-strict", -2] + (["-mapping_family", 255] if codec == "libopus" and not layout else [])
    sound = ["-f", "f32le", "-ar", 48000, "-ac", n, "-i", raw]
    film = ["-i", source.with_name("coded.mkv") if "copy" in picture else source]
    ffmpeg(*film, *guess, *sound, *["-map", "0:v", "-map", "1:a"], *picture.split(), "-c:a", codec, *more, path)
    return levels


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("n", "codec", "suffix"), CHANNELS)
def test_sound_is_the_mean_of_all_channels(tmp_path: Path, source: Path, n: int, codec: str, suffix: str) -> None:
    levels = _with_channels(tmp_path / f"a.{suffix}", source, n, codec)
    _assert_mean(tmp_path / f"a.{suffix}", levels, 0.08 if codec in ("pcm_u8", "adpcm_ms") else 0.04)


@pytest.mark.parametrize(("n", "codec"), [(2, "pcm_s16le"), (6, "pcm_s16le"), (16, "pcm_s16le"), (12, "libopus")])
def test_channels_without_a_layout(tmp_path: Path, source: Path, n: int, codec: str) -> None:
    _assert_mean(tmp_path / "a.mkv", _with_channels(tmp_path / "a.mkv", source, n, codec, layout=False), 0.04)


def _assert_mean(film: Path, levels: np.ndarray, off: float) -> None:
    found = sound_of(probe(film), 1, 5)
    # An LFE channel of lossy codecs holds low tones only, and 100 Hz is one.
    assert abs(np.sqrt(2 * np.mean(found**2)) - levels.mean()) < off
    assert abs(tone_of(found) - 100) < 1


@pytest.mark.parametrize("rates", [(44100, 48000), (48000, 44100)])
def test_a_rate_that_changes_in_the_track(tmp_path: Path, source: Path, rates: tuple[int, int]) -> None:
    parts = []
    for number, rate in enumerate(rates):
        parts.append(tmp_path / f"{number}.ts")
        tone = f"-f lavfi -i sine=frequency=440:d=6:r={rate}"
        ffmpeg("-i", source, *shlex.split(f"{tone} -map 0:v -map 1 {H264} -bf 0 -c:a aac -ar {rate}"), parts[-1])
    _join(tmp_path / "a.ts", parts)
    sound = sound_of(probe(tmp_path / "a.ts"), 0, 11)
    for start_s in (1, 8):
        assert abs(tone_of(sound[start_s * RATE_HZ : (start_s + 2) * RATE_HZ]) - 440) < 2


@pytest.mark.one_in(3)
@pytest.mark.parametrize("offset_s", [-0.4, 0.4])
@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "aac"), ("mkv", "libopus"), ("mov", "pcm_s16le"), ("ts", "ac3")])
def test_sound_that_begins_before_or_after_the_picture(
    tmp_path: Path, source: Path, suffix: str, codec: str, offset_s: float
) -> None:
    film = tmp_path / f"a.{suffix}"
    sound = ["-itsoffset", offset_s, "-i", source]
    ffmpeg("-i", source, *sound, "-map", "0:v", "-map", "1:a", *H264.split(), "-c:a", codec, film)
    info = probe(film)
    assert number_of(frame_of(info, 17)) == 17
    assert abs(_burst_s(sound_of(info), near_s=2 + offset_s) - (2 + offset_s)) < 0.01


def _burst_s(sound: np.ndarray, near_s: float) -> float:
    """When the burst nearest to a time begins."""
    start = round((near_s - 0.3) * RATE_HZ)
    part = np.abs(sound[start : start + round(0.6 * RATE_HZ)])
    return (start + int(np.argmax(part > 0.2))) / RATE_HZ


# --- containers and codecs -----------------------------------------------------------------------------------------

KINDS = {
    "a.mp4": f"{H264} -c:a aac",
    "b.MP4": "-c:v libx265 -x265-params log-level=none -tag:v hvc1 -pix_fmt yuv420p -c:a aac",
    "c.mov": "-c:v prores_ks -c:a pcm_s24le",
    "d.MOV": "-c:v mjpeg -q:v 2 -pix_fmt yuvj420p -c:a pcm_s16be",
    "e.m4v": f"{H264} -c:a aac",
    "f.webm": "-c:v libvpx -b:v 2M -c:a libvorbis",
    "g.webm": "-c:v libvpx-vp9 -b:v 1M -pix_fmt yuv420p -c:a libopus",
    "h.mkv": "-c:v libsvtav1 -preset 10 -pix_fmt yuv420p -c:a libopus",
    "i.avi": "-c:v mpeg4 -q:v 2 -bf 2 -c:a libmp3lame",
    "j.avi": f"{H264} -bf 2 -c:a libmp3lame",
    "k.avi": "-c:v libxvid -q:v 2 -c:a ac3",
    "l.avi": "-c:v mjpeg -q:v 2 -pix_fmt yuvj420p -c:a pcm_s16le",
    "m.mpg": "-c:v mpeg2video -q:v 2 -bf 2 -c:a mp2",
    "n.mpg": "-c:v mpeg1video -q:v 2 -c:a mp2",
    "o.vob": "-c:v mpeg2video -q:v 2 -bf 2 -c:a ac3",
    "p.ts": f"{H264} -c:a aac",
    "q.ts": "-c:v mpeg2video -q:v 2 -bf 2 -c:a mp2",
    "r.m2ts": f"{H264} -c:a ac3",
    "s.wmv": "-c:v wmv2 -q:v 2 -c:a wmav2",
    "t.ogv": "-c:v libtheora -q:v 10 -pix_fmt yuv420p -c:a libvorbis",
    "u.flv": f"{H264} -c:a aac",
    "v.3gp": f"{H264} -c:a aac",
    "w.mxf": "-c:v mpeg2video -q:v 2 -pix_fmt yuv422p -c:a pcm_s16le",
    "x.mp4": f"{H264} -g 25 -c:a aac -movflags frag_keyframe+empty_moov",
    "y.mp4": f"{H264} -g 25 -c:a aac -movflags frag_keyframe+empty_moov+default_base_moof+global_sidx",
    "z.mp4": f"{H264} -bf 0 -g 25 -c:a aac -movflags cmaf",
    "aa.mov": f"{H264} -c:a alac -movflags faststart",
    "ab.mkv": "-c:v rawvideo -pix_fmt yuv420p -c:a flac",
    "ac.mkv": "-c:v huffyuv -pix_fmt rgb24 -c:a truehd -strict -2",
    "ad.mp4": f"{H264} -g 25 -movflags frag_every_frame+empty_moov+delay_moov -c:a aac",
    "ae.mkv": f"{H264} -x264-params interlaced=1 -c:a libmp3lame",
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", KINDS)
def test_containers_and_codecs(tmp_path: Path, source: Path, name: str) -> None:
    film = tmp_path / name
    ffmpeg("-i", source, *KINDS[name].split(), film)
    info = probe(film)
    # An encoder of AV1 and the writer of MXF count as they like at the end.
    assert (info.rate_hz, info.n_frames, info.width, info.height) == (25, 150, WIDTH, HEIGHT)
    wanted = [0, 1, 2, 77, 148, 149]
    assert [number_of(rgb) for _, rgb in sampled_frames(info, wanted)] == wanted
    sound = sound_of(info)
    for second in (1, 5):  # a frame of the picture is 0.04 s
        assert abs(_burst_s(sound, second) - second) < 0.045
    assert info.tracks.choices == {}


# --- files that were cut, tagged, joined ---------------------------------------------------------------------------

TAILS = {
    "ID3": b"TAG" + b"A title".ljust(30, b"\0") + b"\0" * 95,
    "APE": b"APETAGEX"
    + (2000).to_bytes(4, "little")
    + (32).to_bytes(4, "little")
    + b"\0" * 4
    + b"\0\0\0\x80"
    + b"\0" * 8,
    "zeros": b"\0" * 4096,
    "a zero": b"\0",
    "line end": b"\r\n",
    "noise": bytes(range(256)) * 8,
    "lyrics": b"LYRICSBEGIN" + b"IND00002" * 40 + b"000331LYRICS200",
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi", "webm", "wmv", "frag.mp4"])
@pytest.mark.parametrize("tail", TAILS)
def test_what_lies_behind_a_film_is_no_part_of_it(
    kinds: dict[str, bytes], tmp_path: Path, suffix: str, tail: str
) -> None:
    film = tmp_path / f"a.{suffix}"
    film.write_bytes(kinds[suffix] + TAILS[tail])
    assert probe(film).n_frames == 150


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory, source: Path) -> dict[str, bytes]:
    """Bytes of a film in containers of all kinds."""
    folder = tmp_path_factory.mktemp("kinds")
    frag = f"{H264} -g 25 -c:a aac -movflags frag_keyframe+empty_moov"
    ways = dict.fromkeys(("mp4", "mov", "mkv", "avi"), f"{H264} -c:a aac")
    ways |= {
        "webm": KINDS["f.webm"],
        "wmv": KINDS["s.wmv"],
        "frag.mp4": frag,
        "fast.mp4": f"{H264} -movflags faststart",
    }
    for suffix, how in ways.items():
        ffmpeg("-i", source, *how.split(), folder / f"a.{suffix}")
    return {suffix: (folder / f"a.{suffix}").read_bytes() for suffix in ways}


@pytest.mark.one_in(5)
@pytest.mark.parametrize("kept", [0.35, 0.7, 0.98])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi", "webm", "wmv", "frag.mp4", "fast.mp4"])
def test_what_is_truncated_is_refused(kinds: dict[str, bytes], tmp_path: Path, suffix: str, kept: float) -> None:
    film = tmp_path / f"a.{suffix}"
    film.write_bytes(kinds[suffix][: int(len(kinds[suffix]) * kept)])
    with pytest.raises(StudyError, match="truncated"):
        probe(film)


def test_a_title_in_no_known_encoding(kinds: dict[str, bytes], tmp_path: Path, source: Path) -> None:
    film = tmp_path / "a.avi"
    ffmpeg("-i", source, *H264.split(), "-metadata", "title=MARKE", film)
    film.write_bytes(film.read_bytes().replace(b"MARKE", b"M\xc4RKE"))
    assert probe(film).n_frames == 150


@pytest.mark.one_in(2)
@pytest.mark.parametrize("start_s", [0.5, 1.0, 3.32])
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_an_edit_list_hides_what_lies_before_a_cut(tmp_path: Path, source: Path, suffix: str, start_s: float) -> None:
    whole = tmp_path / "whole.mp4"
    ffmpeg("-i", source, *f"{H264} -g 600 -bf 2 -c:a aac".split(), whole)
    film = tmp_path / f"a.{suffix}"
    ffmpeg("-ss", start_s, "-i", whole, "-c", "copy", film)
    info = probe(film)
    first = round(start_s * 25 + 0.49)
    assert info.n_frames == 150 - first
    assert [number_of(rgb) for _, rgb in sampled_frames(info, [0, 1, 20])] == [first, first + 1, first + 20]
    assert abs(_burst_s(sound_of(info), 4 - start_s) - (4 - first / 25)) < 0.045


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mkv", "h264"), ("mp4", "h264"), ("ts", "h264"), ("mkv", "mpeg2"), ("mkv", "hevc")]
)
def test_a_cut_in_an_open_group_begins_at_the_first_frame_that_can_be_shown(
    tmp_path: Path, source: Path, suffix: str, codec: str
) -> None:
    how = {
        "h264": f"{H264} -x264-params open-gop=1:keyint=50:min-keyint=50:bframes=3:b-adapt=0:scenecut=0",
        "hevc": "-c:v libx265 -pix_fmt yuv420p -x265-params log-level=none:open-gop=1:keyint=50:bframes=3:scenecut=0",
        "mpeg2": "-c:v mpeg2video -q:v 2 -g 24 -bf 2",
    }[codec]
    whole = tmp_path / ("whole.ts" if suffix == "ts" else "whole.mkv")
    ffmpeg("-i", source, *how.split(), "-c:a", "aac", whole)
    film = tmp_path / f"a.{suffix}"
    ffmpeg("-ss", 3.2, "-i", whole, "-c", "copy", film)
    info = probe(film)
    numbers = [number_of(rgb) for _, rgb in sampled_frames(info, range(info.n_frames))]
    assert numbers == list(range(numbers[0], 150))
    assert abs(_burst_s(sound_of(info), 5 - numbers[0] / 25) - (5 - numbers[0] / 25)) < 0.045


@pytest.mark.parametrize("name", ["a.mp4", "my film's (1).MOV", "c.mkv", "d.webm"])
def test_a_variable_rate_is_refused_with_a_command_that_works(tmp_path: Path, source: Path, name: str) -> None:
    """As phones record: times that jitter, and frames that were left out."""
    film = tmp_path / name
    codec = KINDS["g.webm"] if name.endswith("webm") else f"{H264} -c:a aac"
    drop = "select='not(eq(mod(n,9),4))',setpts='PTS+0.004*sin(N)/TB'"
    ffmpeg("-i", source, "-vf", drop, "-vsync", "passthrough", "-enc_time_base", "1/1000", *codec.split(), film)
    with pytest.raises(
        StudyError, match="variable frame rate.*make it constant: ffmpeg -i .* -vf fps=25 -c:a copy OUT.mkv"
    ) as error:
        probe(film)
    _do(error.value, tmp_path)
    info = probe(tmp_path / "OUT.mkv")
    assert (info.rate_hz, info.has_sound) == (25, True)
    shown = dict(sampled_frames(info, [20, 90]))
    assert all(abs(number_of(rgb) - number) <= 1 for number, rgb in shown.items())


@pytest.mark.parametrize("damage", ["picture", "sound"])
def test_what_is_damaged_is_refused_before_hours_of_work(tmp_path: Path, source: Path, damage: str) -> None:
    film = tmp_path / "a.mkv"
    ffmpeg("-i", source, *f"{H264} -bf 0 -g 10 -c:a flac".split(), film)
    data = bytearray(film.read_bytes())
    kind = "video" if damage == "picture" else "audio"
    with av.open(str(film)) as container:
        stream = getattr(container.streams, kind)[0]
        payload = [bytes(packet) for packet in container.demux(stream) if packet.size][40]
    at = data.index(payload)
    data[at : at + len(payload)] = bytes(len(payload))
    film.write_bytes(data)
    with pytest.raises(
        StudyError, match=r"a.mkv at \d\.\d\d s: found .*or keep what is left of it: ffmpeg -i a.mkv"
    ) as error:
        probe(film)
    _do(error.value, tmp_path)
    assert probe(tmp_path / "OUT.mkv").rate_hz == 25


# --- colours -------------------------------------------------------------------------------------------------------

MATRICES = {
    "bt709": (0.2126, 0.0722),
    "smpte170m": (0.299, 0.114),
    "bt470bg": (0.299, 0.114),
    "bt2020nc": (0.2627, 0.0593),
    "smpte240m": (0.212, 0.087),
    "fcc": (0.30, 0.11),
}


def _planes(rgb: np.ndarray, kr: float, kb: float, full: bool, bits: int, step: tuple[int, int]) -> bytes:
    """Y, Cb and Cr by the definition of ITU-R BT.601 and those after it; chroma on every `step`th row and column."""
    red, green, blue = np.moveaxis(rgb / 255, -1, 0)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = [(blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)]
    scale = 2 ** (bits - 8)
    top = 2**bits - 1
    planes = [luma * (top if full else 219 * scale) + (0 if full else 16 * scale)]
    planes += [plane[:: step[0], :: step[1]] * (top if full else 224 * scale) + 128 * scale for plane in chroma]
    kind = np.uint8 if bits == 8 else "<u2"
    return b"".join(np.round(plane).clip(0, top).astype(kind).tobytes() for plane in planes)


def _coloured(
    path: Path,
    matrix: str,
    *,
    pixels: str = "yuv444p",
    full: bool = False,
    size: tuple[int, int] = (96, 64),
    tags: str = "",
) -> np.ndarray:
    """A lossless film of known colours, encoded by the definition of a matrix."""
    rgb = picture(*size)
    bits = 10 if "10" in pixels else 12 if "12" in pixels else 8
    step = {"420": (2, 2), "422": (1, 2), "444": (1, 1)}[pixels[3:6]]
    path.with_name("raw").write_bytes(_planes(rgb, *MATRICES[matrix], full, bits, step) * 5)
    raw = f"-f rawvideo -pix_fmt {pixels} -s {size[0]}x{size[1]} -r 25 -i {path.with_name('raw')} -c:v ffv1"
    ffmpeg(*raw.split(), *tags.split(), path)
    return rgb


@pytest.mark.one_in(5)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p12le"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_colours_are_those_of_the_tags(tmp_path: Path, matrix: str, pixels: str, full: bool) -> None:
    film = tmp_path / "a.mkv"
    tags = f"-colorspace {matrix} -color_range {'pc' if full else 'tv'}"
    rgb = _coloured(film, matrix, pixels=pixels, full=full, tags=tags)
    found = frame_of(probe(film))
    centres = np.s_[16::32, 24::48]
    assert np.abs(found[centres].astype(int) - rgb[centres]).max() <= 3


@pytest.mark.parametrize(
    ("size", "matrix", "colours"),
    [
        ((640, 360), "smpte170m", None),
        ((720, 576), "smpte170m", None),
        ((1280, 720), "bt709", None),
        ((1280, 536), "bt709", "BT.709"),
        ((960, 600), "bt709", "BT.709"),
    ],
)
def test_untagged_films_are_taken_as_players_take_them(
    tmp_path: Path, size: tuple[int, int], matrix: str, colours: str | None
) -> None:
    film = tmp_path / "a.mkv"
    rgb = _coloured(film, matrix, size=size)
    info = probe(film)
    assert np.abs(frame_of(info)[::50, ::50].astype(int) - rgb[::50, ::50]).max() <= 3
    assert info.tracks.choices.get("picture", {}).get("colours") == colours


@pytest.mark.parametrize(("trc", "name"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_hdr_is_said(tmp_path: Path, trc: str, name: str) -> None:
    film = tmp_path / "a.mkv"
    tags = f"-colorspace bt2020nc -color_primaries bt2020 -color_trc {trc} -color_range tv"
    _coloured(film, "bt2020nc", pixels="yuv420p10le", tags=tags)
    info = probe(film)
    assert info.tracks.choices == {"picture": {"colours": f"{name}, BT.2020"}}
    assert f"HDR ({name}, BT.2020) read as it is stored, without tone mapping" in info.said


@pytest.mark.parametrize("matrix", ["ycgco", "bt2020c", "ictcp"])
def test_colours_that_cannot_be_converted_are_refused(tmp_path: Path, matrix: str) -> None:
    film = tmp_path / "a.mkv"
    _coloured(film, "bt709", tags=f"-colorspace {matrix} -color_range tv")
    with pytest.raises(StudyError, match="colours that cannot be converted"):
        probe(film)


FORMATS = [
    ("rgb24", "ffv1", "mkv"),
    ("bgr0", "ffv1", "mkv"),
    ("gbrp10le", "ffv1", "mkv"),
    ("rgb48le", "ffv1", "mkv"),
    ("rgba", "png", "mov"),
    ("rgb24", "png", "mov"),
    ("rgb24", "libx264rgb -qp 0", "mp4"),
    ("yuva420p", "ffv1", "mkv"),
    ("yuva444p10le", "prores_ks -profile:v 4", "mov"),
    ("yuvj420p", "mjpeg -q:v 2", "avi"),
    ("nv12", "rawvideo", "avi"),
    ("uyvy422", "rawvideo", "mov"),
    ("rgb24", "huffyuv", "avi"),
    ("bgra", "qtrle", "mov"),
    ("yuv410p", "ffv1", "mkv"),
    ("yuv411p", "ffv1", "mkv"),
    ("yuv440p", "ffv1", "mkv"),
    ("yuv444p16le", "ffv1", "mkv"),
]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("pixels", "codec", "suffix"), FORMATS)
def test_formats_of_pixels(tmp_path: Path, pixels: str, codec: str, suffix: str) -> None:
    film = make(tmp_path / f"a.{suffix}", picture(), f"-pix_fmt {pixels} -c:v {codec}")
    info = probe(film)
    centres = np.s_[16::32, 24::48]
    assert np.abs(frame_of(info)[centres].astype(int) - picture()[centres]).max() <= 6
    assert ("transparency is not read" in info.said) == (pixels in ("rgba", "yuva420p", "yuva444p10le", "bgra"))


@pytest.mark.parametrize("pixels", ["gray", "gray10le", "gray16le"])
def test_gray_films(tmp_path: Path, pixels: str) -> None:
    film = make(tmp_path / "a.mkv", np.full((64, 96, 3), 120, np.uint8), f"-pix_fmt {pixels} -c:v ffv1")
    assert abs(float(frame_of(probe(film)).mean()) - 120) <= 2


def test_interlaced_films_are_named(tmp_path: Path) -> None:
    film = make(tmp_path / "a.mpg", picture(), "-c:v mpeg2video -q:v 2 -flags +ilme+ildct -top 1")
    assert probe(film).said == ("interlaced: both fields of a frame are read as one",)


# --- sound alone, pictures alone -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a.wav", "a.mp3", "a.flac", "a.m4a", "a.ogg", "a.mka", "with a cover.mp3", "a still.mp4"]
)
def test_sound_without_a_picture(tmp_path: Path, source: Path, name: str) -> None:
    still = make(tmp_path / "still.mov", picture(), "-c:v png", 1)
    film = tmp_path / name
    how = {
        "with a cover.mp3": "-i {} -map 0:a -map 1:v -c:v copy -disposition:v attached_pic",
        "a still.mp4": "-i {} -map 1:v -map 0:a -c:v copy",
    }
    words = how.get(name, "-map 0:a").replace("{}", str(still)).split()
    ffmpeg("-i", source, *words, film)
    info = probe(film)
    assert (info.n_frames, info.width, info.tracks.picture) == (0, 0, None)
    assert info.duration_s == pytest.approx(6, abs=0.08)
    assert abs(_burst_s(sound_of(info), 3) - 3) < 0.06
    with pytest.raises(StudyError, match="found no picture, expected one"):
        next(sampled_frames(info, [0]))


def test_a_file_of_neither_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nA line.\n")
    ffmpeg("-i", tmp_path / "a.srt", tmp_path / "a.mkv")
    with pytest.raises(StudyError, match="found no picture and no sound"):
        probe(tmp_path / "a.mkv")


# What FFmpeg opens under any name, and follows to other files or to the network.
LISTS = {
    "concat": "ffconcat version 1.0\nfile other.mkv\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nother.ts\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_other_files_is_no_film(tmp_path: Path, source: Path, name: str, suffix: str) -> None:
    (tmp_path / "other.mkv").write_bytes(source.read_bytes())
    path = tmp_path / f"list.{suffix}"
    path.write_text(LISTS[name])
    with pytest.raises(StudyError, match=r"list of other files|unreadable film"):
        probe(path)
