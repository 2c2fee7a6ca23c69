"""What one forward pass without gradients says of every sample: losses, self-ratings, embeddings, states."""
