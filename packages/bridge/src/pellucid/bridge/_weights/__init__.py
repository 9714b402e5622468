"""Weights in the shapes that users know, and rewritten with no change to what is predicted."""
