"""From a pool as the user has it to tokens and labels."""
