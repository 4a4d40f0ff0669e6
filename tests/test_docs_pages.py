"""Pages as readers use them: blocks run, links lead somewhere, options exist, and every page is found."""

from __future__ import annotations

import doctest
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser
from tests import warm
from tests.conftest import FILMS, REPOSITORY, Folder, dvc, made_once, shrink
from tests.lab import make_lab

from cinecube.cli import main
from cinecube.store.params.document import load_study
from cinecube.store.params.editing import edit_params

DOCS = REPOSITORY / "docs"
_BUILT = ("_build", "examples")
PAGES = {
    str(path.relative_to(REPOSITORY)): path
    for path in (REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md")))
    if path.relative_to(REPOSITORY).parts[1:2] not in [(name,) for name in _BUILT]
}

# Whose stages take minutes; tests/test_pipeline.py changes studies too, and tests/test_reuse_study.py reuses one.
LONG = ("docs/howto/grow-a-study.md", "docs/howto/own-features.md", "docs/tutorials/reuse.md")

# A comment before a block says why it is not run here; in README.md, which is read as it is, one of HTML.
_NOT_RUN = re.compile(r"^(?:%|<!--) not run: (.+?)(?: -->)?\n+\Z", re.MULTILINE)
REASONS = {
    *("needs a cluster", "needs a later version", "needs the clones"),
    *("needs the features", "needs the finished study", "needs the default study", "asks the model hub", "downloads"),
    *("fetches weights, and takes hours", "takes hours", "takes days", "publishes responses of single subjects"),
    *("names to fill in", "files of yours", "lines of start files"),
}
_ELSEWHERE = " runs it"  # after the file that does


def _reason(example: Example) -> str | None:
    """Why a block is not run."""
    found = _NOT_RUN.search(example.document.text[: example.start])
    return found and found[1]


# `doctor` asks that the environment's own command is found first, and not one whose processes begin warm.
_DOCTOR = """
cinecube() {
    if [[ $1 == doctor ]]; then PATH=${PATH#*:*:} command cinecube "$@"; else command cinecube "$@"; fi
}
"""


class _Shell:
    """Runs the blocks of a page in bash, in turn: the folder and exported variables go on from one to the next."""

    def __init__(self, environ: dict[str, str], state: Path) -> None:
        self._environ, self._state = environ, state

    def __call__(self, example: Example) -> None:
        script = f"{_DOCTOR}{example.parsed}\nenv -0 > {shlex.quote(str(self._state))}"
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{example.path}:{example.line}\n{example.parsed}\n{done.stdout[-5000:]}"
        self._environ = dict(line.split("=", 1) for line in self._state.read_text().split("\0") if line)
        os.chdir(self._environ["PWD"])


def _examples(page: Path, shell: _Shell | None = None) -> Iterable[Example]:
    """Blocks of bash and Python of a page; of those with prompts, each."""
    python = PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS)
    return Sybil(parsers=[python, CodeBlockParser("bash", shell or str)]).parse(page).examples()


@pytest.fixture(scope="session")
def documented(study: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The finished study as `cinecube init` and `dvc repro` leave it, with weights of one model, under Git."""

    def make(folder: Folder) -> None:
        folder.must("init", str(folder.root))
        edit_params(folder.root, shrink)
        edit_params(folder.root, lambda params: params.update(keep_weights=[{"model": "vit", "layer": "best"}]))
        for part in ("data", "results"):
            shutil.copytree(study.root / part, folder.root / part, dirs_exist_ok=True)
        for words in (("inputs",), ("privacy",), ("extract",), ("weights", "vit")):
            folder.must(*words)
        dvc(folder.root, "commit", "--force")
        # The branch that `home` has; here Git has nobody's settings yet.
        for words in (["add", "-A"], ["commit", "-qm", "The study"], ["branch", "-M", "main"]):
            subprocess.run(
                ["git", "-c", "user.name=a", "-c", "user.email=a@b.org", *words], cwd=folder.root, check=True
            )

    return made_once("documented", tmp_path_factory, make)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`films`, `fmriprep` and `atlas.nii.gz` of a lab."""
    return make_lab(tmp_path_factory.mktemp("lab"), FILMS, ["sub-01", "sub-02"])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of somebody whom Git knows, in whose environment cinecube is installed."""
    (tmp_path / ".gitconfig").write_text("[user]\nname = a\nemail = a@example.org\n[init]\ndefaultBranch = main\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    for folder in (Path(sys.executable).parent, warm.command("dvc").parent, warm.command().parent):
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return tmp_path


def _pages(in_a_study: bool) -> list[Any]:
    """Pages with blocks that run, a group each: those that start in the folder of a finished study, or the others."""
    starts = re.compile(r"\*\*[Ss]tarts from\*\* a (finished )?study")
    return [
        pytest.param(name, marks=[pytest.mark.xdist_group(name), *([pytest.mark.long] if name in LONG else [])])
        for name, page in PAGES.items()
        if bool(starts.search(page.read_text(encoding="utf-8"))) == in_a_study
        and any(_reason(example) is None for example in _examples(page))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("page", _pages(in_a_study=True))
def test_every_block_of_a_page_runs_in_a_study(
    page: str, home: Path, documented: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run_blocks(page, shutil.copytree(documented.root, home / "study", symlinks=True), home, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", _pages(in_a_study=False))
def test_every_block_of_a_page_runs_at_home(page: str, home: Path, lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run_blocks(page, shutil.copytree(lab, home, dirs_exist_ok=True), home, monkeypatch)


def _run_blocks(page: str, start: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(start)
    for example in _examples(PAGES[page], _Shell({**os.environ, "PWD": str(start)}, home / ".state")):
        if _reason(example) is None:
            example.evaluate()


def test_lines_that_grow_a_study_suit_what_init_writes(lab: Path, tmp_path: Path) -> None:
    """Of a film and of a subject, in a study of one's own and in the simulated one."""
    words = ("--template", "own", "--stimuli", str(lab / "films"), "--scans", str(lab / "fmriprep"), "--test", "dune")
    page = PAGES["docs/howto/grow-a-study.md"].read_text(encoding="utf-8")
    film, own, simulated = (
        re.findall(rf"^sed -i .*(?:{word}).*$", page, re.MULTILINE)
        for word in ("cedar", "sub-03", "subjects: 5|sub-05")
    )
    assert (len(film), len(own), len(simulated)) == (3, 1, 2)
    for folder, options, lines, subject in (
        (Folder(tmp_path / "own"), words, own, "sub-03"),
        (Folder(tmp_path / "simulated"), (), simulated, "sub-05"),
    ):
        folder.must("init", str(folder.root), *options)
        before = load_study(folder.root)
        for line in (*film, *lines):
            subprocess.run(["bash", "-ec", line], cwd=folder.root, check=True)
        study = load_study(folder.root)
        assert {*study.films} == {*before.films, "cedar"}
        assert {*study.split.train} == {*before.split.train, "cedar"}
        assert {*study.compute.films} == {*before.compute.films, "cedar"}
        assert study.brain.subjects == [*before.brain.subjects, subject]


def test_what_is_not_run_says_why() -> None:
    reasons = {reason for page in PAGES.values() for example in _examples(page) if (reason := _reason(example))}
    elsewhere = {reason.removesuffix(_ELSEWHERE) for reason in reasons if reason.endswith(_ELSEWHERE)}
    assert {reason for reason in reasons if not reason.endswith(_ELSEWHERE)} <= REASONS
    assert all((REPOSITORY / name).is_file() for name in elsewhere)


def _shown(text: str) -> Iterator[list[str]]:
    """Words behind each `cinecube` that is shown, in blocks and in sentences, with its command first."""
    shown = re.findall(r"^ *```bash\n(.*?)```|(?<!`)`(cinecube [^`]+)`", text, re.MULTILINE | re.DOTALL)
    for line in "\n".join(map("\n".join, shown)).splitlines():
        words = shlex.split(line.replace("'", ""), comments=True)
        for start in (place for place, word in enumerate(words) if word == "cinecube"):
            own = itertools.takewhile(lambda word: word not in ("|", "&&", ";", "source"), words[start + 1 :])
            if named := [word for word in own if word not in ("-q", "--quiet")]:
                yield named


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_options_exist(page: str) -> None:
    context = click.Context(main)
    for name, *words in _shown(PAGES[page].read_text(encoding="utf-8")):
        if not name.islower() or name.startswith("-"):  # COMMAND, or options of `cinecube` itself
            continue
        command = main.get_command(context, name.rstrip(",."))
        assert command, f"cinecube {name}"
        known = {option for one in command.get_params(click.Context(command)) for option in one.opts}
        asked = {word.partition("=")[0].rstrip(",.") for word in words if re.match("--?[a-z]", word)}
        assert asked <= known, f"cinecube {name} {' '.join(asked - known)}"


def _anchors(text: str) -> set[str]:
    """Headings as GitHub, and the site, link them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_links_lead_to_files_and_headings(page: str) -> None:
    path = REPOSITORY / page
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target.read_text(encoding="utf-8")), link


def test_every_page_is_in_a_list_of_contents() -> None:
    listed = {DOCS / "index.md"}
    for page in DOCS.rglob("*.md"):
        for names in re.findall(r"^```{toctree}\n(.*?)```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            own = [name for name in names.split() if not name.startswith(":")]
            listed |= {page.parent / f"{name}.md" for name in own}
            # Where no site is built, as on a forge, a reader has the links alone.
            assert page.parent == DOCS or all(f"]({name}.md)" in page.read_text(encoding="utf-8") for name in own), page
    assert set(PAGES.values()) - {REPOSITORY / "README.md"} - listed == set()
