"""The documents agree with each other and with the tree."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sluice"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DECISIONS = sorted((ROOT / "docs" / "adr").glob("*.md"))
LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
CODE_PATH = re.compile(r"`((?:[\w-]+/)+[\w-]+\.(?:py|md|proto|svg|toml))`")


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_somewhere(page: Path) -> None:
    for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{shown(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_files_named_in_a_page_exist(page: Path) -> None:
    for target in CODE_PATH.findall(page.read_text(encoding="utf-8")):
        assert any((folder / target).exists() for folder in (ROOT, PACKAGE)), f"{shown(page)}: {target}"


def test_decisions_are_numbered_without_gaps() -> None:
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("page", DECISIONS, ids=shown)
def test_a_decision_says_context_choice_and_what_would_change_our_mind(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {page.name[:4]} ")
    for heading in ("## Context", "## Choice", "## What would change our mind"):
        assert heading in text
    assert text.count("\n") <= 60, "one page"


def test_every_package_is_explained_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    packages = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    assert [name for name in packages if f"`{name}`" not in text] == []


def test_the_readme_opens_with_the_picture_and_the_two_commands() -> None:
    opening = (ROOT / "README.md").read_text(encoding="utf-8")[:1200]
    assert "docs/images/platform.svg" in opening
    assert opening.index("platform.svg") < opening.index("make demo") < opening.index("make test")


def test_reference_pages_are_printed_from_the_code(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("print_reference", ROOT / "docs" / "print_reference.py")
    assert spec is not None
    assert spec.loader is not None
    printer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(printer)
    printer.main(tmp_path)
    for page in tmp_path.iterdir():
        stored = (ROOT / "docs" / "reference" / page.name).read_text(encoding="utf-8")
        assert stored == page.read_text(encoding="utf-8"), "run: python docs/print_reference.py"


def test_every_benchmark_is_explained() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    scripts = {
        path.name for path in (ROOT / "benchmarks").glob("*.py") if 'if __name__ == "__main__"' in path.read_text()
    }
    assert [name for name in sorted(scripts - {"run_all.py"}) if f"benchmarks/{name}`" not in text] == []


def test_the_changelog_keeps_a_place_for_the_next_release() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
