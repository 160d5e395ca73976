"""containerd's settings, its readiness and its images: what nodes and the image store have in common.

Next: `image_store.py`, `node.py`.
"""

from pathlib import Path

from kube.commands import CommandError, run
from kube.processes import wait_until

READY_S_MAX = 30.0
IMPORT_S_MAX = 300.0
PAUSE_IMAGE = "registry.local/pause:1"
KUBERNETES = "k8s.io"  # containerd's namespace of what the kubelet sees


def write_settings(path: Path, *, root: Path, state: Path, socket: Path, networks: Path, plugins: Path) -> None:
    """The daemon's settings file.

    `restrict_oom_score_adj`: without the capability to lower it, containers would not start.
    """
    text = f"""version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{networks}"
"""
    path.write_text(text, encoding="utf-8")


def wait_daemon(socket: Path) -> None:
    """Return when the daemon at `socket` answers. Raises TimeoutError."""

    def answers() -> bool:
        try:
            run(["ctr", "-a", socket, "version"], deadline_s=5)
        except CommandError:
            return False
        return True

    wait_until(answers, deadline_s=READY_S_MAX, what=f"containerd at {socket}")


def import_image(socket: Path, archive: Path) -> None:
    """Take an image archive into the daemon, unpacked."""
    run(["ctr", "-a", socket, "-n", KUBERNETES, "images", "import", archive], deadline_s=IMPORT_S_MAX)


def image_names(socket: Path) -> list[str]:
    """The images the daemon has."""
    return run(["ctr", "-a", socket, "-n", KUBERNETES, "images", "ls", "-q"]).split()


def remove_image(socket: Path, name: str) -> None:
    """Forget an image; what nothing else uses is deleted."""
    run(["ctr", "-a", socket, "-n", KUBERNETES, "images", "rm", "--sync", name])
