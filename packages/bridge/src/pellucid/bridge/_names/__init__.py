"""The activations of a model by name: the table, with shapes, meanings and places."""
