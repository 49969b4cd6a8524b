"""How each way of writing computes its rows."""
