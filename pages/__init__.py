"""The documentation as pages for a browser, ``make docs``: the repository's Markdown files, and the API from the docstrings."""
