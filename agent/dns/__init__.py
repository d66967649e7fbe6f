"""The resolver that every task has at 127.0.0.11: names of its networks, and the way out for all others."""
