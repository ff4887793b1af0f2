"""Speed and memory: whole frames, stages, hosts and start-up, measured in turn in one run."""
