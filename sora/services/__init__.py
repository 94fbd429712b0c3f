"""What protocols, admin operations and the janitor have in common (floor 3)."""
