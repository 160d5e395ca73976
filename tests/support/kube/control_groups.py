"""The control groups below which one node's pods live, on a machine with cgroup version 1.

The kubelet of Kubernetes 1.20 makes its pods' groups below a root of our choice; that root must
exist in every controller. Never touches any other group.
"""

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")
NODE_SHARES = 32 * 1024  # a group weighs as much as one process of the machine unless it is told that it is many
COPIED = ("cpuset.cpus", "cpuset.mems")  # a new cpuset group is empty until it is told what it may use


def problem() -> str | None:
    """Why nodes cannot run on this machine, or None."""
    missing = [name for name in CONTROLLERS if not (ROOT / name / "cgroup.procs").exists()]
    return f"needs cgroup version 1; missing under {ROOT}: {', '.join(missing)}" if missing else None


def group_name(node: str) -> str:
    return f"sluice-e2e-{node}"


def make_groups(node: str) -> None:
    """The node's root group in every controller."""
    for controller in CONTROLLERS:
        folder = ROOT / controller / group_name(node)
        folder.mkdir(exist_ok=True)
        if controller == "cpu":
            (folder / "cpu.shares").write_text(str(NODE_SHARES), encoding="ascii")
        if controller == "cpuset":
            for name in COPIED:
                (folder / name).write_text((ROOT / controller / name).read_text(encoding="ascii"), encoding="ascii")


def processes_of(node: str) -> list[int]:
    """Every process in the node's groups."""
    found: set[int] = set()
    for path in (ROOT / "pids" / group_name(node)).rglob("cgroup.procs"):
        found.update(int(pid) for pid in path.read_text(encoding="ascii").split())
    return sorted(found)


def processes_of_pod(node: str, uid: str) -> list[int]:
    """The processes of one pod's containers, without the pause process that holds its network."""
    found: set[int] = set()
    for path in (ROOT / "pids" / group_name(node)).rglob("cgroup.procs"):
        if f"pod{uid}" in path.parts:
            found.update(int(pid) for pid in path.read_text(encoding="ascii").split())
    return [pid for pid in sorted(found) if Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() != "pause"]


def remove_groups(node: str) -> None:
    """Remove the node's groups, children first. Raises OSError while a process is left in one."""
    for top in ROOT.glob(f"*/{group_name(node)}"):  # runc makes one in version 2's empty hierarchy, too
        folders = [top, *(path for path in top.rglob("*") if path.is_dir())]
        for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
            folder.rmdir()
