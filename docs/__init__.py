"""The documentation's own programs: the site's hooks, docstrings as Markdown, the method cards."""
