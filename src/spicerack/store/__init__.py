"""The gradient store: unit rows and their table on disk, resumable to the shard, read by plain numpy."""
