"""What people look at: tables, progress, figures, and the demonstration."""
