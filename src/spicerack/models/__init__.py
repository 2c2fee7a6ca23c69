"""The user's model: loaded, fingerprinted, and asked which of its parameters are tracked."""
