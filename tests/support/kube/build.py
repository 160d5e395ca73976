"""Builds the five Kubernetes programs from Debian's source package, once per machine and set of versions.

Debian 12 has Kubernetes 1.20.2 as source only. It is built as it is but for two things. Its copy of
reflect2 (1.0.1) crashes the API server under Go 1.18 and later when a custom resource is created, so
Debian's own package of the mended one (1.0.2) takes its place. And its kubelet lets a deleted pod go only when
the collector of dead containers comes by, once a minute (later versions do not wait for it): here
it comes by every three seconds. About 11 minutes of one core.
Never starts what it has built. Next: `control_plane.py`, `node.py`.
"""

import os
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from kube import debian
from kube.commands import run
from kube.places import Places

PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
VERSION = "1.20.2"
REFLECT2 = "github.com/modern-go/reflect2"
BUILD_S_MAX = 3000.0
KUBELET = "pkg/kubelet/kubelet.go"
EVERY_MINUTE, OFTEN = "ContainerGCPeriod = time.Minute", "ContainerGCPeriod = 3 * time.Second"
OPENAPI_TAG = re.compile(r"\+k8s:openapi-gen=")
NOT_IN_OPENAPI = re.compile(r"/(?:sample-apiserver|code-generator|sample-controller)/|_examples|/testdata/")


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where the built programs are."""

    folder: Path

    def path(self, program: str) -> Path:
        return self.folder / program


def build(places: Places) -> Binaries:
    """The five programs and kubectl, from the cache or built now. Raises CommandError."""
    _fetch_sources(places.sources)
    source = next(places.sources.glob("kubernetes_*.dsc")).stem.removeprefix("kubernetes_")
    reflect2 = next(places.sources.glob("golang-github-modern-go-reflect2-dev_*.deb")).stem.split("_")[1]
    go = debian.version_of("golang-1.19-go")
    folder = places.root / f"kubernetes-{source}-go-{go}-reflect2-{reflect2}-collected-often"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        work = places.root / "build"
        shutil.rmtree(work, ignore_errors=True)
        _Build(places.sources, work, folder).run()
        shutil.rmtree(work)
        (folder / "done").touch()
    return Binaries(folder)


def _fetch_sources(folder: Path) -> None:
    if (folder / "done").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    debian.download(["golang-github-modern-go-reflect2-dev", "kubernetes-client"], folder)
    debian.download_source("kubernetes", folder)
    (folder / "done").touch()


class _Build:
    """One build: sources in, programs out."""

    def __init__(self, sources: Path, work: Path, out: Path) -> None:
        self._sources = sources
        self._work = work
        self._out = out
        self._tree = work / "gopath" / "src" / "k8s.io" / "kubernetes"
        self._environment = {
            **os.environ,
            "HOME": str(work),
            "PATH": f"{debian.GO.parent}:{os.environ['PATH']}",
            "GOPATH": str(work / "gopath"),
            "GOCACHE": str(work / "gocache"),
            "GO111MODULE": "off",
            "CGO_ENABLED": "0",
            "GOFLAGS": "",
        }

    def run(self) -> None:
        self._out.mkdir(parents=True)
        self._tree.parent.mkdir(parents=True)
        with tarfile.open(next(self._sources.glob("kubernetes_*.orig.tar.gz"))) as archive:
            archive.extractall(self._tree.parent, filter="tar")
        (self._tree.parent / f"kubernetes-{VERSION}").rename(self._tree)
        self._mend_reflect2()
        self._collect_often()
        self._generate_openapi()
        for program in PROGRAMS:
            self._go(
                "build", "-trimpath", "-ldflags", self._stamp(), "-o", str(self._out / program), f"./cmd/{program}"
            )
        client = next(self._sources.glob("kubernetes-client_*.deb"))
        debian.unpack(client, self._work / "client")
        shutil.copy2(self._work / "client" / "usr" / "bin" / "kubectl", self._out / "kubectl")

    def _go(self, *arguments: str) -> None:
        run([debian.GO, *arguments], deadline_s=BUILD_S_MAX, folder=self._tree, environment=self._environment)

    def _mend_reflect2(self) -> None:
        debian.unpack(next(self._sources.glob("golang-github-modern-go-reflect2-dev_*.deb")), self._work / "reflect2")
        mended = self._work / "reflect2" / "usr" / "share" / "gocode" / "src" / REFLECT2
        broken = self._tree / "vendor" / REFLECT2
        for path in [*broken.glob("*.go"), *broken.glob("*.s")]:
            path.unlink()
        for path in [*mended.glob("*.go"), *mended.glob("*.s")]:
            if not path.name.endswith("_test.go"):
                shutil.copy2(path, broken / path.name)

    def _collect_often(self) -> None:
        path = self._tree / KUBELET
        text = path.read_text(encoding="utf-8")
        assert text.count(EVERY_MINUTE) == 1, f"{KUBELET} is not what it was"
        path.write_text(text.replace(EVERY_MINUTE, OFTEN), encoding="utf-8")

    def _generate_openapi(self) -> None:
        """The API server's schema: the one generated file that the source package does not contain."""
        generator = self._work / "openapi-gen"
        self._go("build", "-o", str(generator), "./vendor/k8s.io/kube-openapi/cmd/openapi-gen")
        folders = ",".join(sorted(self._tagged_packages()))
        package = "k8s.io/kubernetes/pkg/generated/openapi"
        options = ["-O", "zz_generated.openapi", "-h", "hack/boilerplate/boilerplate.generatego.txt"]
        report = str(self._work / "violations")
        command = [str(generator), "-i", folders, "-p", package, *options, "-r", report]
        run(command, deadline_s=BUILD_S_MAX, folder=self._tree, environment=self._environment)

    def _tagged_packages(self) -> set[str]:
        found = set()
        staging = self._tree / "staging" / "src" / "k8s.io"
        for top in (self._tree / "pkg", self._tree / "cmd", self._tree / "plugin", *staging.iterdir()):
            for path in top.rglob("*.go"):
                shown = f"/{path.relative_to(self._tree)}"
                if path.name.endswith("_test.go") or NOT_IN_OPENAPI.search(shown):
                    continue
                if OPENAPI_TAG.search(path.read_text(encoding="utf-8", errors="replace")):
                    found.add(_import_path(path.parent.relative_to(self._tree)))
        return found

    def _stamp(self) -> str:
        facts = {"gitVersion": f"v{VERSION}", "gitMajor": "1", "gitMinor": "20", "gitTreeState": "archive"}
        facts |= {"gitCommit": "0", "buildDate": "2026-01-01T00:00:00Z"}
        vendor = "k8s.io/kubernetes/vendor/k8s.io"
        packages = (f"{vendor}/component-base/version", f"{vendor}/client-go/pkg/version")
        flags = [f"-X {package}.{name}={value}" for package in packages for name, value in facts.items()]
        return " ".join(["-s", "-w", *flags])


def _import_path(folder: Path) -> str:
    text = str(folder)
    if text.startswith("staging/src/"):
        return f"k8s.io/kubernetes/vendor/{text.removeprefix('staging/src/')}"
    return f"k8s.io/kubernetes/{text}"
