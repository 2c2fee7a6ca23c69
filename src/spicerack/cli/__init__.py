"""The `spicerack` command: one file a command, the options taken from the configuration's fields."""
