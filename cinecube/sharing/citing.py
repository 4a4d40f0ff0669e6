"""Citations: a CITATION.cff as one line of text and as BibTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import yaml

from cinecube.store.base.bounded import parse_yaml, read_text, yaml_fault
from cinecube.store.base.errors import StudyError

CITATION_FILE = "CITATION.cff"

# What TeX reads as more than itself.
_TEX = str.maketrans(
    {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {sign: f"\\{sign}" for sign in "&%$#_{}"}
)


@dataclass(frozen=True)
class Citation:
    """One thing to cite.

    Attributes
    ----------
    what : str
        For people: `this study`.
    text, bibtex : str
    """

    what: str
    text: str
    bibtex: str


def study_citation(root: Path) -> Citation | None:
    """Citation in the study's own CITATION.cff; its `preferred-citation` where it has one.

    Raises
    ------
    StudyError
        If the file cannot be read.
    """
    path = root / CITATION_FILE
    if not path.is_file():
        return None
    try:
        raw = parse_yaml(read_text(path))
    except (yaml.YAMLError, ValueError) as error:
        raise _broken(path, f"broken YAML ({yaml_fault(error)})") from None
    about = raw.get("preferred-citation", raw) if isinstance(raw, dict) else None
    if not isinstance(about, dict) or not about.get("title"):
        raise _broken(path, "no title")
    return _citation("this study", about)


def package_citation(version: str) -> Citation:
    """Citation of this package, in the version that made a study's cubes."""
    about = metadata("cinecube")
    return _citation(
        "cinecube, which made the cubes",
        {
            "title": about["Name"],
            "authors": [{"name": about["Author"]}],
            "version": version,
            "type": "software",
            "license": about["License-Expression"],
        },
    )


def _broken(path: Path, found: str) -> StudyError:
    return StudyError(
        where=path.name, found=found, expected="a citation file (citation-file-format.github.io)", do="correct it"
    )


def _citation(what: str, about: Mapping[str, Any]) -> Citation:
    authors, year = _authors(about), _year(about)
    version, doi = str(about.get("version") or ""), str(about.get("doi") or "")
    url = str(about.get("url") or about.get("repository-code") or about.get("repository") or "")
    venue, title = str(about.get("journal") or ""), str(about["title"])
    address = f"https://doi.org/{doi}" if doi else url
    names = ", ".join(f"{given} {family}".strip() for family, given in authors)
    parts = [
        " ".join(filter(None, (names, f"({year})" if year else ""))),
        title + (f" (version {version})" if version else ""),
        venue,
        str(about.get("license") or ""),
        address,
    ]
    text = ". ".join(part.rstrip(".") for part in parts if part) + ("" if address else ".")
    fields = {
        "author": " and ".join(_tex_name(*name) for name in authors),
        "title": f"{{{title.translate(_TEX)}}}",
        "journal": venue.translate(_TEX),
        "year": year,
        "version": version.translate(_TEX),
        "doi": _plain(doi),
        "url": _plain(url),
    }
    kind = "article" if venue else "misc" if about.get("type") == "dataset" else "software"
    lines = [f"  {name:8} = {{{value}}}," for name, value in fields.items() if value]
    return Citation(what, text, "\n".join([f"@{kind}{{{_key(authors, title, year)},", *lines, "}"]))


def _authors(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Family and given name of each author; an entity has its whole name as the first."""
    found = []
    for author in about.get("authors") or []:
        if isinstance(author, dict):
            family = " ".join(str(author[key]) for key in ("name-particle", "family-names") if author.get(key))
            found.append((family or str(author.get("name") or ""), str(author.get("given-names") or "")))
    return [name for name in found if name[0]]


def _tex_name(family: str, given: str) -> str:
    # Without braces, the words of an entity would be taken for first and last names.
    return f"{family.translate(_TEX)}, {given.translate(_TEX)}" if given else f"{{{family.translate(_TEX)}}}"


def _plain(text: str) -> str:
    """An address, which TeX takes as it is but for what would end the field."""
    return re.sub(r"[{}\\\s]", "", text)


def _year(about: Mapping[str, Any]) -> str:
    match = re.match(r"\d{4}", str(about.get("date-released") or about.get("year") or ""))
    return match.group() if match else ""


def _key(authors: list[tuple[str, str]], title: str, year: str) -> str:
    words = re.findall(r"[a-z0-9]+", f"{authors[0][0] if authors else ''} {title}".lower())
    return "_".join(dict.fromkeys([*words[:1], *re.findall(r"[a-z0-9]+", title.lower())[:1]])) + year
