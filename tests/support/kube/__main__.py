"""`python -m kube up|down|build`: a cluster to try things on, with this source tree's images; up until Ctrl-C.

Next: `cluster.py`.
"""

import argparse
import signal
import sys
import time

from kube import cluster
from kube.commands import UnfitError
from kube.places import Places, cache_root

UNFIT = 77  # the exit status that test harnesses take for "skipped"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kube", description=__doc__)
    parser.add_argument("action", choices=("build", "up", "down"))
    parser.add_argument("--nodes", type=int, default=cluster.NODES, help="how many nodes (%(default)s)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    places = Places(cache_root())
    started_s = time.monotonic()
    if arguments.action == "down":
        cluster.remove_leftovers(places)
        print("nothing is left but the cache in", places.root)
        return
    try:
        prepared = cluster.prepare(places, nodes=arguments.nodes)
    except UnfitError as error:
        print(error, file=sys.stderr)
        sys.exit(UNFIT)
    print(f"built in {time.monotonic() - started_s:.1f} s: {prepared.images.control}, {prepared.images.worker}")
    if arguments.action == "up":
        started_s = time.monotonic()
        try:
            prepared.up()
            (places.run / cluster.KEPT_UP).touch()
            print(f"up in {time.monotonic() - started_s:.1f} s; Ctrl-C takes it down")
            print(f"export KUBECONFIG={prepared.kubeconfig}; {prepared.kubectl} get nodes", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            print("taking it down")
        finally:
            prepared.down()


if __name__ == "__main__":
    main()
