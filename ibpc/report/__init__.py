"""Output for people: tables, progress, figures, reports, and the demonstration."""
