"""Contents of files of others: digests off keys of git-annex, and what was not fetched."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from cinecube.store.base.errors import StudyError
from cinecube.store.inputs.content import Digests, annex_key, is_here, refuse_unfetched

MD5 = "0123456789abcdef" * 2


def _annexed(path: Path, key: str, content: bytes | None = None) -> Path:
    """A link into git-annex, dangling unless there is content."""
    place = path.parent / ".git/annex/objects/aa/bb" / key / key
    if content is not None:
        place.parent.mkdir(parents=True)
        place.write_bytes(content)
    path.symlink_to(os.path.relpath(place, path.parent))
    return path


@pytest.mark.parametrize(
    ("key", "digest", "n_bytes"),
    [
        (f"MD5E-s1234--{MD5}.nii.gz", f"md5:{MD5}", 1234),
        (f"MD5-s7--{MD5}", f"md5:{MD5}", 7),
        (f"SHA256E-s1--{MD5}{MD5}.dtseries.nii", f"sha256:{MD5}{MD5}", 1),
        (f"MD5E-s9-S5-C2--{MD5}.mkv", f"md5:{MD5}", 9),
        ("URL-s12--https&c%%example.org%film.mkv", None, 12),
        ("WORM-s3-m1700000000--film.mkv", None, 3),
    ],
)
def test_a_key_says_digest_and_size_and_no_byte_is_read(
    tmp_path: Path, key: str, digest: str | None, n_bytes: int
) -> None:
    link = _annexed(tmp_path / "a.nii.gz", key)
    other = tmp_path / "elsewhere.nii.gz"
    other.symlink_to(link)  # a lab's own link to a clone's
    pointer = tmp_path / "b.nii.gz"
    pointer.write_text(f"/annex/objects/{key}\n")
    for path in (link, other, pointer):
        found = annex_key(path)
        assert found is not None
        assert (found.digest, found.n_bytes) == (digest, n_bytes)
        assert not is_here(path)
        if digest:
            assert Digests(tmp_path).of(path) == digest


def test_files_that_are_there_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "film.mkv"
    path.write_bytes(b"a film")
    wanted = f"md5:{hashlib.md5(b'a film').hexdigest()}"
    digests = Digests(tmp_path)
    assert digests.unread_bytes(path) == 6
    assert digests.of(path) == wanted
    digests.keep()
    again = Digests(tmp_path)
    assert again.unread_bytes(path) == 0
    with monkeypatch.context() as context:
        context.setattr("cinecube.store.inputs.content._md5", None)
        assert again.of(path) == wanted
    path.write_bytes(b"another")
    assert Digests(tmp_path).of(path) != wanted
    (tmp_path / ".cinecube/digests.json").write_text("{broken")
    assert Digests(tmp_path).of(path) == f"md5:{hashlib.md5(b'another').hexdigest()}"


def test_what_was_fetched_is_what_its_key_says(tmp_path: Path) -> None:
    """So a plain copy of the same file is the same input."""
    content = b"scan"
    link = _annexed(tmp_path / "a.nii.gz", f"MD5E-s4--{hashlib.md5(content).hexdigest()}.nii.gz", content)
    copy = tmp_path / "copy.nii.gz"
    copy.write_bytes(content)
    assert is_here(link)
    assert Digests(tmp_path).of(link) == Digests(tmp_path).of(copy)


def test_all_that_was_not_fetched_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    links = [_annexed(tmp_path / f"it's {n}.nii.gz", f"MD5E-s2000000000--{MD5}.{n}.nii.gz") for n in range(5)]
    with pytest.raises(
        StudyError, match=r"1: found 2 files that were not fetched \(4 GB\): it's 0.nii.gz, it's 1"
    ) as few:
        refuse_unfetched(links[:2], tmp_path, "1")
    assert few.value.do == """run `datalad get 'it'"'"'s 0.nii.gz' 'it'"'"'s 1.nii.gz'`"""
    with pytest.raises(StudyError, match=r"5 files that were not fetched \(10 GB\): .* and 2 more") as many:
        refuse_unfetched(links, tmp_path, "1")
    assert many.value.do == r"run `xargs -d '\n' datalad get < .cinecube/unfetched.txt`"
    assert (tmp_path / ".cinecube/unfetched.txt").read_text().splitlines() == [str(link) for link in links]
    dangling = tmp_path / "c.mkv"
    dangling.symlink_to("nowhere.mkv")
    with pytest.raises(StudyError, match="a file that was not fetched: c.mkv, .*; fetch it"):
        refuse_unfetched([dangling], tmp_path, "1")
