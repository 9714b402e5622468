"""What is asked of runs and caches: patching, attribution, lenses, directions, probes, pictures."""
