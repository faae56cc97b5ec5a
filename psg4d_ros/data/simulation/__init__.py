"""4D worlds with ground truth: furnished rooms, people who act in them, sensors that see it, relations with spans."""
