"""Is the subset worth it: methods by budgets by seeds, each selected, trained on and measured alike."""
