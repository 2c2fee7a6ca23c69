"""spicerack."""
