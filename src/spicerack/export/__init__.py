"""What a selection leaves on disk, for a trainer and for a person."""
