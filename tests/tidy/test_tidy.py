"""The house rules a machine can hold, so that reviewers need not."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sluice"
CODE_FOLDERS = ("sluice", "tests", "benchmarks", "examples", "docs")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".proto", ".json", ".svg", ".txt", ".jinja", ".sh", ""}
LINES_PER_FILE_MAX = 400
LINES_PER_FUNCTION_MAX = 60
STDLIB_NAMES_ALLOWED = {"operator", "profile"}  # a package and a command of sluice; never top-level modules
VAGUE_NAMES = {"utils", "helpers", "common", "misc", "manager", "base"}
ENVIRONMENT_READERS = {"environ", "environb", "getenv"}
HOME_PATH = re.compile(r"(?<![\w.:/])/(?:home|Users|root|work|mnt)/\w|~/v" + "env")
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|NotImple" + "mentedError")


def code_files(*folders: str) -> list[Path]:
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if "gen" not in path.parts and "__pycache__" not in path.parts)


def text_files() -> Iterator[Path]:
    """Every file a person reads or a tool obeys; not caches, virtual environments or binaries."""
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.suffix in TEXT_SUFFIXES)
    for folder in (*CODE_FOLDERS, "charts", ".ci"):
        for path in (ROOT / folder).rglob("*"):
            is_ours = "gen" not in path.parts and "__pycache__" not in path.parts
            if is_ours and path.is_file() and path.suffix in TEXT_SUFFIXES:
                yield path


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


EVERY_FILE = code_files(*CODE_FOLDERS)
PACKAGE_FILES = code_files("sluice")


@pytest.fixture(params=EVERY_FILE, ids=shown)
def path(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture(params=PACKAGE_FILES, ids=shown)
def module(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_file_fits_in_one_sitting(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= LINES_PER_FILE_MAX, f"{shown(path)}: {lines} lines; it has two subjects"


def test_functions_fit_on_a_screen(path: Path) -> None:
    for node in functions(tree_of(path)):
        assert node.end_lineno is not None
        lines = node.end_lineno - node.lineno + 1
        assert lines <= LINES_PER_FUNCTION_MAX, f"{shown(path)}: {node.name} has {lines} lines"


def test_module_opens_with_its_purpose(path: Path) -> None:
    assert ast.get_docstring(tree_of(path)), f"{shown(path)}: say what it does, what it never does, what to read next"


def test_imports_stand_at_the_top(path: Path) -> None:
    for function in functions(tree_of(path)):
        deferred = [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not deferred, f"{shown(path)}: {function.name} imports inside"


def test_package_init_is_a_map_not_code(module: Path) -> None:
    if module.name == "__init__.py":
        assert len(tree_of(module).body) == 1, "an __init__ holds its docstring and nothing else"


def test_name_says_what_it_is(module: Path) -> None:
    name = module.parent.name if module.name == "__init__.py" else module.stem
    assert name not in VAGUE_NAMES
    assert name not in sys.stdlib_module_names - STDLIB_NAMES_ALLOWED - {"__main__"}


def test_environment_is_read_in_one_place(module: Path) -> None:
    nodes = ast.walk(tree_of(module))
    named = (
        n.attr if isinstance(n, ast.Attribute) else n.name for n in nodes if isinstance(n, ast.Attribute | ast.alias)
    )
    reads = [name for name in named if name in ENVIRONMENT_READERS]
    assert not reads or module == PACKAGE / "config" / "load.py"


def test_public_things_state_their_contract(module: Path) -> None:
    for node in tree_of(module).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node) or is_plain_noun(module, node), f"{shown(module)}: {node.name}"


def is_plain_noun(module: Path, node: ast.stmt) -> bool:
    """Nouns of the domain are documented by their fields."""
    return isinstance(node, ast.ClassDef) and module.is_relative_to(PACKAGE / "domain")


def test_tests_are_not_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_no_file_promises_work_or_names_a_persons_machine() -> None:
    found = []
    for path in text_files():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if HOME_PATH.search(line) or (path.suffix == ".py" and UNFINISHED.search(line)):
                found.append(f"{shown(path)}:{number}: {line.strip()[:80]}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("line", ["see /home" + "/ada/x", "path=/root" + "/y", 'open("/work' + '/main")'])
def test_a_persons_path_is_recognised(line: str) -> None:
    assert HOME_PATH.search(line)


@pytest.mark.parametrize("line", ["https://example.org/home/page", "/workers/metrics", "sluice/root/x"])
def test_other_paths_are_left_alone(line: str) -> None:
    assert not HOME_PATH.search(line)
