"""One file a verb: gather, decide, act. The public Python API; CLI and web only print it."""
