"""The method cards: their table, their runs, their pages."""
