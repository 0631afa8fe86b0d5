"""A Ray cluster of three nodes on this machine: head and two workers, each with processes of its own.

Prints the address and the pid of every node's raylet; ``stop`` on standard input ends the last node at
once, the end of input ends all.
"""

import json
import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # its word for: stay on 127.0.0.1

from ray.cluster_utils import Cluster

SIZE = {"num_cpus": 1, "object_store_memory": 80_000_000}
cluster = Cluster(initialize_head=True, head_node_args={**SIZE, "include_dashboard": False})
nodes = [cluster.head_node, *(cluster.add_node(wait=False, **SIZE) for _ in range(2))]
cluster.wait_for_nodes()
pids = [node.all_processes["raylet"][0].process.pid for node in nodes]
print(json.dumps({"address": cluster.address, "raylets": pids}), flush=True)
for line in sys.stdin:
    if line.strip() == "stop":
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        print("stopped", flush=True)
    elif line.strip() == "add":
        nodes.append(cluster.add_node(wait=True, **SIZE))
        print(nodes[-1].all_processes["raylet"][0].process.pid, flush=True)
cluster.shutdown()
