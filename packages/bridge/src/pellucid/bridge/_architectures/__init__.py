"""Which parts a model has, and how they fit together: records, and inference without one."""
