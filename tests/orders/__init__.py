"""Second example: orders, customers and payments of a shop. It shows that the platform needs no flights."""
