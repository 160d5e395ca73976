"""The Kubernetes operator: turns ModelServices into pods and keeps them true. Only it knows Kubernetes."""
