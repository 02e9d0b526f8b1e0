"""Pages of the site that lie elsewhere in the tree, the reference, and links between all of them.

Links keep the form that works in the repository; here they are turned into the site's, and a link to a file that the site does
not have becomes plain text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
    "objectives.md": "mri_fm/objectives/README.md",
}
RESULTS = sorted((ROOT / "benchmarks/results").glob("*.md"))
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#:\s]+)(#[^)]*)?\)")


def repository_path(page: str) -> str:
    """Where the source of a page of the site lies in the repository."""
    if page.startswith("results/"):
        return f"benchmarks/{page}"
    return ELSEWHERE.get(page, f"docs/{page}")


def site_path(path: str) -> str:
    """The page or picture of the site that a file of the repository becomes; "" if none."""
    for page, source in ELSEWHERE.items():
        if path == source:
            return page
    if path.startswith("benchmarks/results/"):
        return path.removeprefix("benchmarks/")
    return path.removeprefix("docs/") if path.startswith("docs/") and not path.endswith(".py") else ""


def reference_pages() -> dict[str, str]:
    """One page for each package of the library, with its modules."""
    modules: dict[str, list[str]] = {}
    for path in sorted((ROOT / "mri_fm").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if path.stem not in ("__init__", "__main__"):
            modules.setdefault(parts[1] if len(parts) > 2 else "top level", []).append(".".join(parts))
    return {
        f"reference/{package.replace(' ', '-')}.md": f"# {title(package)}\n\n" + "\n\n".join(f"::: {name}" for name in names)
        for package, names in modules.items()
    }


def title(package: str) -> str:
    """The heading of a page of the reference."""
    return "mri_fm" if package == "top level" else f"mri_fm.{package}"


def heading(page: str) -> str:
    """The first heading of a page of the site: what a link that only names its file is called there."""
    text = (ROOT / repository_path(page)).read_text()
    found = re.search(r"^# (.+)$", text, flags=re.M)
    return found[1].replace("`", "") if found else page


def on_config(config: Any) -> Any:
    """Complete `nav` with the pages that are made here."""
    config.nav += [{"Results": [f"results/{path.name}" for path in RESULTS]}, {"Reference": list(reference_pages())}]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    texts = {page: (ROOT / source).read_text() for page, source in ELSEWHERE.items()}
    texts |= {f"results/{path.name}": path.read_text() for path in RESULTS} | reference_pages()
    for page, text in texts.items():
        files.append(File.generated(config, page, content=text))
    for picture in (ROOT / "benchmarks/results").glob("*.png"):
        files.append(File.generated(config, f"results/{picture.name}", content=picture.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links of the repository into links of the site."""
    here = page.file.src_uri
    folder = os.path.dirname(repository_path(here))

    def rewrite(match: re.Match[str]) -> str:
        picture, words, target, anchor = match.groups()
        found = site_path(os.path.normpath(os.path.join(folder, target)))
        if not found:
            return words
        words = heading(found) if words == os.path.basename(target) else words
        return f"{picture}[{words}]({os.path.relpath(found, os.path.dirname(here) or '.')}{anchor or ''})"

    return LINK.sub(rewrite, markdown)
