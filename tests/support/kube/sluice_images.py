"""What Sluice's two images contain in the tests: a small Debian, the packages installed here, and this source tree.

Stands in for the Dockerfile where there is no registry: the same folders, user, paths and start commands. Packages
are copied from the environment that runs the tests, so that pods run exactly the versions that
the other tests have tried. Next: `image_store.py`, which keeps what is written here.
"""

import compileall
import hashlib
import importlib.metadata
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from kube import debian
from kube.archive import Layer, Settings, write_archive, write_layer
from kube.places import Places
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[3]
LIBRARY = "/opt/sluice/lib"
COMMANDS = "/opt/sluice/bin"
USER = "10001"
NOT_OURS = {"sluice"}  # its code is a layer of its own: small, and new with every change
EXTRAS = {"control": ("operator", "planner"), "worker": ("worker", "nixl")}
ENVIRONMENT = {
    "PATH": f"{COMMANDS}:/usr/local/bin:/usr/bin:/bin",
    "PYTHONPATH": LIBRARY,
    "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "HOME": "/tmp",
    "USER": "sluice",
}
SCRIPT = "#!/usr/bin/env python3\nimport sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"
SCRIPTS = {"sluice": ("sluice.cli.main", "main"), "kopf": ("kopf.cli", "main")}


def image_name(target: str, tag: str) -> str:
    return f"registry.local/sluice-{target}:{tag}"


def source_tag() -> str:
    """A short name of the source tree's content."""
    digest = hashlib.sha256()
    for path in source_files():
        digest.update(f"{path.relative_to(REPOSITORY)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def source_files() -> list[Path]:
    """The package's files, as an installation would have them."""
    found = (REPOSITORY / "sluice").rglob("*")
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def packages_of(extras: Iterable[str]) -> list[importlib.metadata.Distribution]:
    """Every package that `sluice[extras]` needs here, itself left out."""
    waiting = [("sluice", frozenset(extras))]
    seen: dict[str, frozenset[str]] = {}
    while waiting:
        name, wanted = waiting.pop()
        if name in seen and wanted <= seen[name]:
            continue
        seen[name] = wanted | seen.get(name, frozenset())
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if _applies(requirement, wanted):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    names = sorted(set(seen) - NOT_OURS)
    return [importlib.metadata.distribution(name) for name in names]


def packages_key(distributions: Iterable[importlib.metadata.Distribution]) -> str:
    """Changes when a package or a version does."""
    text = "\n".join(f"{one.name}=={one.version}" for one in distributions)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def base_layer(places: Places, target: Path) -> Layer:
    """Write the layer of the small Debian with Python, made by debootstrap once."""
    debian.base_system(places.base_system, packages=("python3", "ca-certificates"))
    return write_layer(target, {"/": places.base_system})


def packages_layer(distributions: Iterable[importlib.metadata.Distribution], target: Path) -> Layer:
    """Write the layer of installed packages."""
    content: dict[str, Path] = {}
    for distribution in distributions:
        for file in distribution.files or []:
            path = Path(str(distribution.locate_file(file)))
            if ".." not in file.parts and path.is_file():  # compiled files too: they are half of a worker's start
                content[f"{LIBRARY}/{file}"] = path
    return write_layer(target, content)


def source_layer(work: Path, target: Path) -> Layer:
    """Write the layer of this source tree, compiled, and its commands."""
    staged = work / "source"
    for path in source_files():
        copy = staged / path.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    compileall.compile_dir(staged, quiet=2, stripdir=str(staged))
    content = {f"{LIBRARY}/sluice": staged / "sluice"}
    for name, (module, function) in SCRIPTS.items():
        script = work / name
        script.write_text(SCRIPT.format(module=module, function=function), encoding="ascii")
        script.chmod(0o755)
        content[f"{COMMANDS}/{name}"] = script
    content["/usr/local/bin/python"] = _link(work / "python", "/usr/bin/python3")
    content["/opt/sluice/demo_model"] = _link(work / "demo_model", "lib/sluice/demo_model")
    return write_layer(target, content)


def write_image(work: Path, *, target: str, name: str, layers: Sequence[Layer]) -> Path:
    """Put one image together; returns the archive's path."""
    archive = work / f"{target}.tar"
    settings = Settings(entrypoint=("sluice",), environment=ENVIRONMENT, user=USER)
    write_archive(archive, name=name, layers=layers, settings=settings)
    return archive


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in extras or {""})


def _link(link: Path, target: str) -> Path:
    if not link.is_symlink():
        link.symlink_to(target)
    return link
