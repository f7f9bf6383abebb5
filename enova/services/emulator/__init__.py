"""A process with vLLM's HTTP surface and metric names, timed by the replica model, without a GPU.

``process.run(argv)`` is the whole program. It says that it is an emulator in its banner, in
``/version`` and in its metrics.
"""
