"""The search for a model's best parameters."""
