"""Facts: GPUs, models, engines, prices. Data files in ``data``, one lookup module for each."""
