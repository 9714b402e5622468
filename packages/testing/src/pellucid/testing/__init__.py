"""pellucid.testing."""
