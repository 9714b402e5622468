"""What was cached in a run, taken apart, summed up, and kept on disk."""
