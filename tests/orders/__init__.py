"""A second example: the orders, customers and payments of a shop. It proves that the platform knows nothing of flights."""
