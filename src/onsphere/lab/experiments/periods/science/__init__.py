"""What the periods are measured by: set-ups, runs from their readings, and what training once more shows."""
