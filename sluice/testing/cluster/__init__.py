"""A Kubernetes cluster in memory: enough API server, controllers and workers to try the operator without one."""
